"""Pictures side by side for papers: systems by prompts (figures 1, 4, 5, 6, 8), and the steps of a run (figure 9)."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from PIL.Image import Image

from realignkit.errors import OptionError
from realignkit.files import atomic_write
from realignkit.images import open_image
from realignkit.plots import FORMATS, STYLE, check_matplotlib, document, fonts_for, visible, wrapped
from realignkit.report.overlay import SMALL, overlay

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from realignkit.realignment import Realignment

CELL, LABEL = 2.0, 1.7
"""Inches: how wide a picture is, and a row's label."""
POINTS, LETTERS = 8, 26
"""The size of text, and how many columns of it go into a label or under a picture's heading."""
_LINE, _GAP = POINTS * 1.3 / 72, 0.08  # inches

Cell = Image | tuple[str, ...]
"""A picture, or paragraphs of text."""
_Key = tuple[str, int | None, int]
"""A picture's prompt, its seed, and how many before it have both."""


class Picture(Protocol):
    """What a comparison needs to know of a picture; see :class:`realignkit.evaluation.pictures.Picture`."""

    @property
    def prompt(self) -> str: ...  # noqa: D102

    @property
    def seed(self) -> int | None: ...  # noqa: D102

    @property
    def path(self) -> Path: ...  # noqa: D102


@dataclass(frozen=True, eq=False)
class Grid:
    """What a figure shows.

    Attributes:
        columns: headings.
        rows: labels.
        cells: row by row, one for each column.
        notes: what was left out, in words.
    """

    columns: tuple[str, ...]
    rows: tuple[str, ...]
    cells: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = ()


def compare(
    systems: Mapping[str, Sequence[Picture]], prompts: Sequence[str] | None = None, most: int | None = None
) -> Grid:
    """Systems by prompts: a row for each prompt and seed of which every system has a picture.

    Where one system's seeds are not known, pictures of a prompt are matched by their order.

    Args:
        systems: label -> pictures, as :func:`realignkit.evaluation.pictures.read_pictures` reads them.
        prompts: those to show, in this order; None: all, in the first system's order.
        most: rows at most; None: all.

    Raises:
        OptionError: there is no system, no row, or no such prompt.
    """
    if not systems:
        raise OptionError("a comparison needs at least one system: give the folder of a run.")
    seeded = all(picture.seed is not None for pictures in systems.values() for picture in pictures)
    keyed = {label: _keyed(pictures, seeded) for label, pictures in systems.items()}
    keys = list(dict.fromkeys(key for pictures in keyed.values() for key in pictures))
    if prompts is not None:
        known = {prompt for prompt, *_ in keys}
        if unknown := [prompt for prompt in prompts if prompt not in known]:
            raise OptionError(f"no system has a picture of '{unknown[0][:60]}': write the prompt as the runs have it.")
        keys = [key for prompt in prompts for key in keys if key[0] == prompt]
    common, notes = [], []
    for key in keys:
        if lacking := [label for label, pictures in keyed.items() if key not in pictures]:
            notes.append(f"left out: {_named(key)}: no picture in {_and(lacking)}")
        else:
            common.append(key)
    if not common:
        raise OptionError(f"{_and(systems)} have no prompt and seed in common: give runs of the same ones.")
    shown = common[:most]
    if len(shown) < len(common):
        notes.append(f"left out: {len(common) - len(shown)} more that all have; --rows shows more")
    cells = tuple(tuple(open_image(keyed[label][key].path)[0] for label in systems) for key in shown)
    return Grid(tuple(systems), tuple(_label(key) for key in shown), cells, tuple(notes))


def steps(realignments: Sequence[Realignment]) -> Grid:
    """The steps of a run (figure 9): coarse image, tags with their local captions, layout, refined image.

    Args:
        realignments: one for each row.

    Raises:
        OptionError: there is none.
    """
    if not realignments:
        raise OptionError("a figure of steps needs at least one realignment: give a folder of 'realignkit run'.")
    rows: list[str] = []
    cells: list[tuple[Cell, ...]] = []
    for one in realignments:
        captions = {item.tag: f"{item.caption} ({item.likelihood})" for item in one.captions}
        found = tuple(f"{tag.name}: {captions.get(tag.name, 'not scored')}" for tag in one.tags)
        rows.append(_label((one.prompt, one.seed, 0)) + ("" if one.accepted else "\n(refined image not accepted)"))
        cells.append((one.coarse, found or ("no tag",), overlay(one.coarse, one.layout), one.refined))
    return Grid(("coarse image", "tags and captions", "layout", "refined image"), tuple(rows), tuple(cells))


def write_figure(grid: Grid, paths: Sequence[str | Path], title: str) -> list[str]:
    """Draw a grid, and write it to each of some files, whose names say the format.

    Args:
        grid: at least one row.
        paths: names that end in ``.png``, ``.svg`` or ``.pdf``.
        title: what the files say of themselves.

    Returns:
        Notes: which characters no installed font has, where that shows.

    Raises:
        OptionError: a name says no format, or matplotlib is not installed.
        OutputError: a file cannot be written.
    """
    kinds = [format_of(path) for path in paths]
    check_matplotlib()
    import matplotlib

    texts = [*grid.columns, *grid.rows, *(text for row in grid.cells for cell in row for text in _texts(cell))]
    families, missing = fonts_for(map(visible, texts))
    with matplotlib.rc_context({**STYLE, "font.family": families}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # is said below, once, and what to do
        for path, kind in zip(paths, kinds, strict=True):
            figure = _drawn(grid, every_pixel=kind != "png")
            atomic_write(path, document(figure, kind, visible(title), _dots_per_inch(grid)))
    if not missing or set(kinds) == {"svg"}:
        return []
    return [
        f"no installed font has '{missing[:20]}', which PNG and PDF show as boxes: install one (Noto Sans, say), or "
        f"write an SVG"
    ]


def format_of(path: str | Path) -> str:
    """The format that a figure's file has by its name.

    Raises:
        OptionError: it says none that there is.
    """
    kind = Path(path).suffix.lower().lstrip(".")
    if kind not in FORMATS:
        raise OptionError(f"'{path}' says no format of a figure: end its name in .png, .svg or .pdf.")
    return kind


def _drawn(grid: Grid, *, every_pixel: bool) -> Figure:
    """The figure; ``every_pixel``: pictures are put in as they are, not at the size at which they are shown."""
    from matplotlib.figure import Figure

    headings, labels = [_lines([text]) for text in grid.columns], [_lines([text]) for text in grid.rows]
    paragraphs = [[_lines(_texts(cell)) for cell in row] for row in grid.cells]
    heights = []
    for cells, label, texts in zip(grid.cells, labels, paragraphs, strict=True):
        tallest = max(CELL * cell.height / cell.width for cell in cells if isinstance(cell, Image))
        heights.append(max(tallest, max(map(len, [label, *texts])) * _LINE + _GAP))
    top = max(map(len, headings)) * _LINE + _GAP
    width = LABEL + len(grid.columns) * (CELL + _GAP) + _GAP
    height = top + sum(heights) + (len(heights) + 1) * _GAP
    figure = Figure(figsize=(width, height))

    def write(left: float, below: float, lines: Sequence[str], **style: Any) -> None:
        figure.text(left / width, 1 - below / height, "\n".join(lines), fontsize=POINTS, linespacing=1.1, **style)

    lefts = [LABEL + column * (CELL + _GAP) for column in range(len(grid.columns))]
    for left, lines in zip(lefts, headings, strict=True):
        write(left + CELL / 2, top, lines, ha="center", va="bottom", weight="bold")
    below = top + _GAP
    for cells, label, texts, high in zip(grid.cells, labels, paragraphs, heights, strict=True):
        write(_GAP, below + high / 2, label, va="center")
        for left, cell, lines in zip(lefts, cells, texts, strict=True):
            if not isinstance(cell, Image):
                write(left, below + high / 2, lines, va="center")
                continue
            axes = figure.add_axes((left / width, 1 - (below + high) / height, CELL / width, high / height))
            hard = every_pixel or max(cell.size) <= SMALL
            axes.imshow(cell.convert("RGB"), interpolation="none" if hard else "auto")
            axes.set_axis_off()
        below += high + _GAP
    return figure


def _dots_per_inch(grid: Grid) -> int:
    """So many that the widest picture keeps its pixels, from 150 to 600."""
    widest = max(cell.width for row in grid.cells for cell in row if isinstance(cell, Image))
    return min(600, max(150, math.ceil(widest / CELL)))


def _texts(cell: Cell) -> tuple[str, ...]:
    return () if isinstance(cell, Image) else cell


def _lines(paragraphs: Iterable[str]) -> list[str]:
    return [line for text in paragraphs for part in text.split("\n") for line in wrapped(part, LETTERS)]


def _keyed(pictures: Sequence[Picture], seeded: bool) -> dict[_Key, Picture]:
    keyed: dict[_Key, Picture] = {}
    for picture in pictures:
        number = 0
        while (key := (picture.prompt, picture.seed if seeded else None, number)) in keyed:
            number += 1
        keyed[key] = picture
    return keyed


def _label(key: _Key) -> str:
    prompt, seed, number = key
    which = ([] if seed is None else [f"seed {seed}"]) + ([f"no. {number + 1}"] if number else [])
    return "\n".join([visible(prompt), *([f"({', '.join(which)})"] if which else [])])


def _named(key: _Key) -> str:
    prompt, *which = _label(key).split("\n")
    return " ".join([f"'{prompt[:60]}'", *which])


def _and(labels: Iterable[str]) -> str:
    return " and ".join(f"'{label}'" for label in labels)
