"""What sampling needs of any pipeline: a callback after each step, images from tensors; and images of pipelines whose
attention cannot be modulated (DeepFloyd-IF, baselines, anything called like them).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from realignkit.errors import ModelError, OptionError, enough_memory

if TYPE_CHECKING:
    from PIL.Image import Image

Progress = Callable[[int, int], None]
"""Called with (steps done, steps in all) after every sampling step."""


def generate_plainly(
    pipeline: Any,
    prompts: Sequence[str],
    seeds: Sequence[int],
    wishes: Mapping[str, Any],
    progress: Progress | None = None,
) -> list[Image]:
    """One image (RGB) per prompt, the pipeline's own, each from the noise of its own seed.

    Args:
        pipeline: called with ``prompt``, ``generator`` (a list), ``output_type="np"`` and what is wished for.
        prompts: one text per image.
        seeds: one per image.
        wishes: sampling options; None leaves one to the pipeline. Those that it does not know are an error.
        progress: called after each step, where the pipeline has a callback.

    Raises:
        ModelError: the pipeline computed NaN.
        OptionError: it does not take one of the sampling options.
    """
    known = inspect.signature(type(pipeline).__call__).parameters
    arguments = {name: wish for name, wish in wishes.items() if wish is not None}
    if unknown := sorted(arguments.keys() - known.keys()):
        raise OptionError(f"{type(pipeline).__name__} takes no {', '.join(unknown)}: leave it out.")
    if "negative_prompt" in arguments:
        arguments["negative_prompt"] = [arguments["negative_prompt"]] * len(prompts)
    # On the CPU, one per image: noise that depends neither on the device nor on the rest of the batch.
    arguments["generator"] = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
    arguments |= step_callback(pipeline, progress)
    # As arrays: DeepFloyd-IF's tensors are not scaled to [0, 1], and a PIL image hides NaN.
    with enough_memory("drawing"), finite_decoding(pipeline):
        images = pipeline(prompt=list(prompts), output_type="np", **arguments).images
    tensor = torch.as_tensor(images).float()
    check_finite(tensor, "in the image decoder")
    return to_pil(tensor.permute(0, 3, 1, 2))


@contextmanager
def finite_decoding(pipeline: Any) -> Iterator[None]:
    """Check what the image decoder gives, which a pipeline clamps to [0, 1] before anybody sees it.

    Raises:
        ModelError: it computed NaN or infinity.
    """
    processor: Any = getattr(pipeline, "image_processor", None)
    if not hasattr(processor, "postprocess"):  # pixel models have none: their last step has been checked
        yield
        return
    inner = processor.postprocess

    def checked(image: Any, *arguments: Any, **options: Any) -> Any:
        if isinstance(image, Tensor):
            check_finite(image, "in the image decoder")
        return inner(image, *arguments, **options)

    processor.postprocess = checked
    try:
        yield
    finally:
        del processor.postprocess


def step_callback(runner: Any, progress: Progress | None) -> dict[str, Any]:
    """The pipeline's argument for a callback that checks each step's latents and reports progress."""

    def after_step(running: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        check_finite(tensors["latents"], f"after step {step + 1}")
        if progress is not None:
            progress(step + 1, int(running.num_timesteps))
        return {}

    parameters = inspect.signature(type(runner).__call__).parameters
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


def broken(where: str) -> ModelError:
    """The error for a model that computed NaN."""
    return ModelError(
        f"the model computed NaN or infinity {where}. Load it in float32 or bfloat16; if it is, its checkpoint is "
        "damaged: download or train it again."
    )


def check_finite(values: Tensor, where: str) -> None:
    """Refuse NaN and infinity: before clamping, which would make white or black of infinity.

    Raises:
        ModelError: there are some; it says ``where``.
    """
    if not torch.isfinite(values.detach()).all():
        raise broken(where)


def to_pil(images: Tensor) -> list[Image]:
    """RGB images of a float tensor (B, 3, H, W) in [0, 1]."""
    from PIL import Image

    array = (images.float().clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(item) for item in array]
