"""``realignkit show``: a saved realignment again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from realignkit.cli._progress import out, print_realignment, set_verbosity

if TYPE_CHECKING:
    from realignkit.realignment import Realignment


EXTRA_FILES = ("layout.png", "sheet.png", "report.html")
"""What :func:`write_extras` writes."""


def show(
    ctx: typer.Context,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder that 'realignkit run' has written.")],
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show tracebacks.")] = False,
) -> None:
    """Print a saved realignment, and make its report again."""
    set_verbosity(ctx, verbose)
    from realignkit.realignment import Realignment

    realignment = Realignment.load(folder)
    print_realignment(realignment)
    write_extras(realignment, folder)
    print_files(folder)


def write_extras(realignment: Realignment, folder: Path) -> None:
    """Write what is for people only: ``layout.png``, ``sheet.png`` (all in one picture), ``report.html``, heat maps."""
    from realignkit.files import atomic_write
    from realignkit.images import png
    from realignkit.report import contact_sheet, overlay, write_heat_maps, write_report

    atomic_write(folder / "layout.png", png(overlay(realignment.coarse, realignment.layout)))
    atomic_write(folder / "sheet.png", png(contact_sheet([realignment])))
    write_heat_maps(realignment, folder)
    write_report(realignment, folder)


def print_files(folder: Path) -> None:
    """Say where the files are."""
    from realignkit.report.heatmaps import HEAT_SHEET

    out().print(f"written: {folder}/", markup=False)
    names = ["coarse.png", "layout.png", "refined.png", "sheet.png", "realignment.json", "report.html"]
    for name in names + [HEAT_SHEET] * (folder / HEAT_SHEET).is_file():
        out().print(f"  {folder / name}", markup=False)
