"""Table I as Markdown, CSV, JSON and a plot: a row per system, and every system paired with every other."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

from realignkit.evaluation.methods import MethodsTable
from realignkit.evaluation.statistics import Interval
from realignkit.evaluation.summary import Value
from realignkit.evaluation.write import Panel, Point, panels_svg
from realignkit.evaluation.write_evaluation import (
    INTERVALS,
    PAIRED,
    ShownTable,
    comparison_table,
    in_words,
    pair_records,
    records_csv,
    shown,
    tables_page,
)
from realignkit.files import atomic_write

METHODS = "methods"
"""What the files are called, but for their endings."""


def systems_table(table: MethodsTable) -> ShownTable:
    """A row per system, a column per number; those of one kind of element are left to each row's own folder."""
    columns = _columns(table)
    rows = []
    for name, values in table.values.items():
        by_name = {(value.metric, value.name): value for value in values}
        numbers = [shown(by_name[column]) if column in by_name else "-" for column in columns]
        rows.append((name, *numbers, *(_rank(ranks.get(name)) for ranks in table.ranks.values())))
    headings = [_heading(*column) for column in columns]
    headings += [f"{question} rank" for question in table.ranks]
    return ShownTable("", ("system", *headings), tuple(rows))


def _columns(table: MethodsTable) -> list[tuple[str, str]]:
    """(metric, name) of the numbers that are shown."""
    values = (value for values in table.values.values() for value in values)
    return list(dict.fromkeys((value.metric, value.name) for value in values if "/" not in value.name))


def _heading(metric: str, name: str) -> str:
    return name if name == metric else f"{metric} {name}"


def _rank(ranked: tuple[float, Interval] | None) -> str:
    if ranked is None:
        return "-"
    rank, interval = ranked
    return f"{rank:.2f}" + (f" [{interval[0]:.2f}, {interval[1]:.2f}]" if interval else "")


def pairs_tables(table: MethodsTable) -> list[ShownTable]:
    """For each metric's first number, every system against every later one."""
    first: dict[str, str] = {}
    cells = {both: comparison_table(pair).rows for both, pair in table.pairs.items()}
    for rows in cells.values():
        for metric, name, *_ in rows:
            first.setdefault(metric, name)
    tables = []
    for metric, name in first.items():
        chosen = tuple((*both, *row[4:]) for both, rows in cells.items() for row in rows if row[:2] == (metric, name))
        headings = ("system", "against", "first", "second", "difference [95 %]", "fixed / broken", "sign-flip p")
        tables.append(ShownTable(f"{_heading(metric, name)}: every system with every other", headings, chosen))
    return tables


def notes_of(table: MethodsTable) -> list[str]:
    """What to know about the numbers and the rows."""
    measured = [f"{name}: {in_words({**_pictures(table, name), **facts})}." for name, facts in table.measured.items()]
    people = ["Ranks are people's, 1 for the best, from a study of some of the pictures."] if table.ranks else []
    return [table.about, *measured, *(f"{name}: {note}" for name, note in table.notes.items()), *people]


def _pictures(table: MethodsTable, metric: str) -> dict[str, str]:
    """How many pictures of each system a metric's numbers are of."""
    counts = {value.n for values in table.values.values() for value in values if value.metric == metric}
    return {"n": " to ".join(map(str, sorted({min(counts), max(counts)})))} if counts else {}


def methods_page(table: MethodsTable) -> str:
    """Table I as a page of Markdown."""
    return tables_page(notes_of(table), [systems_table(table), *pairs_tables(table)], f"{INTERVALS} {PAIRED}")


def methods_plot(table: MethodsTable) -> str:
    """Table I as an SVG document: each metric's first number, and people's ranks, with their intervals.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    first: dict[str, str] = {}
    for metric, name in _columns(table):
        first.setdefault(metric, name)
    panels = []
    for metric, name in first.items():
        column = [(row, value) for row, values in table.values.items() for value in values]
        by_row = {row: value for row, value in column if (value.metric, value.name) == (metric, name)}
        percent = any(value.binary for value in by_row.values())
        points = [_point(by_row[row], 100 if percent else 1) if row in by_row else None for row in table.values]
        panels.append(Panel(_heading(metric, name) + (" %" if percent else ""), points))
    for question, ranks in table.ranks.items():
        ranked = (ranks.get(row) for row in table.values)
        panels.append(Panel(f"{question} rank", [each and (each[0], *(each[1] or (None, None))) for each in ranked]))
    return panels_svg(panels, list(table.values), "Table I")


def _point(value: Value, scale: float) -> Point:
    low, high = (None if end is None else scale * end for end in (value.low, value.high))
    return scale * value.value, low, high


def write_methods(folder: str | Path, table: MethodsTable) -> list[Path]:
    """Write ``methods.md``, ``.csv``, ``.json``, and ``.svg`` where matplotlib is installed.

    Raises:
        OutputError: they cannot be written.
    """
    records = [_record(name, value) for name, values in table.values.items() for value in values]
    compared: list[dict[str, Any]] = [
        {"system": before, "against": after, **record}
        for (before, after), pair in table.pairs.items()
        for record in pair_records(pair)
    ]
    more = {name: known for name in ("ranks", "measured") if (known := getattr(table, name))}
    content = {"systems": records, "pairs": compared, **more}
    texts = {
        "md": methods_page(table),
        "csv": records_csv(records),
        "json": json.dumps(content, indent=1, ensure_ascii=False) + "\n",
    }
    with contextlib.suppress(ModuleNotFoundError):
        texts["svg"] = methods_plot(table)
    return [atomic_write(Path(folder) / f"{METHODS}.{ending}", text) for ending, text in texts.items()]


def _record(name: str, value: Value) -> dict[str, Any]:
    return {"system": name, **value.record()}
