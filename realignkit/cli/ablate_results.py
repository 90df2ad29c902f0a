"""``realignkit ablate join`` and ``pair``: what becomes of rows that have been measured."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from realignkit.cli._progress import out
from realignkit.cli.ablate_bench import print_rows


def join(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR …", help="What 'ablate rewards' or 'stages' wrote.")],
    folder: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where to write the whole.")],
    control: Annotated[str, typer.Option(help="The row that others are compared with beside the base.")] = "control",
) -> None:
    """Make one table of ablations that several processes measured, each with seeds of its own.

    realignkit ablate join ablations/a ablations/b --out ablations/both
    """
    from realignkit.evaluation.joining import join as join_folders
    from realignkit.evaluation.write import write_tables
    from realignkit.files import only_writer

    with only_writer(folder):
        join_folders(folders, folder)
        print_rows(write_tables(folder, control), folder)


def pair(
    results: Annotated[Path, typer.Argument(metavar="DIR|FILE", help="An ablation's folder, or its rows.jsonl.")],
    before: Annotated[str, typer.Argument(metavar="ROW_A")],
    after: Annotated[str, typer.Argument(metavar="ROW_B")],
) -> None:
    """Compare any two rows of an ablation, paired by prompt and seed.

    realignkit ablate pair ablations/rewards clip caption
    """
    from realignkit.evaluation.results import AblationFolder
    from realignkit.evaluation.table import pair_rows
    from realignkit.evaluation.write import pair_cells, pair_columns

    folder = AblationFolder(results.parent if results.is_file() else results)
    found = pair_rows(folder.read(features=False), before, after)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in pair_columns(found):
        table.add_column(escape(heading))
    table.add_row(*map(escape, pair_cells(found)))
    out().print(table)
