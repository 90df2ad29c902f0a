"""Table I as Markdown, CSV and JSON: a row per system, and every system paired with every other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from realignkit.evaluation.methods import MethodsTable
from realignkit.evaluation.statistics import Interval, shown_p
from realignkit.evaluation.summary import Value
from realignkit.evaluation.write_evaluation import (
    INTERVALS,
    PAIRED,
    ShownTable,
    change_cells,
    records_csv,
    shown,
    tables_page,
)
from realignkit.files import atomic_write

METHODS = "methods"
"""What the files are called, but for their endings."""


def systems_table(table: MethodsTable) -> ShownTable:
    """A row per system, a column per number; those of one kind of element are left to each row's own folder."""
    columns = list(
        dict.fromkeys((v.metric, v.name) for values in table.values.values() for v in values if "/" not in v.name)
    )
    rows = []
    for name, values in table.values.items():
        by_name = {(value.metric, value.name): value for value in values}
        numbers = [shown(by_name[column]) if column in by_name else "-" for column in columns]
        rows.append((name, *numbers, *(_rank(ranks.get(name)) for ranks in table.ranks.values())))
    headings = [name if name == metric else f"{metric} {name}" for metric, name in columns]
    headings += [f"{question} rank" for question in table.ranks]
    return ShownTable("", ("system", *headings), tuple(rows))


def _rank(ranked: tuple[float, Interval] | None) -> str:
    if ranked is None:
        return "-"
    rank, interval = ranked
    return f"{rank:.2f}" + (f" [{interval[0]:.2f}, {interval[1]:.2f}]" if interval else "")


def pairs_tables(table: MethodsTable) -> list[ShownTable]:
    """For each metric's first number, every system against every later one."""
    first: dict[str, str] = {}
    for changes in table.pairs.values():
        for change in changes:
            first.setdefault(change.metric, change.name)
    tables = []
    for metric, name in first.items():
        rows = tuple(
            (before, after, *change_cells(change)[4:], shown_p(change.p))
            for (before, after), changes in table.pairs.items()
            for change in changes
            if (change.metric, change.name) == (metric, name)
        )
        headings = ("system", "against", "first", "second", "difference [95 %]", "fixed / broken", "sign-flip p")
        title = name if name == metric else f"{metric} {name}"
        tables.append(ShownTable(f"{title}: every system with every other", headings, rows))
    return tables


def notes_of(table: MethodsTable) -> list[str]:
    """What to know about the rows."""
    people = ["Ranks are people's, 1 for the best, from a study of some of the pictures."] if table.ranks else []
    return [table.about, *(f"{name}: {note}" for name, note in table.notes.items()), *people]


def methods_page(table: MethodsTable) -> str:
    """Table I as a page of Markdown."""
    return tables_page(notes_of(table), [systems_table(table), *pairs_tables(table)], f"{INTERVALS} {PAIRED}")


def write_methods(folder: str | Path, table: MethodsTable) -> list[Path]:
    """Write ``methods.md``, ``.csv`` and ``.json``.

    Raises:
        OutputError: they cannot be written.
    """
    records = [_record(name, value) for name, values in table.values.items() for value in values]
    compared: list[dict[str, Any]] = [
        {"system": before, "against": after, **change.record()}
        for (before, after), changes in table.pairs.items()
        for change in changes
    ]
    people = {"ranks": table.ranks} if table.ranks else {}
    texts = {
        "md": methods_page(table),
        "csv": records_csv(records),
        "json": json.dumps({"systems": records, "pairs": compared, **people}, indent=1, ensure_ascii=False) + "\n",
    }
    return [atomic_write(Path(folder) / f"{METHODS}.{ending}", text) for ending, text in texts.items()]


def _record(name: str, value: Value) -> dict[str, Any]:
    return {"system": name, **value.record()}
