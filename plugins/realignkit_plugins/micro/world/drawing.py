"""Vector drawings: shapes in a unit square, painted in order, coloured when a scene is composed.

A drawing is a tuple of shapes. Coordinates are fractions of a square canvas: x to the right,
y downwards, both in [0, 1]. An *ink* says how a shape takes its colour:

- ``BODY``: the object's own colour (what a caption calls "red");
- ``shade(s)``: the object's colour made darker (s < 0) or lighter (s > 0), |s| <= 1;
- ``(r, g, b)``: a fixed colour, 0-255, for details that keep their colour whatever the object's.

Every pixel of a drawing is therefore affine in the object's colour, which is what lets
:mod:`~realignkit_plugins.micro.world.sprites` render each drawing once and colour it with one
multiplication afterwards.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from PIL import Image, ImageDraw

Point = tuple[float, float]
RGB = tuple[int, int, int]


@dataclass(frozen=True)
class Shade:
    """The object's colour, darkened (amount < 0) or lightened (amount > 0)."""

    amount: float = 0.0

    def on(self, colour: RGB) -> RGB:
        """The ink's RGB value on an object of this colour."""
        scale = 1.0 - abs(self.amount)
        offset = 255.0 * max(self.amount, 0.0)
        red, green, blue = (round(scale * channel + offset) for channel in colour)
        return red, green, blue


Ink = Shade | RGB
BODY = Shade()
INK: RGB = (38, 34, 40)
"""Near-black, for eyes, tyres, hands of a clock and the like."""


def shade(amount: float) -> Shade:
    """The object's own colour, darker for a negative amount, lighter for a positive one."""
    return Shade(amount)


@dataclass(frozen=True)
class Shape:
    """A filled outline (``width is None``) or a stroke of that width (fraction of the canvas)."""

    points: tuple[Point, ...]
    ink: Ink
    width: float | None = None


Drawing = tuple[Shape, ...]


def poly(*points: Point, ink: Ink = BODY) -> Shape:
    """A filled polygon."""
    return Shape(points, ink)


def rect(left: float, top: float, right: float, bottom: float, ink: Ink = BODY) -> Shape:
    """A filled axis-aligned rectangle."""
    return Shape(((left, top), (right, top), (right, bottom), (left, bottom)), ink)


def ellipse(x: float, y: float, rx: float, ry: float, ink: Ink = BODY, tilt: float = 0.0) -> Shape:
    """A filled ellipse around (x, y), its x-radius turned by ``tilt`` degrees (clockwise)."""
    cos, sin = math.cos(math.radians(tilt)), math.sin(math.radians(tilt))
    turns = [2 * math.pi * i / 40 for i in range(40)]
    ring = [(rx * math.cos(a), ry * math.sin(a)) for a in turns]
    return Shape(tuple((x + u * cos - v * sin, y + u * sin + v * cos) for u, v in ring), ink)


def blob(*points: Point, ink: Ink = BODY) -> Shape:
    """A filled smooth closed curve *through* the points (Catmull-Rom)."""
    return Shape(_smooth(points, closed=True), ink)


def line(*points: Point, width: float = 0.04, ink: Ink = BODY) -> Shape:
    """A polyline with round joints; ``width`` is a fraction of the canvas."""
    return Shape(points, ink, width)


def arc(*points: Point, width: float = 0.04, ink: Ink = BODY) -> Shape:
    """A smooth open curve through the points, with round ends."""
    return Shape(_smooth(points, closed=False), ink, width)


def _smooth(points: tuple[Point, ...], *, closed: bool, steps: int = 8) -> tuple[Point, ...]:
    n = len(points)
    curve: list[Point] = []
    for i in range(n if closed else n - 1):
        before, start, end, after = (
            points[j % n] if closed else points[min(max(j, 0), n - 1)] for j in range(i - 1, i + 3)
        )
        for step in range(steps):
            t = step / steps
            curve.append(tuple(_catmull_rom(before[k], start[k], end[k], after[k], t) for k in (0, 1)))  # type: ignore[arg-type]
    return tuple(curve if closed else [*curve, points[-1]])


def _catmull_rom(a: float, b: float, c: float, d: float, t: float) -> float:
    return 0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)


def paint(drawing: Drawing, size: int, colour: RGB, background: RGB | None = None, supersample: int = 4) -> Image.Image:
    """The drawing as a ``size`` x ``size`` RGBA image, antialiased, in ``colour``."""
    big = size * supersample
    image = Image.new("RGBA", (big, big), (*background, 255) if background else (0, 0, 0, 0))
    pen = ImageDraw.Draw(image)
    for shape in drawing:
        ink = shape.ink.on(colour) if isinstance(shape.ink, Shade) else shape.ink
        points = [(x * big, y * big) for x, y in shape.points]
        if shape.width is None:
            pen.polygon(points, fill=ink)
        else:
            width = max(shape.width * big, 1.0)
            pen.line(points, fill=ink, width=round(width), joint="curve")
            for x, y in (points[0], points[-1]):
                pen.ellipse((x - width / 2, y - width / 2, x + width / 2, y + width / 2), fill=ink)
    return image.convert("RGBa").resize((size, size), Image.Resampling.BOX).convert("RGBA")
