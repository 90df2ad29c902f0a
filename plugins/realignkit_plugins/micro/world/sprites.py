"""Drawings as coloured pixels: each is rasterised once per size, and coloured by one multiply-add."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

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
    """

    alpha: Float
    offset: Float
    gain: Float
    solid: npt.NDArray[np.bool_]

    def coloured(self, colour: RGB) -> Float:
        """Premultiplied RGB, float32 (h, w, 3) in [0, 255]."""
        painted: Float = self.offset + self.gain * np.asarray(colour, np.float32)
        return painted


@lru_cache(maxsize=8192)
def sprite(noun: str, size: int, flip: bool) -> Sprite:
    """The sprite of a noun (or extra) drawn on a ``size`` x ``size`` canvas, outlined, cropped."""
    drawing = DRAWINGS.get(noun) or EXTRA_DRAWINGS[noun]
    black, white = (_rasterise(drawing, size, colour) for colour in (_BLACK, _WHITE))
    if flip:
        black, white = black[:, ::-1], white[:, ::-1]
    alpha = black[..., 3:] / 255.0
    rows, columns = (np.flatnonzero((alpha[..., 0] > 0.1).any(axis=axis)) for axis in (1, 0))
    box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    alpha, black, white = alpha[box], black[box] * alpha[box], white[box] * alpha[box]
    gain = (white[..., :3] - black[..., :3]) / 255.0
    return Sprite(alpha, np.ascontiguousarray(black[..., :3]), gain, alpha[..., 0] > 0.5)


def _rasterise(drawing: Drawing, size: int, colour: RGB) -> Float:
    """The drawing over a darker, slightly fatter silhouette of itself: float32 (size, size, 4), 0-255."""
    big = size * _SUPERSAMPLE
    image = paint(drawing, big, colour, supersample=1)
    thickness = 2 * round(0.028 * big) + 1
    silhouette = image.getchannel("A").filter(ImageFilter.MaxFilter(max(thickness, 3)))
    outlined = Image.new("RGBA", (big, big), (*_OUTLINE.on(colour), 0))
    outlined.putalpha(silhouette)
    outlined.alpha_composite(image)
    small = outlined.convert("RGBa").resize((size, size), Image.Resampling.BOX).convert("RGBA")
    return np.asarray(small, np.float32)
