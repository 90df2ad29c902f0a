"""Refinement: images sampled again under modulated attention, with notes for what was asked for and could not act."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import Tensor

from realignkit.arguments import instance, listed
from realignkit.attention.config import ModulationConfig, TimeScale
from realignkit.attention.heatmaps import recording
from realignkit.attention.modulation import Schedule
from realignkit.attention.processor import modulate
from realignkit.attention.regions import RegionMaps, regions_of, smaller_wins
from realignkit.attention.state import ModulatedAttention
from realignkit.contracts import parse_options
from realignkit.errors import ModelError, OptionError
from realignkit.heatmap import Heat
from realignkit.machine import suited_threads
from realignkit.pipelines import families, phrases
from realignkit.pipelines.generate import (
    StepCallback,
    check_prompts,
    drawing,
    sampling_arguments,
    sampling_wishes,
    with_text,
)
from realignkit.pipelines.images import encode_images, latent_channels, to_pil
from realignkit.pipelines.refusals import why_not_modulated
from realignkit.types import Layout

if TYPE_CHECKING:
    from PIL.Image import Image

NEGLIGIBLE = 0.01
"""Amounts ``a = lambda_t * S * (1 - B)`` below this share of a row's range change next to nothing."""


@dataclass(frozen=True, eq=False)
class RefineResult:
    """What :func:`refine` made, one entry per prompt.

    Attributes:
        images: RGB.
        conditioning: the texts that the images were conditioned on.
        notes: per image, what was left out, or not modulated, and why.
        heat_maps: per image: word -> where the network attended to it, float32 (h, w) at the size of the latents.
    """

    images: list[Image]
    conditioning: list[str]
    notes: list[tuple[str, ...]]
    heat_maps: list[dict[str, Heat]] = field(default_factory=list)


def refine(
    pipeline: Any,
    prompts: Sequence[str],
    layouts: Sequence[Layout],
    seeds: Sequence[int],
    config: ModulationConfig | None = None,
    *,
    coarse: Sequence[Image] | None = None,
    num_inference_steps: int | None = None,
    guidance_scale: float | None = None,
    height: int | None = None,
    width: int | None = None,
    negative_prompt: str | None = None,
    heat_maps: Sequence[str] = (),
    progress: StepCallback | None = None,
) -> RefineResult:
    """Re-sample images under attention modulated by their layouts (eqs. 7-10).

    Same seed, same initial noise as :func:`~realignkit.pipelines.generate.generate`, whatever batch an image is in. An
    image whose layout holds nothing that acts (no segment, or every score 0) is conditioned on its prompt alone and
    sampled without modulation.

    Args:
        pipeline: see :func:`~realignkit.pipelines.generate.generate`, as are ``prompts``, ``seeds`` and the sampling
            options.
        layouts: one per prompt.
        config: how to modulate; None: the method's defaults.
        coarse: the images to start from; needed, and used, only with ``config.strength``.
        num_inference_steps: of the full schedule, also with ``strength``, which skips its beginning.
        heat_maps: words; see :func:`~realignkit.attention.heatmaps.recording`. The text that an image is conditioned on
            counts, appended local captions included.

    Raises:
        ModelError: the pipeline's attention cannot be modulated, or it computed NaN.
        PromptError: a prompt is empty or over the encoder's limit; or a local caption is empty.
        OptionError: numbers of prompts, layouts, seeds and coarse images differ; ``strength`` without ``coarse``,
            or so small that no step is left, or with PixArt or FLUX.2, which have no image-to-image pipeline.
    """
    config = parse_options(ModulationConfig, config, owner="modulation")
    if reason := why_not_modulated(pipeline):
        raise ModelError(reason)
    texts, layouts = check_prompts(pipeline, prompts, seeds), listed("layouts", layouts)
    for layout in layouts:
        instance("layouts", layout, Layout)
    coarse = None if coarse is None else listed("coarse images", coarse)
    if len(layouts) != len(texts):
        raise OptionError(f"{len(texts)} prompts need as many layouts, got {len(layouts)}.")
    if config.strength is None:
        coarse = None
    elif coarse is None or len(coarse) != len(texts):
        raise OptionError("strength starts from the coarse images: pass coarse, one image per prompt.")
    if not texts:
        return RefineResult([], [], [])
    wishes = sampling_wishes(num_inference_steps, guidance_scale, height, width, negative_prompt)
    with suited_threads(pipeline), families.alone(pipeline):
        arguments = sampling_arguments(pipeline, seeds, wishes)
        if config.strength is not None:
            _check_strength(pipeline, config.strength, arguments["num_inference_steps"])
        conditionings = [
            phrases.condition(pipeline, prompt, layout, append=config.append_missing, separator=config.separator)
            for prompt, layout in zip(texts, layouts, strict=True)
        ]
        with recording(pipeline, heat_maps, [item.text for item in conditionings]) as recorder:
            images, state = _sample(pipeline, conditionings, config, coarse, arguments, progress)
    effects = [effect_notes(state, index, item) for index, item in enumerate(conditionings)]
    notes = [item.notes + effect for item, effect in zip(conditionings, effects, strict=True)]
    return RefineResult(images, [item.text for item in conditionings], notes, recorder.maps())


def _sample(
    pipeline: Any,
    conditionings: Sequence[phrases.Conditioning],
    config: ModulationConfig,
    coarse: Sequence[Image] | None,
    arguments: dict[str, Any],
    progress: StepCallback | None,
) -> tuple[list[Image], ModulatedAttention]:
    """Images, and what the modulation of their sampling came to. ``arguments``: of the pipeline, but for the text."""
    runner, flows = (pipeline if coarse is None else _from_image(pipeline)), families.is_joint(pipeline)
    with drawing(runner, arguments.get("guidance_scale"), progress) as watching:
        encoded = phrases.encode(pipeline, conditionings, isolate_phrases=config.isolate_phrases)
        arguments = with_text(pipeline, arguments, *encoded)
        if coarse is not None:
            size = (arguments.pop("height", None), arguments.pop("width", None))
            latents = encode_images(pipeline, coarse, *size)
            arguments |= {"image": latents, "strength": config.strength}
            if flows:  # whose pipelines would draw another size than the picture's
                scale = pipeline.vae_scale_factor
                arguments |= {"height": latents.shape[-2] * scale, "width": latents.shape[-1] * scale}
        regions = [regions_of(pipeline, item, encoded[0].shape[1]) for item in conditionings]
        asked = (runner, arguments["num_inference_steps"], config.strength, config.time_scale)
        # Those of flow matching may depend on the size of the picture, which the pipeline sees to.
        schedule = partial(current_schedule, *asked) if flows else running_schedule(*asked)
        with modulate(families.denoiser(pipeline), regions, config, timesteps=schedule) as state:
            images = runner(**arguments, **watching, output_type="pt").images
    if runner is not pipeline:  # offloaded components wait for the pipeline that put them off to be done
        pipeline.maybe_free_model_hooks()
    return to_pil(images), state


def running_schedule(
    runner: Any, num_inference_steps: int, strength: float | None = None, time_scale: TimeScale = "start"
) -> Schedule:
    """What a diffusers pipeline is going to call its network with.

    Args:
        runner: the pipeline; with ``strength`` an image-to-image one.
        num_inference_steps: of the full schedule.
        strength: as for the pipeline; None: everything runs.
        time_scale: see :class:`~realignkit.attention.config.ModulationConfig`.
    """
    runner.scheduler.set_timesteps(num_inference_steps)
    return current_schedule(runner, num_inference_steps, strength, time_scale)


def current_schedule(
    runner: Any, num_inference_steps: int, strength: float | None = None, time_scale: TimeScale = "start"
) -> Schedule:
    """:func:`running_schedule` of a pipeline whose scheduler has been set."""
    scheduler = runner.scheduler
    timesteps = scheduler.timesteps
    if strength is not None:
        timesteps, _ = runner.get_timesteps(num_inference_steps, strength, runner._execution_device)
    train = int(scheduler.config.num_train_timesteps)
    plain = Schedule.of_timesteps(timesteps, train)
    relative = strength is not None and time_scale == "start"
    start = plain.level(float(plain.timesteps[0])) if relative else 1.0
    return Schedule(plain.timesteps, _steps(scheduler, len(plain.timesteps)), train, plain.logarithmic, start)


def _steps(scheduler: Any, calls: int) -> tuple[int, ...]:
    if not hasattr(scheduler, "plms_timesteps"):
        order = max(1, int(getattr(scheduler, "order", 1)))
        return tuple(call // order for call in range(calls))
    # PNDM: its Runge-Kutta steps take four calls each; without them the first linear multistep takes two.
    warm = [call // 4 for call in range(len(scheduler.prk_timesteps))] or [0, 0]
    return tuple((warm + [warm[-1] + 1 + call for call in range(calls)])[:calls])


def _check_strength(pipeline: Any, strength: float, num_inference_steps: int) -> None:
    family = families.family_of(pipeline)
    if family is not None and family.joint is not None and family.joint.image_to_image is None:
        raise OptionError(
            f"a {type(pipeline).__name__} has no image-to-image pipeline beside it: leave strength out, it then starts "
            "from pure noise."
        )
    if families.attention_family(pipeline) == families.PIXART:
        raise OptionError("PixArt has no image-to-image pipeline: leave strength out, it then starts from pure noise.")
    if not (hasattr(pipeline.scheduler, "add_noise") or hasattr(pipeline.scheduler, "scale_noise")):
        raise ModelError(f"a {type(pipeline.scheduler).__name__} cannot start from an image: leave strength out.")
    if int(num_inference_steps * strength) < 1:
        raise OptionError(f"strength {strength} of {num_inference_steps} steps leaves none: raise either.")


def _from_image(pipeline: Any) -> Any:
    """The image-to-image pipeline of the same components (nothing is loaded or copied)."""
    import diffusers

    family, xl = families.family_of(pipeline), families.is_a(pipeline, "StableDiffusionXLPipeline")
    assert family is not None  # checked by the caller
    name = family.joint.image_to_image if family.joint else f"StableDiffusion{'XL' if xl else ''}Img2ImgPipeline"
    cls: Any = getattr(diffusers, str(name))
    # What it takes, not all there is: a class of the user's may have more. Unwrapped, as its constructor asks for the
    # truth value of components, which compiled ones do not have.
    wanted = inspect.signature(cls.__init__).parameters
    given = {name: pipeline.config[name] for name in wanted if name in pipeline.config}
    parts = {name: families.unwrapped(part) for name, part in vars(pipeline).items() if name in wanted}
    if xl:
        parts["add_watermarker"] = getattr(pipeline, "watermark", None) is not None
    out = cls(**{**given, **parts})
    if family.joint:  # that of Z-Image takes latents of 16 channels for pictures
        out.image_processor.register_to_config(vae_latent_channels=latent_channels(pipeline.vae))
    out.set_progress_bar_config(**getattr(pipeline, "_progress_bar_config", {}))
    return out


def effect_notes(state: ModulatedAttention, index: int, conditioning: phrases.Conditioning) -> tuple[str, ...]:
    """Why nothing of an image was modulated, or which of its objects were not; empty if all of them were.

    Args:
        state: as the sampling left it.
        index: place of the image in the batch, one image per prompt.
        conditioning: the image's text and segments.
    """
    if why := _why_nothing(state, index):
        return (f"attention was not modulated: {why}",)
    suppress = state.config.suppress_unlikely
    acting = [
        i
        for i, (segment, span) in enumerate(zip(conditioning.segments, conditioning.spans, strict=True))
        if segment.caption.score > 0 or (suppress and span is not None)
    ]
    reasons = {i: _why_lost(state, index, i) for i in acting}
    lost = [
        f"'{conditioning.segments[i].caption.caption}' is not modulated: {why}" for i, why in reasons.items() if why
    ]
    if len(lost) == len(acting):
        lost.append("attention was not modulated in any object: see the notes on each")
    return tuple(lost)


def _why_nothing(state: ModulatedAttention, index: int) -> str | None:
    config, regions = state.config, state.regions[index]
    suppresses = config.suppress_unlikely and regions.suppresses
    if not regions.lifts and not suppresses:
        return "no segment of its layout is certain or possible and named by the text"
    if config.share <= 0:
        return "modulation.share is 0, so no step is; 0.3 is the first 30 % of them"
    if config.cross_weight <= 0 and (max(state.weights) <= 0 or not regions.lifts):
        return "modulation.cross_weight and modulation.self_weight are 0; the method's are 1 and 0.3"
    strongest = _strongest(state)
    if strongest < NEGLIGIBLE:
        return (
            f"lambda_t is at most {strongest:.1g} in the steps that are modulated; lower modulation.power, or with "
            "strength set modulation.time_scale=start"
        )
    return None


def _strongest(state: ModulatedAttention) -> float:
    assert isinstance(state.schedule, Schedule)  # the sampler knows what runs
    calls = zip(state.schedule.timesteps.tolist(), state.schedule.steps, strict=True)
    return max(
        (state.faded(t, weight) for t, step in calls if state.modulates(step) for weight in state.weights),
        default=0.0,
    )


def _why_lost(state: ModulatedAttention, index: int, item: int) -> str | None:
    maps = [layer for layer in state.layers if layer.cells[index, :, item].any()]
    if not maps:
        masks = state.regions[index].masks.bool().cpu()
        if state.config.overlap == "smaller" and not smaller_wins(masks)[item].any():
            return "smaller masks cover all of its own; modulation.overlap=union gives it what they share"
        return "no cell of attention is left of its mask; use modulation.mask_resize=area, or a larger mask"
    if max(_amount(layer, index, item, state) for layer in maps) < NEGLIGIBLE:
        return (
            "its mask covers the image, and modulation.size_term=area pushes the less the larger a mask is; "
            "lower size_weight, use size_term=none, or a smaller mask"
        )
    return None


def _amount(layer: RegionMaps, index: int, item: int, state: ModulatedAttention) -> float:
    score = float(state.regions[index].scores[item]) or 1.0  # what is suppressed has no part of S
    if state.config.size_term != "area":
        return score * _strongest(state)
    inside: Tensor = layer.cells[index, :, item]
    size = 1 - state.config.size_weight * layer.area[index, inside]
    return score * _strongest(state) * float(size.abs().max())
