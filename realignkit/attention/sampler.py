"""Sampling: the coarse image of a prompt, and its refinement under modulated attention.

:func:`generate` and :func:`refine` draw the same initial noise for the same seed, whatever batch an image is in.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from realignkit.attention import spans
from realignkit.attention.config import ModulationConfig
from realignkit.attention.processor import modulate
from realignkit.errors import ModelError, OptionError
from realignkit.types import Layout

if TYPE_CHECKING:
    from PIL.Image import Image

Progress = Callable[[int, int], None]
"""Called with (steps done, steps in all) after every sampling step."""


@dataclass(frozen=True, eq=False)
class RefineResult:
    """What :func:`refine` made, one entry per prompt.

    Attributes:
        images: RGB.
        conditioning: the texts that the images were conditioned on.
        notes: per image, what was left out and why.
    """

    images: list[Image]
    conditioning: list[str]
    notes: list[tuple[str, ...]]


def attention_family(pipeline: Any) -> str | None:
    """``"unet"`` if the fine stage can modulate this pipeline (SD-1.x/2.x, SDXL text-to-image), else None."""
    import diffusers

    known = (diffusers.StableDiffusionPipeline, diffusers.StableDiffusionXLPipeline)
    unet = getattr(pipeline, "unet", None)
    return "unet" if isinstance(pipeline, known) and isinstance(unet, diffusers.UNet2DConditionModel) else None


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
        pipeline: a ``StableDiffusionPipeline`` or ``StableDiffusionXLPipeline``.
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
        ModelError: the pipeline is of another family, or computed NaN.
        PromptError: a prompt is empty or over the encoder's limit.
        OptionError: there are not as many seeds as prompts, or a sampling option is out of range.
    """
    _check(pipeline, prompts, seeds)
    if not prompts:
        return []
    sampling = _sampling(pipeline, num_inference_steps, guidance_scale, height, width, negative_prompt)
    plain = [spans.Conditioning(prompt) for prompt in prompts]
    return _sample(pipeline, plain, seeds, sampling, progress=progress)


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
        prompts: see there.
        layouts: one per prompt.
        seeds: see there.
        config: how to modulate; None: the method's defaults.
        coarse: the images to start from; needed, and used, only with ``config.strength``.
        num_inference_steps: of the full schedule, also with ``strength``, which skips its beginning.
        guidance_scale: see there.
        height: see there.
        width: see there.
        negative_prompt: see there.
        progress: see there.

    Raises:
        ModelError: see :func:`generate`.
        PromptError: see :func:`generate`; or a local caption is empty.
        OptionError: numbers of prompts, layouts, seeds and coarse images differ; ``strength`` without ``coarse``,
            or so small that no step is left.
    """
    config = config or ModulationConfig()
    _check(pipeline, prompts, seeds)
    if len(layouts) != len(prompts):
        raise OptionError(f"{len(prompts)} prompts need as many layouts, got {len(layouts)}.")
    if config.strength is not None and (coarse is None or len(coarse) != len(prompts)):
        raise OptionError("strength starts from the coarse images: pass coarse, one image per prompt.")
    if not prompts:
        return RefineResult([], [], [])
    sampling = _sampling(pipeline, num_inference_steps, guidance_scale, height, width, negative_prompt)
    conditionings = [
        spans.condition(pipeline, prompt, layout, append=config.append_missing, separator=config.separator)
        for prompt, layout in zip(prompts, layouts, strict=True)
    ]
    images = _sample(
        pipeline,
        conditionings,
        seeds,
        sampling,
        config=config,
        coarse=coarse if config.strength is not None else None,
        progress=progress,
    )
    return RefineResult(images, [item.text for item in conditionings], [item.notes for item in conditionings])


def _check(pipeline: Any, prompts: Sequence[str], seeds: Sequence[int]) -> None:
    if attention_family(pipeline) is None:
        raise ModelError(
            f"{type(pipeline).__name__} has no attention that can be modulated. "
            "Use a StableDiffusionPipeline or StableDiffusionXLPipeline."
        )
    if isinstance(prompts, str) or len(seeds) != len(prompts):
        raise OptionError("pass lists: one seed for each prompt.")
    for prompt in prompts:
        spans.check_prompt(pipeline, prompt)


def _sampling(
    pipeline: Any,
    num_inference_steps: int | None,
    guidance_scale: float | None,
    height: int | None,
    width: int | None,
    negative_prompt: str | None,
) -> dict[str, Any]:
    """The pipeline's keyword arguments, its own defaults where the caller has no wish."""
    default = inspect.signature(type(pipeline).__call__).parameters["num_inference_steps"].default
    steps = default if num_inference_steps is None else num_inference_steps
    most = int(pipeline.scheduler.config.num_train_timesteps)
    if not 1 <= steps <= most:
        raise OptionError(f"num_inference_steps must be at least 1 and at most {most}, got {steps}.")
    if any(size is not None and (size < 8 or size % 8) for size in (height, width)):
        raise OptionError(f"height and width must be multiples of 8, got {height} x {width}.")
    wishes = {
        "guidance_scale": guidance_scale,
        "height": height,
        "width": width,
        "negative_prompt": negative_prompt,
    }
    return {"num_inference_steps": steps, **{name: wish for name, wish in wishes.items() if wish is not None}}


def _sample(
    pipeline: Any,
    conditionings: Sequence[spans.Conditioning],
    seeds: Sequence[int],
    sampling: dict[str, Any],
    *,
    config: ModulationConfig | None = None,
    coarse: Sequence[Image] | None = None,
    progress: Progress | None = None,
) -> list[Image]:
    arguments = dict(sampling)
    embeddings, pooled = spans.encode(
        pipeline, conditionings, isolate_phrases=config is not None and config.isolate_phrases
    )
    arguments["prompt_embeds"] = embeddings
    if pooled is not None:
        arguments["pooled_prompt_embeds"] = pooled
    if "negative_prompt" in arguments:
        # With embeddings given, pipelines take a list and repeat nothing.
        arguments["negative_prompt"] = [arguments["negative_prompt"]] * len(seeds)
    # On the CPU, one per image: noise that depends neither on the device nor on the rest of the batch.
    arguments["generator"] = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]

    runner = pipeline
    if coarse is not None and config is not None:
        size = (arguments.pop("height", None), arguments.pop("width", None))
        runner = _from_image(pipeline)
        arguments["image"] = _encode_images(pipeline, coarse, size)
        arguments["strength"] = config.strength
        if int(arguments["num_inference_steps"] * (config.strength or 1)) < 1:
            raise OptionError(
                f"strength {config.strength} of {arguments['num_inference_steps']} steps leaves none: raise either."
            )

    def after_step(running: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        if not torch.isfinite(tensors["latents"]).all():
            raise _broken(f"after step {step + 1}")
        if progress is not None:
            progress(step + 1, int(running.num_timesteps))
        return {}

    modulation: AbstractContextManager[Any] = nullcontext()
    if config is not None:
        pipeline.scheduler.set_timesteps(arguments["num_inference_steps"])
        modulation = modulate(
            pipeline.unet,
            [spans.regions(pipeline, item) for item in conditionings],
            config,
            timesteps=pipeline.scheduler.timesteps,
            train_timesteps=int(pipeline.scheduler.config.num_train_timesteps),
        )
    with modulation:
        images = runner(**arguments, output_type="pt", callback_on_step_end=after_step).images
    if not torch.isfinite(images).all():
        raise _broken("in the image decoder")
    return _to_pil(images)


def _broken(where: str) -> ModelError:
    return ModelError(
        f"the model computed NaN or infinity {where}. Load it in float32 or bfloat16; if it is, its checkpoint is "
        "damaged: download or train it again."
    )


def _to_pil(images: Tensor) -> list[Image]:
    from PIL import Image

    array = (images.float().clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(item) for item in array]


def _from_image(pipeline: Any) -> Any:
    """The image-to-image pipeline of the same components (nothing is loaded or copied)."""
    import diffusers

    if isinstance(pipeline, diffusers.StableDiffusionXLPipeline):
        keep = {"force_zeros_for_empty_prompt": pipeline.config.force_zeros_for_empty_prompt}
        out = diffusers.StableDiffusionXLImg2ImgPipeline(**pipeline.components, **keep)
    else:
        keep = {"requires_safety_checker": pipeline.config.requires_safety_checker}
        out = diffusers.StableDiffusionImg2ImgPipeline(**pipeline.components, **keep)
    out.set_progress_bar_config(**getattr(pipeline, "_progress_bar_config", {}))
    return out


@torch.no_grad()
def _encode_images(pipeline: Any, images: Sequence[Image], size: tuple[int | None, int | None]) -> Tensor:
    """Latents (B, 4, h, w) of RGB images: the posterior's mode, so that the seed's first noise is the coarse one."""
    vae = pipeline.vae
    pixels = pipeline.image_processor.preprocess([image.convert("RGB") for image in images], *size)
    # As in the pipelines: a VAE that overflows in float16 is run in float32.
    dtype = vae.dtype
    upcast = dtype == torch.float16 and bool(getattr(vae.config, "force_upcast", False))
    if upcast:
        vae.to(torch.float32)
    latents: Tensor = vae.encode(pixels.to(pipeline._execution_device, vae.dtype)).latent_dist.mode()
    if upcast:
        vae.to(dtype)
    config = vae.config
    mean, std = getattr(config, "latents_mean", None), getattr(config, "latents_std", None)
    if mean is not None and std is not None:
        shape = (1, -1, 1, 1)
        latents = (latents - latents.new_tensor(mean).view(shape)) / latents.new_tensor(std).view(shape)
    latents = (latents * config.scaling_factor).to(dtype)
    return latents
