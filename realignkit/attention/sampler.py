"""Sampling: the coarse image of a prompt, and its refinement under modulated attention.

:func:`generate` and :func:`refine` draw the same initial noise for the same seed, whatever batch an image is in.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from realignkit.arguments import instance, listed, real, whole
from realignkit.attention.config import ModulationConfig
from realignkit.attention.drawing import Progress, check_finite, drawing
from realignkit.attention.effect import effect_notes
from realignkit.attention.processor import ModulatedAttention, modulate
from realignkit.attention.regions import regions_of
from realignkit.attention.schedule import running_schedule
from realignkit.contracts import parse_options
from realignkit.errors import ModelError, OptionError
from realignkit.images import to_rgb
from realignkit.machine import suited_threads
from realignkit.pipelines import encoding, families, phrases
from realignkit.pipelines.generate import generate_plainly, noise_sources, to_pil
from realignkit.pipelines.refusals import why_not_drawn, why_not_modulated
from realignkit.types import Layout

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True, eq=False)
class RefineResult:
    """What :func:`refine` made, one entry per prompt.

    Attributes:
        images: RGB.
        conditioning: the texts that the images were conditioned on.
        notes: per image, what was left out, or not modulated, and why.
    """

    images: list[Image]
    conditioning: list[str]
    notes: list[tuple[str, ...]]


def attention_family(pipeline: Any) -> str | None:
    """What can be modulated: ``"unet"`` (SD-1.x/2.x, SDXL), ``"pixart"`` (PixArt-alpha, PixArt-Sigma), else None."""
    family = families.family_of(pipeline)
    return None if family is None else family.name


def generate(
    pipeline: Any,
    prompts: Sequence[str],
    seeds: Sequence[int],
    *,
    num_inference_steps: int | None = None,
    guidance_scale: float | None = None,
    height: int | None = None,
    width: int | None = None,
    negative_prompt: str | None = None,
    progress: Progress | None = None,
) -> list[Image]:
    """Sample one image per prompt, each from its own seed.

    Args:
        pipeline: a ``StableDiffusionPipeline``, ``StableDiffusionXLPipeline``, ``PixArtAlphaPipeline`` or
            ``PixArtSigmaPipeline``; or anything else that is called like a text-to-image pipeline, whose images are
            then its own.
        prompts: one text per image.
        seeds: one per image, in [0, 2**64).
        num_inference_steps: None: the pipeline's default, as for the next three.
        guidance_scale: at most 1 switches classifier-free guidance off.
        height: in pixels.
        width: in pixels.
        negative_prompt: for all images.
        progress: called after each step.

    Returns:
        RGB images, in the prompts' order.

    Raises:
        ModelError: it is no text-to-image pipeline, or computed NaN.
        PromptError: a prompt is empty or over the encoder's limit.
        OptionError: there are not as many seeds as prompts, or a sampling option is out of range.
    """
    prompts = _checked(pipeline, prompts, seeds, plain=True)
    if not prompts:
        return []
    wishes = _wishes(num_inference_steps, guidance_scale, height, width, negative_prompt)
    if attention_family(pipeline) is None:
        with suited_threads(pipeline):
            return generate_plainly(pipeline, prompts, seeds, wishes, progress)
    sampling = _sampling(pipeline, wishes)
    plain = [phrases.Conditioning(prompt) for prompt in prompts]
    with suited_threads(pipeline):
        return _sample(pipeline, plain, seeds, sampling, progress=progress)[0]


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
    progress: Progress | None = None,
) -> RefineResult:
    """Re-sample images under attention modulated by their layouts (eqs. 7-10).

    Same seed, same initial noise as :func:`generate`; an image whose layout holds nothing that acts (no segment,
    or every score 0) is conditioned on its prompt alone and sampled without modulation.

    Args:
        pipeline: see :func:`generate`, as are ``prompts``, ``seeds`` and the sampling options.
        layouts: one per prompt.
        config: how to modulate; None: the method's defaults.
        coarse: the images to start from; needed, and used, only with ``config.strength``.
        num_inference_steps: of the full schedule, also with ``strength``, which skips its beginning.

    Raises:
        ModelError: the pipeline's attention cannot be modulated, or it computed NaN.
        PromptError: see :func:`generate`; or a local caption is empty.
        OptionError: numbers of prompts, layouts, seeds and coarse images differ; ``strength`` without ``coarse``,
            or so small that no step is left, or with PixArt, which has no image-to-image pipeline.
    """
    config = parse_options(ModulationConfig, config, owner="modulation")
    prompts, layouts = _checked(pipeline, prompts, seeds), listed("layouts", layouts)
    for layout in layouts:
        instance("layouts", layout, Layout)
    coarse = None if coarse is None else listed("coarse images", coarse)
    if len(layouts) != len(prompts):
        raise OptionError(f"{len(prompts)} prompts need as many layouts, got {len(layouts)}.")
    if config.strength is not None and (coarse is None or len(coarse) != len(prompts)):
        raise OptionError("strength starts from the coarse images: pass coarse, one image per prompt.")
    if not prompts:
        return RefineResult([], [], [])
    wishes = _wishes(num_inference_steps, guidance_scale, height, width, negative_prompt)
    sampling = _sampling(pipeline, wishes)
    if config.strength is not None:
        _check_strength(pipeline, config.strength, sampling["num_inference_steps"])
    conditionings = [
        phrases.condition(pipeline, prompt, layout, append=config.append_missing, separator=config.separator)
        for prompt, layout in zip(prompts, layouts, strict=True)
    ]
    with suited_threads(pipeline):
        images, state = _sample(
            pipeline,
            conditionings,
            seeds,
            sampling,
            config=config,
            coarse=coarse if config.strength is not None else None,
            progress=progress,
        )
    assert state is not None  # there is a config
    effects = [effect_notes(state, index, item) for index, item in enumerate(conditionings)]
    notes = [item.notes + effect for item, effect in zip(conditionings, effects, strict=True)]
    return RefineResult(images, [item.text for item in conditionings], notes)


def _checked(pipeline: Any, prompts: Sequence[str], seeds: Sequence[int], *, plain: bool = False) -> list[str]:
    """The prompts, all of them texts that the pipeline reads in full."""
    if reason := why_not_drawn(pipeline) if plain else why_not_modulated(pipeline):
        raise ModelError(reason)
    texts = listed("prompts", prompts)
    if len(listed("seeds", seeds)) != len(texts):
        raise OptionError("pass lists: one seed for each prompt.")
    for text in texts:
        encoding.check_prompt(pipeline, text)
    return texts


def _wishes(
    num_inference_steps: int | None,
    guidance_scale: float | None,
    height: int | None,
    width: int | None,
    negative_prompt: str | None,
) -> dict[str, Any]:
    """The sampling options that were asked for, each of its kind."""
    counts = {"num_inference_steps": num_inference_steps, "height": height, "width": width}
    wishes: dict[str, Any] = {name: whole(name, wish) for name, wish in counts.items() if wish is not None}
    if guidance_scale is not None:
        wishes["guidance_scale"] = real("guidance_scale", guidance_scale)
    if negative_prompt is not None:
        wishes["negative_prompt"] = instance("negative_prompt", negative_prompt, str)
    return wishes


def _sampling(pipeline: Any, wishes: dict[str, Any]) -> dict[str, Any]:
    """The pipeline's keyword arguments, its own defaults where the caller has no wish."""
    default = inspect.signature(type(pipeline).__call__).parameters["num_inference_steps"].default
    steps, height, width = wishes.get("num_inference_steps", default), wishes.get("height"), wishes.get("width")
    most = int(pipeline.scheduler.config.num_train_timesteps)
    if not 1 <= steps <= most:
        raise OptionError(f"num_inference_steps must be at least 1 and at most {most}, got {steps}.")
    if (height is None) != (width is None):  # of one alone some pipelines take no notice
        width, height = families.image_size(pipeline, width, height)
    check_size(pipeline, height, width)
    if not hasattr(pipeline.scheduler, "init_noise_sigma"):
        raise ModelError(
            f"a {type(pipeline).__name__} cannot sample with a {type(pipeline.scheduler).__name__}: give it another "
            "scheduler, such as DPMSolverMultistepScheduler."
        )
    try:
        pipeline.scheduler.set_timesteps(steps)
    except (ValueError, IndexError) as error:
        raise OptionError(
            f"{type(pipeline.scheduler).__name__} has no schedule of {steps} steps ({error}): "
            "give another num_inference_steps, or another scheduler."
        ) from error
    size = {} if height is None else {"height": height, "width": width}
    return {**wishes, **size, "num_inference_steps": steps}


def _check_strength(pipeline: Any, strength: float, num_inference_steps: int) -> None:
    if attention_family(pipeline) == families.PIXART:
        raise OptionError("PixArt has no image-to-image pipeline: leave strength out, it then starts from pure noise.")
    if not hasattr(pipeline.scheduler, "add_noise"):
        raise ModelError(f"a {type(pipeline.scheduler).__name__} cannot start from an image: leave strength out.")
    if int(num_inference_steps * strength) < 1:
        raise OptionError(f"strength {strength} of {num_inference_steps} steps leaves none: raise either.")


def check_size(pipeline: Any, height: int | None, width: int | None) -> None:
    """Refuse sizes in pixels that the pipeline's networks cannot draw; None, its own, is fine.

    Raises:
        OptionError: they are no multiples of its unit.
    """
    family = families.family_of(pipeline)
    unit = 8 * (family.patch if family is not None else 1)
    if any(size is not None and (size < unit or size % unit) for size in (height, width)):
        raise OptionError(f"height and width must be multiples of {unit}, got {height} x {width}.")


def _sample(
    pipeline: Any,
    conditionings: Sequence[phrases.Conditioning],
    seeds: Sequence[int],
    sampling: dict[str, Any],
    *,
    config: ModulationConfig | None = None,
    coarse: Sequence[Image] | None = None,
    progress: Progress | None = None,
) -> tuple[list[Image], ModulatedAttention | None]:
    family = families.family_of(pipeline)
    assert family is not None  # checked by the callers
    arguments = {**sampling, **family.options}
    if "negative_prompt" in arguments:
        # With embeddings given, pipelines take a list and repeat nothing.
        arguments["negative_prompt"] = [arguments["negative_prompt"]] * len(seeds)
    arguments["generator"] = noise_sources(seeds)
    strength = config.strength if coarse is not None and config is not None else None
    runner = pipeline if strength is None else _from_image(pipeline)

    state = None
    with drawing(runner, arguments.get("guidance_scale"), progress) as watching, ExitStack() as during:
        embeddings, companion = phrases.encode(
            pipeline, conditionings, isolate_phrases=config is not None and config.isolate_phrases
        )
        check_finite(embeddings, "in the text encoder")
        arguments["prompt_embeds"] = embeddings
        if companion is not None:
            arguments[families.companion(pipeline) or ""] = companion
        if coarse is not None and strength is not None:
            size = (arguments.pop("height", None), arguments.pop("width", None))
            arguments |= {"image": _encode_images(pipeline, coarse, size), "strength": strength}
        if config is not None:
            regions = [regions_of(pipeline, item) for item in conditionings]
            schedule = running_schedule(runner, arguments["num_inference_steps"], strength, config.time_scale)
            state = during.enter_context(modulate(families.denoiser(pipeline), regions, config, timesteps=schedule))
        images = runner(**arguments, **watching, output_type="pt").images
    if runner is not pipeline:  # offloaded components wait for the pipeline that put them off to be done
        pipeline.maybe_free_model_hooks()
    return to_pil(images), state


def _from_image(pipeline: Any) -> Any:
    """The image-to-image pipeline of the same components (nothing is loaded or copied)."""
    import diffusers

    xl = families.is_a(pipeline, "StableDiffusionXLPipeline")
    cls: Any = diffusers.StableDiffusionXLImg2ImgPipeline if xl else diffusers.StableDiffusionImg2ImgPipeline
    # What it takes, not all there is: a class of the user's may have more. Unwrapped, as its constructor asks for the
    # truth value of components, which compiled ones do not have.
    wanted = inspect.signature(cls.__init__).parameters
    given = {name: pipeline.config[name] for name in wanted if name in pipeline.config}
    parts = {name: families.unwrapped(part) for name, part in vars(pipeline).items() if name in wanted}
    if xl:
        parts["add_watermarker"] = getattr(pipeline, "watermark", None) is not None
    out = cls(**{**given, **parts})
    out.set_progress_bar_config(**getattr(pipeline, "_progress_bar_config", {}))
    return out


@torch.no_grad()
def _encode_images(pipeline: Any, images: Sequence[Image], size: tuple[int | None, int | None]) -> Tensor:
    """Latents (B, 4, h, w) of RGB images: the posterior's mode, so that the seed's first noise is the coarse one."""
    vae = pipeline.vae
    pixels = pipeline.image_processor.preprocess([to_rgb(image) for image in images], *size)
    # As in the pipelines: a VAE that overflows in float16 is run in float32.
    dtype = vae.dtype
    upcast = dtype == torch.float16 and bool(getattr(vae.config, "force_upcast", False))
    if upcast:
        vae.to(torch.float32)
    encoded = vae.encode(pixels.to(pipeline._execution_device, vae.dtype))
    # AutoencoderTiny's are no distribution.
    latents: Tensor = encoded.latent_dist.mode() if hasattr(encoded, "latent_dist") else encoded.latents
    if upcast:
        vae.to(dtype)
    config = vae.config
    mean, std = getattr(config, "latents_mean", None), getattr(config, "latents_std", None)
    if mean is not None and std is not None:
        shape = (1, -1, 1, 1)
        latents = (latents - latents.new_tensor(mean).view(shape)) / latents.new_tensor(std).view(shape)
    latents = (latents * config.scaling_factor).to(dtype)
    check_finite(latents, "in the image encoder")
    return latents
