"""What objects stand on: desk, grass, road, sky, room, or plain paper. Pale, so that objects stand out."""

from __future__ import annotations

import zlib
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from .drawing import RGB

VARIANTS = 24
"""How many versions there are of each background."""
_Box = tuple[float, float, float, float]
"""(left, top, right, bottom), or from (x, y) to (x, y), in pixels of scale 1."""


def background(name: str | None, size: int, variant: int, scale: int = 1) -> npt.NDArray[np.float32]:
    """A background, float32 (scale * size, scale * size, 3) in [0, 255]; ``name`` None is plain paper."""
    return _painted(name, size, variant, scale)[0]


def background_top(name: str, size: int, variant: int) -> int:
    """The first pixel row of what a background is named for: where the desk or the grass begins, 0 for sky and room."""
    return _painted(name, size, variant, 1)[1]


@lru_cache(maxsize=512)
def _painted(name: str | None, size: int, variant: int, scale: int) -> tuple[npt.NDArray[np.float32], int]:
    rng = np.random.default_rng([zlib.crc32((name or "plain").encode()), variant])
    big = 2 * size
    image = Image.new("RGB", (scale * big, scale * big))
    top = _PAINTERS[name](_Pen(ImageDraw.Draw(image), scale), big, rng)
    return np.asarray(image.resize((scale * size, scale * size), Image.Resampling.BOX), np.float32), top // 2


class _Pen:
    """Draws as Pillow does, with ``scale`` x ``scale`` pixels for each: what is sharp is sharper, and nothing moves."""

    def __init__(self, pen: ImageDraw.ImageDraw, scale: int) -> None:
        self._pen, self._scale = pen, scale

    def rectangle(self, box: _Box, *, width: int = 1, **inks: Any) -> None:
        self._pen.rectangle(self._filled(box), width=self._scale * width, **inks)

    def ellipse(self, box: _Box, **inks: Any) -> None:
        self._pen.ellipse(self._filled(box), **inks)

    def line(self, box: _Box, *, width: int = 1, **inks: Any) -> None:
        # Pillow's coordinates are those of pixels' middles.
        points = tuple((edge + 0.5) * self._scale - 0.5 for edge in box) if self._scale > 1 else box
        self._pen.line(points, width=self._scale * width, **inks)

    def _filled(self, box: _Box) -> _Box:
        """The last row and column are painted too: all of their finer ones."""
        left, top, right, bottom = (self._scale * edge for edge in box)
        return left, top, right + self._scale - 1, bottom + self._scale - 1


def _tint(colour: RGB, rng: np.random.Generator, spread: int = 8) -> RGB:
    red, green, blue = (int(np.clip(c + rng.integers(-spread, spread + 1), 0, 255)) for c in colour)
    return red, green, blue


def _plain(pen: _Pen, n: int, rng: np.random.Generator) -> int:
    papers: tuple[RGB, ...] = ((226, 222, 212), (214, 222, 228), (228, 218, 224), (216, 226, 214), (222, 222, 222))
    pen.rectangle((0, 0, n, n), fill=_tint(papers[rng.integers(len(papers))], rng))
    return 0


def _desk(pen: _Pen, n: int, rng: np.random.Generator) -> int:
    pen.rectangle((0, 0, n, n), fill=_tint((224, 219, 208), rng))
    top = int(n * rng.uniform(0.62, 0.74))
    wood = _tint((196, 164, 126), rng, 6)
    pen.rectangle((0, top, n, n), fill=wood)
    dark = (wood[0] - 26, wood[1] - 26, wood[2] - 26)
    pen.rectangle((0, top, n, top + n // 40), fill=dark)
    for y in np.linspace(top + n * 0.1, n, 4)[:-1]:
        pen.line((0, y, n, y + rng.uniform(-2, 2)), fill=dark, width=1)
    return top


def _grass(pen: _Pen, n: int, rng: np.random.Generator) -> int:
    pen.rectangle((0, 0, n, n), fill=_tint((206, 226, 238), rng))
    top = int(n * rng.uniform(0.5, 0.66))
    meadow = _tint((168, 206, 140), rng, 6)
    pen.rectangle((0, top, n, n), fill=meadow)
    blade = (meadow[0] - 30, meadow[1] - 22, meadow[2] - 30)
    for _ in range(22):
        x, y = rng.uniform(0, n), rng.uniform(top + 2, n)
        pen.line((x, y, x + rng.uniform(-2, 2), y - n * 0.05), fill=blade, width=2)
    return top


def _road(pen: _Pen, n: int, rng: np.random.Generator) -> int:
    pen.rectangle((0, 0, n, n), fill=_tint((214, 220, 216), rng))
    top = int(n * rng.uniform(0.52, 0.62))
    asphalt = _tint((158, 158, 164), rng, 6)
    pen.rectangle((0, top, n, n), fill=asphalt)
    pen.rectangle((0, top, n, top + n // 32), fill=(120, 120, 126))
    middle, start = (top + n) // 2, rng.uniform(-0.2, 0.0) * n
    for dash in np.arange(start, n, n * 0.28):
        pen.rectangle((dash, middle - n // 48, dash + n * 0.15, middle + n // 48), fill=(240, 240, 232))
    return top


def _sky(pen: _Pen, n: int, rng: np.random.Generator) -> int:
    high, low = np.array(_tint((150, 196, 236), rng)), np.array(_tint((206, 228, 244), rng))
    for row in range(n):
        pen.rectangle((0, row, n, row), fill=tuple(int(c) for c in high + (low - high) * row / n))
    for _ in range(3):
        left, top, r = rng.uniform(0, n), rng.uniform(0, n), n * rng.uniform(0.05, 0.08)
        for dx, dy, k in ((-1.2, 0.2, 0.8), (0, 0, 1.1), (1.2, 0.25, 0.75)):
            x, y = left + dx * r, top + dy * r
            pen.ellipse((x - k * r, y - k * r, x + k * r, y + k * r), fill="#f6f9fc")
    return 0


def _room(pen: _Pen, n: int, rng: np.random.Generator) -> int:
    pen.rectangle((0, 0, n, n), fill=_tint((232, 220, 200), rng))
    floor = int(n * rng.uniform(0.7, 0.8))
    pen.rectangle((0, floor, n, n), fill=_tint((190, 176, 164), rng))
    pen.rectangle((0, floor - n // 36, n, floor), fill=(246, 242, 236))
    x, y, w, h = rng.uniform(0.05, 0.65) * n, 0.07 * n, 0.28 * n, 0.26 * n
    pen.rectangle((x, y, x + w, y + h), fill=(186, 214, 232), outline=(250, 248, 244), width=3)
    pen.line((x + w / 2, y, x + w / 2, y + h), fill=(250, 248, 244), width=3)
    return 0


_PAINTERS = {None: _plain, "desk": _desk, "grass": _grass, "road": _road, "sky": _sky, "room": _room}
