"""Images of pipelines whose attention cannot be modulated (DeepFloyd-IF, baselines, anything called like them)."""

from __future__ import annotations

import contextlib
import inspect
import operator
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from realignkit.arguments import shown
from realignkit.attention.drawing import Progress, check_finite, drawing
from realignkit.errors import OptionError
from realignkit.pipelines import families

if TYPE_CHECKING:
    from PIL.Image import Image


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
        wishes: sampling options that the pipeline is not to choose. Those that it does not know are an error.
        progress: called after each step, where the pipeline has a callback.

    Raises:
        ModelError: the pipeline failed or computed NaN.
        OptionError: it does not take one of the sampling options.
    """
    known = inspect.signature(type(pipeline).__call__).parameters
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


def noise_sources(seeds: Sequence[int]) -> list[torch.Generator]:
    """One per image, on the CPU: noise that depends neither on the device nor on the rest of the batch.

    Raises:
        OptionError: a seed is no whole number in [0, 2**64).
    """
    try:
        return [torch.Generator("cpu").manual_seed(operator.index(seed)) for seed in seeds]
    except (TypeError, ValueError, RuntimeError):
        raise OptionError(f"seeds are whole numbers from 0 to 2**64 - 1, not {', '.join(map(shown, seeds))}.") from None


def to_pil(images: Tensor) -> list[Image]:
    """RGB images of a float tensor (B, 3, H, W) in [0, 1]."""
    from PIL import Image

    array = (images.float().clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(item) for item in array]
