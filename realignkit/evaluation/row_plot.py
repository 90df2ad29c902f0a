"""A table of rows as a picture: values and differences to the base, with their intervals. Plain SVG, no library."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from realignkit.evaluation.table import RowTable

_LINE, _TOP, _BOTTOM, _GAP = 26, 46, 34, 26
_PANEL = 300
_CHARACTER = 7.0  # width of a letter at the font's size, in pixels; generous
_INK, _FAINT, _MARK = "#333", "#ccc", "#2a6f97"


@dataclass(frozen=True)
class _Point:
    value: float
    low: float | None
    high: float | None


def svg(table: RowTable) -> str:
    """The picture as an SVG document; all text is escaped."""
    unit = " %" if table.binary else ""
    panels: list[tuple[str, list[_Point | None], bool]] = [
        (
            f"{table.value.replace('_', ' ')}{unit}",
            [_Point(row.value, row.low, row.high) for row in table.rows],
            False,
        )
    ]
    for side in ("base", "control"):
        found = [getattr(row, side) for row in table.rows]
        if any(found):
            against = next(item.against for item in found if item)
            points = [None if item is None else _Point(item.gain, item.low, item.high) for item in found]
            panels.append((f"difference to {against}{', points' if table.binary else ''}", points, True))
    names = [f"{row.name} (n={row.n}, {row.prompts} prompts)" for row in table.rows]
    left = 16 + _CHARACTER * max((len(name) for name in names), default=0)
    width = left + len(panels) * (_PANEL + _GAP)
    height = _TOP + _LINE * len(names) + _BOTTOM
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height}" '
        f'viewBox="0 0 {width:.0f} {height}" font-family="sans-serif" font-size="12" fill="{_INK}">',
        f"<title>{escape(f'{table.value}: {table.source}')}</title>",
        f'<rect width="{width:.0f}" height="{height}" fill="white"/>',
    ]
    for place, name in enumerate(names):
        parts.append(_text(left - 10, _row(place) + 4, name, "end"))
    for number, (title, points, zero) in enumerate(panels):
        parts += _panel(left + number * (_PANEL + _GAP), title, points, zero)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _panel(left: float, title: str, points: Sequence[_Point | None], zero: bool) -> list[str]:
    known = [point for point in points if point is not None]
    ends = [end for point in known for end in (point.low, point.high, point.value) if end is not None]
    ends += [0.0] if zero else []
    marks = ticks(min(ends), max(ends)) if ends else [0.0, 1.0]
    low, high = marks[0], marks[-1]

    def x(value: float) -> float:
        return left + _PANEL * (value - low) / (high - low)

    bottom = _TOP + _LINE * len(points)
    parts = [_text(left + _PANEL / 2, 18, title, "middle", bold=True)]
    for mark in marks:
        strong = zero and mark == 0
        parts.append(_line(x(mark), _TOP - 6, x(mark), bottom, _INK if strong else _FAINT))
        parts.append(_text(x(mark), bottom + 16, f"{mark:+g}" if zero and mark else f"{mark:g}", "middle"))
    for place, point in enumerate(points):
        if point is None:
            continue
        y = _row(place)
        if point.low is not None and point.high is not None:
            parts.append(_line(x(point.low), y, x(point.high), y, _MARK, 2))
            parts += [_line(x(end), y - 4, x(end), y + 4, _MARK, 2) for end in (point.low, point.high)]
        parts.append(f'<circle cx="{x(point.value):.1f}" cy="{y}" r="4" fill="{_MARK}"/>')
    return parts


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers that cover [low, high]: at least two, about ``most``."""
    span = max(high - low, 1e-9)
    rough = span / (most - 1)
    power = 10 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(place * step, 12) for place in range(first, max(last, first + 1) + 1)]


def _row(place: int) -> float:
    return _TOP + _LINE * place + _LINE / 2


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, width: int = 1) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" stroke-width="{width}"/>'


def _text(x: float, y: float, text: str, anchor: str, *, bold: bool = False) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{weight}>{escape(text)}</text>'
