"""Drawing with a pipeline as it is: options, each seed's noise, progress, and every way to fail in words."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from pydantic import Field
from torch import Tensor

from realignkit.arguments import instance, listed, real, whole
from realignkit.contracts import Generator
from realignkit.contracts import Options as PluginOptions
from realignkit.errors import ModelError, OptionError, RealignKitError, memory_error, out_of_memory
from realignkit.machine import suited_threads
from realignkit.pipelines import encoding, families
from realignkit.pipelines.images import NotFiniteError, check_finite, finite_decoding, noise_sources, to_pil
from realignkit.pipelines.refusals import why_failed, why_not_drawn

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline
    from PIL.Image import Image

StepCallback = Callable[[int, int], None]
"""Called with (steps done, steps in all) after every sampling step."""

USUAL_GUIDANCE = 100.0
"""Above this, numbers that overflow are the guidance scale's doing."""


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
    progress: StepCallback | None = None,
) -> list[Image]:
    """Sample one image per prompt, each from its own seed.

    Args:
        pipeline: one of :data:`~realignkit.pipelines.families.SUPPORTED`; or anything else that is called like a
            text-to-image pipeline, whose images are then its own.
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
    if reason := why_not_drawn(pipeline):
        raise ModelError(reason)
    texts = check_prompts(pipeline, prompts, seeds)
    if not texts:
        return []
    wishes = sampling_wishes(num_inference_steps, guidance_scale, height, width, negative_prompt)
    with suited_threads(pipeline), families.alone(pipeline):
        if families.family_of(pipeline) is None:
            return _called_plainly(pipeline, texts, seeds, wishes, progress)
        arguments = sampling_arguments(pipeline, seeds, wishes)
        with drawing(pipeline, wishes.get("guidance_scale"), progress) as watching:
            with torch.no_grad():
                arguments = with_text(pipeline, arguments, *encoding.encode_texts(pipeline, texts))
            images = pipeline(**arguments, **watching, output_type="pt").images
        return to_pil(images)


def check_prompts(pipeline: Any, prompts: Sequence[str], seeds: Sequence[int]) -> list[str]:
    """The prompts, all of them texts that the pipeline reads in full, and a seed for each.

    Raises:
        PromptError: a prompt is empty or over the encoder's limit.
        OptionError: there are not as many seeds as prompts.
    """
    texts = listed("prompts", prompts)
    if len(listed("seeds", seeds)) != len(texts):
        raise OptionError("pass lists: one seed for each prompt.")
    for text in texts:
        encoding.check_prompt(pipeline, text)
    return texts


def sampling_wishes(
    num_inference_steps: int | None,
    guidance_scale: float | None,
    height: int | None,
    width: int | None,
    negative_prompt: str | None,
) -> dict[str, Any]:
    """The sampling options that were asked for, each of its kind.

    Raises:
        OptionError: one is of another kind.
    """
    counts = {"num_inference_steps": num_inference_steps, "height": height, "width": width}
    wishes: dict[str, Any] = {name: whole(name, wish) for name, wish in counts.items() if wish is not None}
    if guidance_scale is not None:
        wishes["guidance_scale"] = real("guidance_scale", guidance_scale)
    if negative_prompt is not None:
        wishes["negative_prompt"] = instance("negative_prompt", negative_prompt, str)
    return wishes


def sampling_arguments(pipeline: Any, seeds: Sequence[int], wishes: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a pipeline with a family, but for the text: its own defaults where nobody has a wish.

    Raises:
        OptionError: a number of steps, a size or a seed that the pipeline cannot take.
        ModelError: its scheduler cannot sample with it.
    """
    family = families.family_of(pipeline)
    assert family is not None  # checked by the callers
    default = families.call_parameters(pipeline)["num_inference_steps"].default
    steps, height, width = wishes.get("num_inference_steps", default), wishes.get("height"), wishes.get("width")
    most = int(getattr(pipeline.scheduler.config, "num_train_timesteps", 0))
    flows = family.joint is not None
    if not most or not (_flows(pipeline.scheduler) if flows else hasattr(pipeline.scheduler, "init_noise_sigma")):
        other = "FlowMatchEulerDiscreteScheduler" if flows else "DPMSolverMultistepScheduler"
        raise ModelError(
            f"a {type(pipeline).__name__} cannot sample with a {type(pipeline.scheduler).__name__}: give it another "
            f"scheduler, such as {other}."
        )
    if not 1 <= steps <= most:
        raise OptionError(f"num_inference_steps must be at least 1 and at most {most}, got {steps}.")
    if (height is None) != (width is None):  # of one alone some pipelines take no notice
        width, height = families.image_size(pipeline, width, height)
    families.check_size(pipeline, height, width)
    try:
        # A shift that depends on the size of the picture is the pipeline's to know; here any will do.
        shift = {"mu": 1.0} if pipeline.scheduler.config.get("use_dynamic_shifting") else {}
        pipeline.scheduler.set_timesteps(steps, **shift)
    except (ValueError, IndexError) as error:
        raise OptionError(
            f"{type(pipeline.scheduler).__name__} has no schedule of {steps} steps ({error}): "
            "give another num_inference_steps, or another scheduler."
        ) from error
    size = {} if height is None else {"height": height, "width": width}
    arguments = dict(family.sampling(pipeline, wishes))
    arguments |= {**size, "num_inference_steps": steps, **family.options, "generator": noise_sources(seeds)}
    if "negative_prompt" in arguments:
        # With embeddings given, pipelines take a list and repeat nothing.
        arguments["negative_prompt"] = [arguments["negative_prompt"]] * len(seeds)
    return arguments


def _flows(scheduler: Any) -> bool:
    return hasattr(scheduler, "scale_noise") or bool(scheduler.config.get("use_flow_sigmas"))


@torch.no_grad()
def with_text(pipeline: Any, arguments: Mapping[str, Any], embeddings: Tensor, extra: Tensor | None) -> dict[str, Any]:
    """A pipeline's arguments and, with them, those for texts that have been encoded.

    Args:
        pipeline: of a family.
        arguments: see :func:`sampling_arguments`.
        embeddings: see :func:`~realignkit.pipelines.encoding.encode_texts`, as for ``extra``.

    Raises:
        NotFiniteError: the text encoder computed NaN or infinity.
    """
    check_finite(embeddings, "in the text encoder")
    family = families.family_of(pipeline)
    if family is not None and family.with_text is not None:
        return dict(family.with_text(pipeline, arguments, embeddings, extra))
    name = families.text_extra(pipeline)
    return {**arguments, "prompt_embeds": embeddings} | ({} if name is None or extra is None else {name: extra})


def _called_plainly(
    pipeline: Any,
    prompts: Sequence[str],
    seeds: Sequence[int],
    wishes: Mapping[str, Any],
    progress: StepCallback | None = None,
) -> list[Image]:
    """One image (RGB) per prompt, the pipeline's own, each from the noise of its own seed.

    Args:
        pipeline: called with ``prompt``, ``generator`` (a list), ``output_type="np"`` and what is wished for.
        prompts: one text per image.
        seeds: one per image.
        wishes: sampling options that the pipeline is not to choose. Those that it does not know are an error.
        progress: called after each step, where the pipeline has a callback.

    Raises:
        ModelError: the pipeline failed or computed NaN.
        OptionError: it does not take one of the sampling options.
    """
    known = families.call_parameters(pipeline)
    arguments = dict(wishes)
    if unknown := sorted(arguments.keys() - known.keys()):
        raise OptionError(f"{type(pipeline).__name__} takes no {', '.join(unknown)}: leave it out.")
    if len({"height", "width"} & arguments.keys()) == 1:  # of one alone some pipelines take no notice
        with contextlib.suppress(OptionError):  # it states no size, and is left to choose
            sides = families.image_size(pipeline, arguments.get("width"), arguments.get("height"))
            arguments |= dict(zip(("width", "height"), sides, strict=True))
    if "negative_prompt" in arguments:
        arguments["negative_prompt"] = [arguments["negative_prompt"]] * len(prompts)
    arguments["generator"] = noise_sources(seeds)
    # As arrays: DeepFloyd-IF's tensors are not scaled to [0, 1], and a PIL image hides NaN.
    with drawing(pipeline, arguments.get("guidance_scale"), progress) as watching:
        images = pipeline(prompt=list(prompts), output_type="np", **arguments, **watching).images
        tensor = torch.as_tensor(images).float()
        check_finite(tensor, "in the image decoder")
    return to_pil(tensor.permute(0, 3, 1, 2))


@contextlib.contextmanager
def drawing(pipeline: Any, guidance_scale: float | None, progress: StepCallback | None) -> Iterator[dict[str, Any]]:
    """Say in words what goes wrong while a pipeline draws, from the encoding of its text on.

    Gives the arguments to call it with that watch over its steps. What ``progress`` raises is its caller's own, and
    passes.

    Raises:
        ModelError: memory does not suffice, the pipeline computed NaN or infinity, or it failed.
    """
    callers: list[Exception] = []

    def report(done: int, total: int) -> None:
        try:
            if progress is not None:
                progress(done, total)
        except Exception as error:
            callers.append(error)
            raise

    try:
        with finite_decoding(pipeline):
            yield step_callback(pipeline, report)
    except NotFiniteError as error:
        if guidance_scale is None or guidance_scale <= USUAL_GUIDANCE:
            raise
        raise ModelError(
            f"the model computed NaN or infinity {error.where}, with a guidance_scale of {guidance_scale:g}. "
            f"Lower it: 1 to 20 are usual."
        ) from None
    except RealignKitError:
        raise
    except Exception as error:
        if error in callers:
            raise
        if out_of_memory(error):
            raise memory_error("drawing", error) from error
        raise ModelError(why_failed(pipeline, error)) from error


def step_callback(runner: Any, progress: StepCallback) -> dict[str, Any]:
    """The pipeline's argument for a callback that checks each step's latents and reports progress."""

    def after_step(running: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        check_finite(tensors["latents"], f"after step {step + 1}")
        progress(step + 1, int(running.num_timesteps))
        return {}

    parameters = families.call_parameters(runner)
    if "callback_on_step_end" in parameters:
        return {"callback_on_step_end": after_step}
    if "callback" not in parameters:
        return {}

    def older(step: int, timestep: Any, latents: Tensor) -> None:  # PixArt and DeepFloyd-IF know the older form alone
        order = max(1, int(getattr(runner.scheduler, "order", 1)))
        steps = -(-len(runner.scheduler.timesteps) // order)
        after_step(_Counted(steps), step, timestep, {"latents": latents})

    return {"callback": older, "callback_steps": 1}


@dataclass(frozen=True)
class _Counted:
    num_timesteps: int


class GivenPipeline(Generator):
    """A pipeline as it is: on its device, with its attention, precision and scheduler.

    Raises:
        ModelError: it is no text-to-image pipeline, or a part of it is missing.
    """

    class Options(PluginOptions):
        """What goes on record."""

        model: str = Field("", description="where it was loaded from, as far as it knows")

    def __init__(self, pipeline: DiffusionPipeline) -> None:
        if reason := why_not_drawn(pipeline):
            raise ModelError(reason)
        super().__init__(model=str(getattr(getattr(pipeline, "config", None), "_name_or_path", "")))
        self._pipeline = pipeline

    @property
    def attention_family(self) -> str | None:  # type: ignore[override]
        """``"unet"``, ``"pixart"``, or None where attention cannot be modulated."""
        return families.attention_family(self._pipeline)

    def pipeline(self) -> DiffusionPipeline:
        """The pipeline."""
        return self._pipeline
