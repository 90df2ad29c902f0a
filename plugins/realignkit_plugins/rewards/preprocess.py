"""From images in [0, 1] to a network's pixel values, differentiably and without torchvision."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from realignkit.errors import ModelError, OptionError
from realignkit.images import to_rgb

if TYPE_CHECKING:
    from PIL.Image import Image

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
_RESAMPLE = {0: "nearest", 2: "bilinear", 3: "bicubic"}
_PIL = {name: number for number, name in _RESAMPLE.items()}


@dataclass(frozen=True)
class Preprocessing:
    """Resize, crop, normalise: what a checkpoint's own image processor does, as a function with a gradient.

    Calling it takes tensors; :meth:`from_pil` takes PIL images and rounds to 8 bits in between, as processors do.
    The two differ by that rounding alone (about one grey level).

    Attributes:
        size: (height, width) to stretch to, or the length of the shorter side, or None to leave the size.
        crop: (height, width) cut from the centre, padded with zeros where the image is smaller; None: no crop.
        resample: interpolation, with antialiasing, as Pillow's of that name.
        mean: subtracted from each channel of an image in [0, 1].
        std: each channel is divided by it.
        crop_offset: how half pixels fall: ``"floor"`` as transformers, ``"round"`` as torchvision.
        saturate: cut off where bicubic filters overshoot [0, 1], as in 8-bit images.
    """

    size: tuple[int, int] | int | None
    crop: tuple[int, int] | None = None
    resample: Literal["bicubic", "bilinear", "nearest"] = "bicubic"
    mean: tuple[float, ...] = CLIP_MEAN
    std: tuple[float, ...] = CLIP_STD
    crop_offset: Literal["floor", "round"] = "floor"
    saturate: bool = True

    def __call__(self, images: Tensor) -> Tensor:
        """Images float (B, 3, H, W) in [0, 1] to pixel values float (B, 3, h, w), differentiable."""
        size = self._resized(images.shape[-2:])
        if size != tuple(images.shape[-2:]):
            if self.resample == "nearest":
                images = F.interpolate(images, size, mode="nearest-exact")
            else:
                for shape in _passes((images.shape[-2], images.shape[-1]), size):
                    images = F.interpolate(images, shape, mode=self.resample, antialias=True, align_corners=False)
                    images = images.clamp(0, 1) if self.saturate else images
        return self._normalise(images)

    def from_pil(self, images: Sequence[Image]) -> Tensor:
        """PIL images of any sizes to pixel values float (B, 3, h, w) on the CPU, exactly as the processor's.

        Raises:
            OptionError: the images end up with different sizes, which cannot share a batch.
        """
        rows = []
        for image in map(to_rgb, images):
            height, width = self._resized((image.height, image.width))
            if (height, width) != (image.height, image.width):
                image = image.resize((width, height), _PIL[self.resample])
            pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255
            rows.append(self._normalise(pixels))
        if len({row.shape for row in rows}) > 1:
            raise OptionError(
                "images of different shapes cannot share a batch of this model: resize them, or go by one."
            )
        return torch.cat(rows)

    def _resized(self, shape: Sequence[int]) -> tuple[int, int]:
        if isinstance(self.size, int):
            short, long = sorted(shape)
            other = int(self.size * long / short)
            return (self.size, other) if shape[0] <= shape[1] else (other, self.size)
        return self.size or (shape[0], shape[1])

    def _normalise(self, images: Tensor) -> Tensor:
        if self.crop is not None:
            images = _centre_crop(images, self.crop, self.crop_offset)
        mean, std = (torch.tensor(v, dtype=images.dtype, device=images.device) for v in (self.mean, self.std))
        return (images - mean[:, None, None]) / std[:, None, None]

    @classmethod
    def of(cls, processor: Any) -> Preprocessing:
        """What an image processor of transformers says it does.

        Raises:
            ModelError: it does something that has no counterpart here.
        """
        name = type(processor).__name__
        for step in ("do_pad", "do_thumbnail", "do_align_long_axis", "do_image_splitting"):
            if getattr(processor, step, False):
                raise ModelError(
                    f"{name} uses '{step}', which has no differentiable form here. Use another checkpoint."
                )
        resize, crop = getattr(processor, "do_resize", False), getattr(processor, "do_center_crop", False)
        number = int(getattr(processor, "resample", 3) or 0)
        if resize and number not in _RESAMPLE:
            raise ModelError(
                f"{name} resizes with Pillow's filter {number}, which has no differentiable form here. "
                f"Set 'resample' in its preprocessor_config.json to 2 (bilinear) or 3 (bicubic)."
            )
        # Processors rescale 8-bit values; ours come in [0, 1].
        scale = 255 * float(processor.rescale_factor) if getattr(processor, "do_rescale", False) else 255.0
        normalise = getattr(processor, "do_normalize", False)
        mean, std = (processor.image_mean, processor.image_std) if normalise else ((0.0,) * 3, (1.0,) * 3)
        return cls(
            size=_target(dict(processor.size), name) if resize else None,
            crop=_pair(dict(processor.crop_size), name) if crop else None,
            resample=_RESAMPLE.get(number, "bicubic"),  # type: ignore[arg-type]
            mean=tuple(float(m) / scale for m in mean),
            std=tuple(float(s) / scale for s in std),
        )


def _passes(old: tuple[int, int], new: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Shapes after each of the two passes of a resize, in Pillow's order: cut-offs in between depend on it."""
    import PIL

    # Since 13, rows go first where that saves enough (found by trying: the condition reproduces 381 random sizes).
    newer = int(PIL.__version__.partition(".")[0]) >= 13
    rows_first = newer and old[0] > new[0] and old[0] - new[0] > 2 * (old[1] - new[1])
    return ((new[0], old[1]) if rows_first else (old[0], new[1])), new


def _target(size: Mapping[str, Any], name: str) -> tuple[int, int] | int:
    if set(k for k, v in size.items() if v is not None) == {"shortest_edge"}:
        return int(size["shortest_edge"])
    return _pair(size, name)


def _pair(size: Mapping[str, Any], name: str) -> tuple[int, int]:
    if size.get("height") and size.get("width"):
        return int(size["height"]), int(size["width"])
    if size.get("shortest_edge") and not size.get("longest_edge"):
        return (int(size["shortest_edge"]),) * 2
    raise ModelError(f"{name} resizes to {size}, which has no differentiable form here. Use another checkpoint.")


def _centre_crop(images: Tensor, crop: tuple[int, int], offset: str) -> Tensor:
    missing = [max(0, want - have) for want, have in zip(crop, images.shape[-2:], strict=True)]
    if any(missing):
        rows, columns = ((math.ceil(m / 2), m // 2) for m in missing)
        images = F.pad(images, (*columns, *rows))
    starts = []
    for have, want in zip(images.shape[-2:], crop, strict=True):
        spare = have - want
        # Python rounds halves to even, and so does torchvision, being Python.
        starts.append(spare // 2 if offset == "floor" else round(spare / 2))
    top, left = starts
    return images[..., top : top + crop[0], left : left + crop[1]]
