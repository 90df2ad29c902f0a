"""``realignkit figure``: pictures of runs side by side, for papers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from realignkit.cli._progress import Command, note, out, set_verbosity

if TYPE_CHECKING:
    from realignkit.evaluation.pictures import Picture
    from realignkit.report.figures import Grid

SHOWN = 5
"""Notes that are printed at most."""

figure_app = typer.Typer(no_args_is_help=True, help="Draw figures of runs: PNG, SVG, PDF.")

Files = Annotated[list[Path] | None, typer.Option("--out", metavar="FILE", help="A .png, .svg or .pdf; repeatable.")]
Rows = Annotated[int, typer.Option(min=1, help="Rows at most.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Show tracebacks.")]


@figure_app.command("compare", cls=Command)
def compare(
    ctx: typer.Context,
    systems: Annotated[
        list[str],
        typer.Argument(metavar="[LABEL=]RUN...", help="Folders of runs, or lists of pictures; a column each."),
    ],
    files: Files = None,
    prompts: Annotated[
        list[str] | None, typer.Option("--prompt", help="Only this prompt; repeatable.", metavar="TEXT")
    ] = None,
    rows: Rows = 10,
    coarse: Annotated[bool, typer.Option("--coarse", help="Begin with the coarse images of the first run.")] = False,
    verbose: Verbose = False,
) -> None:
    """Draw systems by prompts: what each RUN drew for the prompts and seeds that all of them have."""
    set_verbosity(ctx, verbose)
    from realignkit.errors import OptionError
    from realignkit.evaluation.pictures import read_pictures
    from realignkit.plots import check_matplotlib
    from realignkit.report import figures

    check_matplotlib()
    paths = _paths(files, "compare.png")
    columns: dict[str, list[Picture]] = {}
    for spec in systems:
        label, source = _labelled(spec)
        if coarse and not columns:
            columns["coarse"] = read_pictures(source, stage="coarse")
        if label in columns:
            raise OptionError(f"two columns would be called '{label}': give LABEL=RUN.")
        columns[label] = read_pictures(source)
    grid = figures.compare(columns, prompts, rows)
    _write(grid, paths, " / ".join(grid.columns))


@figure_app.command("steps", cls=Command)
def steps(
    ctx: typer.Context,
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A folder that 'realignkit run' has written.")],
    files: Files = None,
    rows: Rows = 10,
    verbose: Verbose = False,
) -> None:
    """Draw the steps of a run (figure 9): coarse image, tags and captions, layout, refined image."""
    set_verbosity(ctx, verbose)
    from realignkit.evaluation.pictures import read_runs
    from realignkit.plots import check_matplotlib
    from realignkit.realignment import Realignment
    from realignkit.report import figures

    check_matplotlib()
    paths = _paths(files, "steps.png")
    folders = [picture.path.parent for picture in read_runs(run)]
    grid = figures.steps([Realignment.load(folder) for folder in folders[:rows]])
    _write(grid, paths, f"steps of {run.resolve().name}")
    if len(folders) > rows:
        note(f"left out: {len(folders) - rows} more; --rows shows more")


def _labelled(spec: str) -> tuple[str, str]:
    """The label and the place of a system; the place's own name where no label is given."""
    label, equals, source = spec.partition("=")
    if not equals or not label.strip() or Path(spec).exists():
        return Path(spec).resolve().stem or spec, spec
    return label.strip(), source


def _paths(files: Sequence[Path] | None, usual: str) -> list[Path]:
    """Where the figure goes; a name that says no format shows before any work."""
    from realignkit.report.figures import format_of

    paths = list(files or [Path(usual)])
    for path in paths:
        format_of(path)
    return paths


def _write(grid: Grid, files: Sequence[Path], title: str) -> None:
    from realignkit.report.figures import write_figure

    notes = [*grid.notes, *write_figure(grid, files, title)]
    for text in notes[:SHOWN]:
        note(text)
    if len(notes) > SHOWN:
        note(f"… and {len(notes) - SHOWN} more are left out")
    for path in files:
        out().print(f"written: {path}", markup=False)
