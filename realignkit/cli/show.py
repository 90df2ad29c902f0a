"""``realignkit show``: a saved realignment again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from realignkit.cli._progress import out, print_realignment, set_verbosity


def show(
    ctx: typer.Context,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder that 'realignkit run' has written.")],
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show tracebacks.")] = False,
) -> None:
    """Print a saved realignment, and make its report again."""
    set_verbosity(ctx, verbose)
    from realignkit.realignment import Realignment
    from realignkit.report import write_extras

    realignment = Realignment.load(folder)
    print_realignment(realignment)
    write_extras(realignment, folder)
    print_files(folder)


def print_files(folder: Path) -> None:
    """Say where the files are."""
    from realignkit.report.heatmaps import HEAT_SHEET

    out().print(f"written: {folder}/", markup=False)
    names = ["coarse.png", "layout.png", "refined.png", "sheet.png", "realignment.json", "report.html"]
    for name in names + [HEAT_SHEET] * (folder / HEAT_SHEET).is_file():
        out().print(f"  {folder / name}", markup=False)
