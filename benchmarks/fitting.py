"""Where is an object in a generated picture? The world's own drawing of it, fitted to the pixels.

Every noun of the micro world has one drawing. So an object that a model has drawn is found by trying that drawing in
every size, both ways round, at every place near the oracle's detection, each in the colour and on the background that
suit the pixels best (least squares, a constant each), and taking the one that explains most of the variance around it.
No network but the oracle has a part in that, so it can measure a segmenter. ``segmenters.py --generated`` uses it, and
measures the fit itself on renderings, where the truth is known.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import numpy as np
import numpy.typing as npt

from realignkit_plugins.micro.world.sprites import sprite

SIZES = range(18, 49)
"""Pixels; the world draws objects from 22 to 46 pixels in pictures of 64."""
REACH = 6
"""How far from the oracle's detection an object's centre may be, in pixels."""
MARGIN = 2
"""How much of its surroundings an object's drawing has to explain as well, in pixels."""

Pixels = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Fit:
    """A drawing that was fitted: its ``mask``, bool (H, W), and how much of the variance it explains, at most 1."""

    mask: npt.NDArray[np.bool_]
    explained: float


def fit(pixels: npt.NDArray[np.uint8], noun: str, x: float, y: float) -> Fit | None:
    """The best drawing of ``noun`` with its centre near (x, y) in pixels (H, W, 3); None where none fits into it."""
    canvas = pixels.astype(np.float32)
    every_other = product(SIZES[::2], (False, True), range(-REACH, REACH + 1, 2), range(-REACH, REACH + 1, 2))
    best = max(
        (
            (_explained(canvas, noun, size, flip, x + dx, y + dy), size, flip, dx, dy)
            for size, flip, dx, dy in every_other
        )
    )
    if best[0] == -np.inf:
        return None
    _, size, flip, dx, dy = best
    near = product((size - 1, size, size + 1), (flip,), (dx - 1, dx, dx + 1), (dy - 1, dy, dy + 1))
    explained, size, flip, dx, dy = max(
        (_explained(canvas, noun, s, f, x + u, y + v), s, f, u, v) for s, f, u, v in near
    )
    mask = np.zeros(canvas.shape[:2], bool)
    drawn = sprite(noun, size, flip).solid
    left, top = _corner(drawn.shape, x + dx, y + dy)
    mask[top : top + drawn.shape[0], left : left + drawn.shape[1]] = drawn
    return Fit(mask, float(explained))


def _corner(shape: tuple[int, ...], x: float, y: float) -> tuple[int, int]:
    return round(x - shape[1] / 2), round(y - shape[0] / 2)


def _explained(canvas: Pixels, noun: str, size: int, flip: bool, x: float, y: float) -> float:
    """1 - residual / variance of the drawing's box and ``MARGIN`` around it; -inf where it does not fit in."""
    design, offset, solid = _parts(noun, size, flip)
    (rows, columns), (height, width) = canvas.shape[:2], solid
    left, top = _corner(solid, x, y)
    if left < 0 or top < 0 or left + width > columns or top + height > rows:
        return -np.inf
    # The margin is cut off where the picture ends.
    inside = np.s_[
        max(MARGIN - top, 0) : height + 2 * MARGIN - max(top + height + MARGIN - rows, 0),
        max(MARGIN - left, 0) : width + 2 * MARGIN - max(left + width + MARGIN - columns, 0),
    ]
    window = canvas[max(top - MARGIN, 0) : top + height + MARGIN, max(left - MARGIN, 0) : left + width + MARGIN]
    target, (gain, clear) = window - offset[inside], (part[inside] for part in design)
    # Least squares with two unknowns per channel, by Cramer's rule.
    gg, gc, cc = ((one * other).sum((0, 1)) for one, other in ((gain, gain), (gain, clear), (clear, clear)))
    gt, ct = (gain * target).sum((0, 1)), (clear * target).sum((0, 1))
    determinant = np.maximum(gg * cc - gc * gc, 1e-3)
    colour, ground = (cc * gt - gc * ct) / determinant, (gg * ct - gc * gt) / determinant
    residual = np.square(target - gain * colour.clip(0, 255) - clear * ground.clip(0, 255)).sum()
    variance = np.square(window - window.mean((0, 1))).sum()
    return float(1 - residual / max(variance, 1.0))


@lru_cache(maxsize=4096)
def _parts(noun: str, size: int, flip: bool) -> tuple[tuple[Pixels, Pixels], Pixels, tuple[int, int]]:
    """A drawing with its margin as ((gain, clear), offset), and its size; gain * colour + clear * ground + offset."""
    drawn = sprite(noun, size, flip)
    pad = ((MARGIN, MARGIN), (MARGIN, MARGIN), (0, 0))
    offset, gain, alpha = (np.pad(part, pad) for part in (drawn.offset, drawn.gain, drawn.alpha))
    return (gain, 1 - alpha), offset, drawn.solid.shape
