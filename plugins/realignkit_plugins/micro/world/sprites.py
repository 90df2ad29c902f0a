"""Drawings as coloured pixels: each is rasterised once per size and scale, and coloured by one multiply-add."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from PIL import Image

from .drawing import RGB, Drawing, Shade, paint
from .vocabulary import DRAWINGS, EXTRA_DRAWINGS

_OUTLINE = Shade(-0.6)
_SUPERSAMPLE = 4
_BLACK: RGB = (0, 0, 0)
_WHITE: RGB = (255, 255, 255)
Float = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Sprite:
    """A rasterised drawing, cropped to its ink: RGB = ``offset + gain * colour``, under ``alpha``.

    Attributes:
        alpha: coverage, float32 (h, w, 1) in [0, 1].
        offset, gain: premultiplied by alpha, float32 (h, w, 3); offset in [0, 255], gain in [0, 1].
        solid: bool (h, w), more than half covered.
        corner: (left, top) of the crop on the canvas, in pixels.
    """

    alpha: Float
    offset: Float
    gain: Float
    solid: npt.NDArray[np.bool_]
    corner: tuple[int, int]

    def coloured(self, colour: RGB) -> Float:
        """Premultiplied RGB, float32 (h, w, 3) in [0, 255]."""
        painted: Float = self.offset + self.gain * np.asarray(colour, np.float32)
        return painted


@lru_cache(maxsize=8192)
def sprite(noun: str, size: int, flip: bool, scale: int = 1) -> Sprite:
    """The sprite of a noun (or extra) drawn on a ``size`` x ``size`` canvas, outlined, cropped.

    With a ``scale``, the same with as many pixels for each, in both directions: its crop is that of scale 1.
    """
    drawing = DRAWINGS.get(noun) or EXTRA_DRAWINGS[noun]
    black, white = (_rasterise(drawing, size, colour, scale) for colour in (_BLACK, _WHITE))
    if flip:
        black, white = black[:, ::-1], white[:, ::-1]
    alpha = black[..., 3:] / 255.0
    left, top, right, bottom = _crop(alpha) if scale == 1 else (scale * edge for edge in _edges(noun, size, flip))
    box = np.s_[top:bottom, left:right]
    alpha, black, white = alpha[box], black[box] * alpha[box], white[box] * alpha[box]
    gain = (white[..., :3] - black[..., :3]) / 255.0
    return Sprite(alpha, np.ascontiguousarray(black[..., :3]), gain, alpha[..., 0] > 0.5, (left, top))


def _crop(alpha: Float) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of what is drawn."""
    rows, columns = (np.flatnonzero((alpha[..., 0] > 0.1).any(axis=axis)) for axis in (1, 0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _edges(noun: str, size: int, flip: bool) -> tuple[int, int, int, int]:
    coarse = sprite(noun, size, flip)
    (left, top), (height, width) = coarse.corner, coarse.solid.shape
    return left, top, left + width, top + height


def _rasterise(drawing: Drawing, size: int, colour: RGB, scale: int) -> Float:
    """The drawing over a darker, slightly fatter silhouette of itself: float32 (H, W, 4), 0-255."""
    # Of finer pixels, two to a side are antialiasing enough.
    finer = max(scale // 2, 1)
    big = size * _SUPERSAMPLE * finer
    image = paint(drawing, big, colour, supersample=1)
    thickness = finer * max(round(0.028 * size * _SUPERSAMPLE), 1)
    silhouette = Image.fromarray(_fattened(np.asarray(image.getchannel("A")), thickness))
    outlined = Image.new("RGBA", (big, big), (*_OUTLINE.on(colour), 0))
    outlined.putalpha(silhouette)
    outlined.alpha_composite(image)
    small = outlined.convert("RGBa").resize((size * scale, size * scale), Image.Resampling.BOX).convert("RGBA")
    return np.asarray(small, np.float32)


def _fattened(pixels: npt.NDArray[np.uint8], by: int) -> npt.NDArray[np.uint8]:
    """The largest value within ``by`` pixels up, down and to the sides: uint8 (H, W)."""
    width = 2 * by + 1
    for _ in range(2):
        # Along columns, and turned, along rows: of windows twice as high each time.
        height, fat = 1, np.pad(pixels, ((by, by), (0, 0)))
        while height < width:
            step = min(height, width - height)
            fat, height = np.maximum(fat[:-step], fat[step:]), height + step
        pixels = fat.T
    return np.ascontiguousarray(pixels)
