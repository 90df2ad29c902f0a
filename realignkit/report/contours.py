"""Outlines of masks as closed polygons, and strokes along them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from realignkit.types import Likelihood, Mask

Point = tuple[float, float]

DASHES: dict[Likelihood, tuple[float, float] | None] = {
    Likelihood.CERTAIN: None,
    Likelihood.POSSIBLE: (7.0, 4.0),
    Likelihood.UNLIKELY: (1.5, 3.5),
}
"""Stroke and gap in line widths; None is a solid line. Likelihood must not be told by colour alone."""


def contours(mask: Mask) -> list[list[tuple[int, int]]]:
    """The boundary of a mask as closed polygons of pixel corners, holes included.

    Args:
        mask: bool (H, W).

    Returns:
        Polygons of (x, y) corners with 0 <= x <= W and 0 <= y <= H, straight runs merged, the first point not
        repeated. Filling them by the even-odd rule gives the mask back.
    """
    padded = np.pad(mask, 1)
    following: dict[tuple[int, int], list[tuple[int, int]]] = {}
    # Each pixel side between inside and outside becomes an edge with the inside on its right, so that
    # as many edges leave a corner as enter it, and following them always closes a loop.
    for dy, dx, start, end in (
        (-1, 0, (0, 0), (1, 0)),
        (0, 1, (1, 0), (1, 1)),
        (1, 0, (1, 1), (0, 1)),
        (0, -1, (0, 1), (0, 0)),
    ):
        outside = ~np.roll(padded, (-dy, -dx), axis=(0, 1))
        for y, x in np.argwhere(padded & outside) - 1:
            following.setdefault((int(x) + start[0], int(y) + start[1]), []).append((int(x) + end[0], int(y) + end[1]))
    polygons = []
    while following:
        first = next(iter(following))
        polygon, corner = [first], _leave(following, first)
        while corner != first:
            polygon.append(corner)
            corner = _leave(following, corner)
        polygons.append(_merge_straight(polygon))
    return polygons


def dashes(polygon: Sequence[Point], stroke: float, gap: float) -> Iterator[tuple[Point, ...]]:
    """Cut a closed polygon into polylines of length ``stroke`` with gaps of length ``gap`` between them."""
    pen_down, left = True, stroke
    line: list[Point] = [polygon[0]]
    for (x0, y0), (x1, y1) in zip(polygon, [*polygon[1:], polygon[0]], strict=True):
        length = math.hypot(x1 - x0, y1 - y0)
        done = 0.0
        while length - done > left:
            done += left
            point = (x0 + (x1 - x0) * done / length, y0 + (y1 - y0) * done / length)
            if pen_down:
                yield (*line, point)
            line, pen_down = [point], not pen_down
            left = stroke if pen_down else gap
        left -= length - done
        if pen_down:
            line.append((x1, y1))
    if pen_down and len(line) > 1:
        yield tuple(line)


def _leave(following: dict[tuple[int, int], list[tuple[int, int]]], corner: tuple[int, int]) -> tuple[int, int]:
    ends = following[corner]
    end = ends.pop()
    if not ends:
        del following[corner]
    return end


def _merge_straight(polygon: list[tuple[int, int]]) -> list[tuple[int, int]]:
    neighbours = zip([polygon[-1], *polygon[:-1]], polygon, [*polygon[1:], polygon[0]], strict=True)
    return [b for a, b, c in neighbours if (b[0] - a[0]) * (c[1] - b[1]) != (b[1] - a[1]) * (c[0] - b[0])]
