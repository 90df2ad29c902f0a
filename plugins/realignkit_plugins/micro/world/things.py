"""Drawings of made things: vehicles, furniture and what one carries. Side views face right."""

from __future__ import annotations

from .drawing import INK, RGB, Drawing, Shape, arc, blob, ellipse, line, poly, rect, shade

_GLASS: RGB = (176, 216, 232)
_METAL: RGB = (168, 168, 174)
_BRASS: RGB = (222, 186, 92)
_LEATHER: RGB = (128, 84, 52)
_LAMP: RGB = (255, 232, 140)


def _wheel(x: float, y: float, radius: float) -> Drawing:
    """A tyre and its hub, the hub in the object's colour made lighter."""
    return ellipse(x, y, radius, radius, INK), ellipse(x, y, radius * 0.5, radius * 0.5, shade(0.35))


def _spoked(x: float, y: float, radius: float) -> Drawing:
    """A locomotive's wheel: a rim in the object's colour, made darker, around a metal hub."""
    return (
        ellipse(x, y, radius, radius, INK),
        ellipse(x, y, radius * 0.7, radius * 0.7, shade(-0.2)),
        ellipse(x, y, radius * 0.28, radius * 0.28, _METAL),
    )


def _tick(x: float, y: float) -> Shape:
    """One of a clock's hour marks."""
    return ellipse(x, y, 0.03, 0.03, INK)


_CAR: Drawing = (
    blob((0.16, 0.5), (0.26, 0.27), (0.38, 0.21), (0.56, 0.22), (0.68, 0.33), (0.78, 0.52), (0.45, 0.58)),
    poly((0.04, 0.54), (0.08, 0.45), (0.74, 0.43), (0.91, 0.5), (0.96, 0.57), (0.96, 0.74), (0.04, 0.74)),
    poly((0.26, 0.45), (0.32, 0.31), (0.43, 0.29), (0.43, 0.45), ink=_GLASS),
    poly((0.49, 0.45), (0.49, 0.29), (0.56, 0.3), (0.66, 0.45), ink=_GLASS),
    rect(0.04, 0.68, 0.96, 0.75, shade(-0.3)),
    line((0.46, 0.49), (0.46, 0.66), width=0.025, ink=shade(-0.35)),
    line((0.5, 0.54), (0.56, 0.54), width=0.03, ink=INK),
    ellipse(0.91, 0.58, 0.035, 0.045, _LAMP),
    *_wheel(0.26, 0.74, 0.125),
    *_wheel(0.74, 0.74, 0.125),
)

_TRAIN: Drawing = (
    rect(0.05, 0.62, 0.9, 0.76, shade(-0.3)),
    poly((0.84, 0.64), (0.97, 0.87), (0.78, 0.87), ink=shade(-0.35)),
    rect(0.08, 0.2, 0.42, 0.68),
    rect(0.03, 0.13, 0.47, 0.22, shade(-0.3)),
    rect(0.16, 0.29, 0.35, 0.46, _GLASS),
    rect(0.4, 0.37, 0.84, 0.66),
    ellipse(0.84, 0.515, 0.07, 0.145, shade(0.3)),
    rect(0.58, 0.37, 0.62, 0.66, _BRASS),
    ellipse(0.54, 0.37, 0.06, 0.07),
    poly((0.69, 0.38), (0.65, 0.12), (0.85, 0.12), (0.81, 0.38)),
    rect(0.63, 0.08, 0.87, 0.15, shade(-0.35)),
    *_spoked(0.22, 0.77, 0.15),
    *_spoked(0.5, 0.81, 0.11),
    *_spoked(0.73, 0.81, 0.11),
)

_BOAT: Drawing = (
    rect(0.46, 0.04, 0.51, 0.74, INK),
    poly((0.54, 0.07), (0.74, 0.3), (0.9, 0.62), (0.5, 0.62), (0.5, 0.07)),
    poly((0.47, 0.14), (0.47, 0.62), (0.12, 0.62), (0.32, 0.42), ink=shade(0.3)),
    line((0.52, 0.46), (0.8, 0.46), width=0.025, ink=shade(-0.3)),
    line((0.52, 0.29), (0.7, 0.29), width=0.025, ink=shade(-0.3)),
    poly((0.03, 0.69), (0.97, 0.67), (0.88, 0.84), (0.76, 0.95), (0.22, 0.95), (0.1, 0.84), ink=shade(-0.15)),
    poly((0.03, 0.69), (0.97, 0.67), (0.93, 0.75), (0.06, 0.76), ink=shade(-0.4)),
    *(ellipse(x, 0.84, 0.035, 0.035, _GLASS) for x in (0.34, 0.5, 0.66)),
)

_BENCH: Drawing = (
    *(rect(x, 0.24, x + 0.06, 0.6, INK) for x in (0.14, 0.8)),
    *(rect(0.04, y, 0.96, y + 0.085) for y in (0.22, 0.335, 0.45)),
    poly((0.09, 0.56), (0.91, 0.56), (0.97, 0.68), (0.03, 0.68), ink=shade(0.2)),
    rect(0.03, 0.67, 0.97, 0.74, shade(-0.3)),
    *(rect(x, 0.73, x + 0.07, 0.86, INK) for x in (0.135, 0.795)),
    *(rect(x, 0.84, x + 0.17, 0.89, INK) for x in (0.085, 0.745)),
)

_CHAIR: Drawing = (
    line((0.72, 0.6), (0.75, 0.84), width=0.07, ink=shade(-0.35)),
    line((0.28, 0.56), (0.25, 0.84), width=0.07, ink=shade(-0.35)),
    line((0.22, 0.08), (0.26, 0.58), width=0.09),
    line((0.64, 0.08), (0.66, 0.54), width=0.09),
    poly((0.2, 0.05), (0.66, 0.05), (0.67, 0.19), (0.21, 0.19)),
    *(line((x, 0.18), (x + 0.02, 0.52), width=0.05, ink=shade(-0.2)) for x in (0.36, 0.5)),
    poly((0.24, 0.5), (0.68, 0.5), (0.86, 0.64), (0.36, 0.64), ink=shade(0.25)),
    poly((0.24, 0.5), (0.36, 0.64), (0.36, 0.72), (0.24, 0.58), ink=shade(-0.3)),
    rect(0.36, 0.63, 0.86, 0.71),
    line((0.405, 0.68), (0.4, 0.92), width=0.08),
    line((0.815, 0.68), (0.82, 0.92), width=0.08),
)

_CLOCK: Drawing = (
    line((0.26, 0.84), (0.17, 0.93), width=0.09, ink=shade(-0.4)),
    line((0.74, 0.84), (0.83, 0.93), width=0.09, ink=shade(-0.4)),
    ellipse(0.24, 0.17, 0.17, 0.12, shade(-0.25), tilt=-40),
    ellipse(0.76, 0.17, 0.17, 0.12, shade(-0.25), tilt=40),
    rect(0.46, 0.05, 0.54, 0.2, _METAL),
    ellipse(0.5, 0.55, 0.41, 0.41),
    ellipse(0.5, 0.55, 0.31, 0.31, shade(0.35)),
    *(_tick(x, y) for x, y in ((0.5, 0.3), (0.75, 0.55), (0.5, 0.8), (0.25, 0.55))),
    line((0.5, 0.55), (0.5, 0.36), width=0.055, ink=INK),
    line((0.5, 0.55), (0.64, 0.63), width=0.065, ink=INK),
)

_SUITCASE: Drawing = (
    line((0.35, 0.3), (0.35, 0.17), (0.65, 0.17), (0.65, 0.3), width=0.075, ink=INK),
    rect(0.04, 0.3, 0.96, 0.86),
    *(rect(x, 0.3, x + 0.05, 0.86, shade(-0.35)) for x in (0.24, 0.71)),
    line((0.05, 0.47), (0.95, 0.47), width=0.03, ink=shade(-0.35)),
    poly((0.04, 0.3), (0.16, 0.3), (0.04, 0.42), ink=_LEATHER),
    poly((0.96, 0.3), (0.84, 0.3), (0.96, 0.42), ink=_LEATHER),
    poly((0.04, 0.86), (0.16, 0.86), (0.04, 0.74), ink=_LEATHER),
    poly((0.96, 0.86), (0.84, 0.86), (0.96, 0.74), ink=_LEATHER),
    *(rect(x, 0.42, x + 0.09, 0.54, _METAL) for x in (0.22, 0.69)),
)

_BACKPACK: Drawing = (
    arc((0.4, 0.17), (0.42, 0.07), (0.5, 0.05), (0.58, 0.07), (0.6, 0.17), width=0.06, ink=shade(-0.4)),
    arc((0.24, 0.34), (0.1, 0.5), (0.1, 0.72), (0.22, 0.86), width=0.08, ink=shade(-0.35)),
    arc((0.76, 0.34), (0.9, 0.5), (0.9, 0.72), (0.78, 0.86), width=0.08, ink=shade(-0.35)),
    blob(
        (0.5, 0.11),
        (0.7, 0.17),
        (0.8, 0.36),
        (0.82, 0.86),
        (0.72, 0.95),
        (0.28, 0.95),
        (0.18, 0.86),
        (0.2, 0.36),
        (0.3, 0.17),
    ),
    arc((0.21, 0.4), (0.34, 0.48), (0.5, 0.5), (0.66, 0.48), (0.79, 0.4), width=0.04, ink=shade(-0.4)),
    rect(0.45, 0.43, 0.55, 0.56, _METAL),
    blob(
        (0.29, 0.62), (0.5, 0.61), (0.71, 0.62), (0.73, 0.84), (0.66, 0.89), (0.34, 0.89), (0.27, 0.84), ink=shade(0.3)
    ),
    line((0.3, 0.69), (0.7, 0.69), width=0.035, ink=INK),
    line((0.62, 0.69), (0.62, 0.77), width=0.035, ink=INK),
)

DRAWINGS: dict[str, Drawing] = {
    "car": _CAR,
    "train": _TRAIN,
    "boat": _BOAT,
    "bench": _BENCH,
    "chair": _CHAIR,
    "clock": _CLOCK,
    "suitcase": _SUITCASE,
    "backpack": _BACKPACK,
}
