"""How images become 299 x 299 for the Inception network: three ways, of which each project has its own.

The same images and weights give other distances each way, so the way is part of the number (Parmar et al., 2022, "On
Aliased Resizing"). All take pixels as they are in files, uint8 (H, W, 3), whatever their aspect ratio, and give float32
(height, width, 3) in [0, 255], unrounded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from realignkit.images import to_rgb
from realignkit_plugins.metrics.inception import SIZE

if TYPE_CHECKING:
    from PIL.Image import Image

Pixels = npt.NDArray[Any]
Resize = Literal["clean", "pytorch", "tensorflow"]

_SQUARE = (SIZE, SIZE)


def resize_clean(pixels: Pixels, size: tuple[int, int] = _SQUARE) -> Pixels:
    """As clean-fid does: Pillow's bicubic filter, antialiased, on each channel as floats; clipped to [0, 255].

    Args:
        pixels: uint8 (H, W, 3).
        size: height and width.
    """
    from PIL import Image

    planes = [Image.fromarray(pixels[..., channel].astype(np.float32)) for channel in range(3)]
    resized = [np.asarray(plane.resize(size[::-1], Image.Resampling.BICUBIC)) for plane in planes]
    return np.stack(resized, -1).clip(0, 255)


def resize_pytorch(pixels: Pixels, size: tuple[int, int] = _SQUARE) -> Pixels:
    """As pytorch-fid does: torch's bilinear interpolation, without antialias also where it shrinks.

    Args:
        pixels: uint8 (H, W, 3).
        size: height and width.
    """
    planes = torch.from_numpy(np.asarray(pixels)).permute(2, 0, 1)[None].float()
    return F.interpolate(planes, size, mode="bilinear", align_corners=False)[0].permute(1, 2, 0).numpy()


def resize_tensorflow(pixels: Pixels, size: tuple[int, int] = _SQUARE) -> Pixels:
    """As TensorFlow 1 does, and torch-fidelity after it: bilinear from ``i * in / out``, without a half-pixel shift.

    Args:
        pixels: uint8 (H, W, 3).
        size: height and width.
    """
    values = np.asarray(pixels, np.float32)
    (top, bottom, down), (left, right, across) = (
        _neighbours(old, new) for old, new in zip(values.shape[:2], size, strict=True)
    )
    upper, lower = values[top], values[bottom]
    upper = upper[:, left] + (upper[:, right] - upper[:, left]) * across[:, None]
    lower = lower[:, left] + (lower[:, right] - lower[:, left]) * across[:, None]
    return upper + (lower - upper) * down[:, None, None]


def _neighbours(old: int, new: int) -> tuple[Pixels, Pixels, Pixels]:
    """For each new place the two old ones that it lies between, and how far it is from the first."""
    places = np.arange(new, dtype=np.float32) * np.float32(old / new)
    first = places.astype(np.int64)
    return first, np.minimum(first + 1, old - 1), places - first.astype(np.float32)


RESIZE: dict[str, Callable[[Pixels], Pixels]] = {
    "clean": resize_clean,
    "pytorch": resize_pytorch,
    "tensorflow": resize_tensorflow,
}


def network_input(images: Sequence[Image], resize: Resize) -> Tensor:
    """Images (RGB, of any sizes) as the network takes them, float32 (B, 3, 299, 299) in about [-1, 1].

    ``pytorch`` spreads [0, 255] over [-1, 1]; the others subtract 128 and divide by it, as TensorFlow's graph does.
    """
    pixels = np.stack([RESIZE[resize](np.array(to_rgb(image))) for image in images])
    values = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    return 2 * (values / 255) - 1 if resize == "pytorch" else (values - 128) / 128
