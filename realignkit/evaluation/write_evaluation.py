"""Numbers of evaluations written down: Markdown, CSV, JSON and a plot, of one and of two that are compared."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from realignkit.evaluation.compare import Change, EvaluationPair
from realignkit.evaluation.statistics import HOW, shown_gain, shown_p
from realignkit.evaluation.summary import EVERYTHING, Value
from realignkit.evaluation.write import Panel, draw_panel, markdown_table
from realignkit.files import atomic_write
from realignkit.plots import STYLE, document
from realignkit.tables import csv_text

METRICS, COMPARISON = "metrics", "comparison"
"""What the files are called, but for their endings."""

INTERVALS = (
    "Intervals are 95 % and by prompt: Wilson's for shares, widened as far as the pictures of a prompt are alike; else "
    "prompts are drawn again, or for what a metric sums up itself, left out in turn. Each prompt counts the same."
)
PAIRED = (
    f"{HOW} Where values are no yes or no, the test draws choices of signs beyond 13 prompts. Numbers of whole sets, "
    f"such as fid, have neither interval nor test: no picture has one, and what is kept of a set cannot be taken apart "
    f"by prompt."
)


@dataclass(frozen=True)
class ShownTable:
    """A table as it is shown, under its title."""

    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def tables_of(values: Sequence[Value]) -> list[ShownTable]:
    """The numbers of an evaluation: over all pictures, by element, and by each group of prompts."""
    whole = [value for value in values if value.group == EVERYTHING]
    tables = [ShownTable("", ("metric", "value", "mean [95 %]", "pictures", "prompts"), _rows(whole, elements=False))]
    for metric in dict.fromkeys(value.metric for value in whole if "/" in value.name):
        headings = ("element", "mean [95 %]", "pictures", "prompts")
        rows = tuple(row[1:] for row in _rows([v for v in whole if v.metric == metric], elements=True))
        tables.append(ShownTable(f"{metric} by element", headings, rows))
    for group in dict.fromkeys(value.group for value in values if value.group != EVERYTHING):
        tables.append(_by_group(group, [value for value in values if value.group == group]))
    return tables


def _rows(values: Sequence[Value], *, elements: bool) -> tuple[tuple[str, ...], ...]:
    return tuple(
        (value.metric, value.name, shown(value), str(value.n), str(value.prompts))
        for value in values
        if ("/" in value.name) == elements
    )


def _by_group(group: str, values: Sequence[Value]) -> ShownTable:
    names = list(dict.fromkeys((value.metric, value.name) for value in values))
    cells: dict[str, dict[tuple[str, str], Value]] = {}
    for value in values:
        cells.setdefault(value.label, {})[value.metric, value.name] = value
    rows = []
    for label, by_name in cells.items():
        prompts = max(value.prompts for value in by_name.values())
        rows.append((label, str(prompts), *(shown(by_name[name]) if name in by_name else "-" for name in names)))
    headings = (_words(group), "prompts", *(name if name == metric else f"{metric} {name}" for metric, name in names))
    return ShownTable(f"by {_words(group)}", headings, tuple(rows))


def _words(name: str) -> str:
    return name.replace("_", " ")


def shown(value: Value) -> str:
    """A number with its interval; shares of yes in percent."""
    numbers = [_number(each, value.binary) for each in (value.value, value.low, value.high) if each is not None]
    percent = " %" if value.binary else ""
    return f"{numbers[0]}{percent}" + (f" [{numbers[1]}, {numbers[2]}]" if len(numbers) == 3 else "")


def _number(value: float, binary: bool) -> str:
    return f"{100 * value:.1f}" if binary else f"{value:.4g}"


def write_metrics(
    folder: str | Path, record: Mapping[str, Any], values: Sequence[Value], silent: Sequence[str] = ()
) -> list[Path]:
    """Write ``metrics.md``, ``.csv``, ``.json``, and ``.svg`` where matplotlib is installed.

    Args:
        folder: of the evaluation.
        record: its ``eval.json``.
        values: of its metrics.
        silent: of how many pictures metrics know nothing to say, a phrase each.

    Returns:
        The files.

    Raises:
        OutputError: they cannot be written.
    """
    pictures = record["pictures"]
    about = [f"Pictures: {pictures['source']}, {pictures['count']} of {pictures['prompts']} different prompts."]
    known = {name: facts_of(metric) for name, metric in record["metrics"].items()}
    about += [f"{name}: {in_words(facts)}." for name, facts in known.items() if facts]
    about += [f"{text}." for text in silent]
    texts = {
        "md": tables_page(about, tables_of(values), INTERVALS),
        "csv": records_csv([value.record() for value in values]),
        "json": json.dumps([value.record() for value in values], indent=1, ensure_ascii=False) + "\n",
    }
    if whole := [value for value in values if value.group == EVERYTHING]:
        with contextlib.suppress(ModuleNotFoundError):
            texts["svg"] = _plot(whole)
    return [atomic_write(Path(folder) / f"{METRICS}.{ending}", text) for ending, text in texts.items()]


def facts_of(metric: Mapping[str, Any]) -> dict[str, Any]:
    """What a metric's numbers depend on beside the pictures, of what ``eval.json`` has of it."""
    facts = dict(metric["identity"])
    if "weights" in metric:  # a metric that names its weights' file has loaded them too
        facts["loaded weights" if "weights" in facts else "weights"] = metric["weights"]
    return facts


def in_words(facts: Mapping[str, Any]) -> str:
    """Facts by name, one after another."""
    return ", ".join(f"{name} {value}" for name, value in facts.items())


def tables_page(about: Sequence[str], tables: Sequence[ShownTable], how: str) -> str:
    """Paragraphs, tables and how to read them, as Markdown."""
    lines = [line for text in about for line in (text, "")]
    for table in tables:
        lines += [f"## {table.title[:1].upper()}{table.title[1:]}", ""] if table.title else []
        lines += [*markdown_table(table.headings, table.rows), ""]
    return "\n".join([*lines, how]) + "\n"


def records_csv(records: Sequence[Mapping[str, Any]]) -> str:
    """Records of the same fields, with a number per cell, for spreadsheets."""
    return csv_text([records[0], *(record.values() for record in records)]) if records else "\n"


def _plot(values: Sequence[Value]) -> str:
    """A panel for each metric: its values with their intervals."""
    import matplotlib
    from matplotlib.figure import Figure

    metrics = list(dict.fromkeys(value.metric for value in values))
    by_metric = [[value for value in values if value.metric == metric] for metric in metrics]
    heights = [0.8 + 0.3 * len(some) for some in by_metric]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.5, sum(heights)), layout="constrained")
        axes = figure.subplots(len(metrics), 1, squeeze=False, height_ratios=heights)[:, 0]
        for number, (axis, some) in enumerate(zip(axes, by_metric, strict=True)):
            axis.set_title(metrics[number], fontsize=10)
            draw_panel(axis, Panel(metrics[number], [(v.value, v.low, v.high) for v in some]), f"value-{number}")
            axis.set_yticks(range(len(some)), [f"{v.name} (n={v.n})" for v in some])
            axis.set_ylim(len(some) - 0.5, -0.5)
        return document(figure, "svg", ", ".join(metrics)).decode()


def comparison_table(pair: EvaluationPair) -> ShownTable:
    """What differs between two evaluations."""
    headings = ("metric", "value", "pairs", "prompts", "before", "after", "difference [95 %]", "fixed / broken")
    rows = [(*change_cells(change), shown_p(change.p)) for change in pair.changes]
    for metric, values in pair.whole.items():
        for name, (before, after) in values.items():
            rows.append((metric, name, "-", "-", *_whole_cells(before, after), "-", "-"))
    return ShownTable("", (*headings, "sign-flip p"), tuple(rows))


def _whole_cells(before: float, after: float) -> tuple[str, str, str]:
    """Two numbers of whole sets, and their difference to as many places: what lies beyond is rounding, not a change."""
    largest = max(abs(before), abs(after))
    places = max(0, 3 - math.floor(math.log10(largest))) if largest else 0
    return f"{before:.4g}", f"{after:.4g}", f"{round(after - before, places) + 0.0:+.{places}f}"  # no -0


def pair_records(pair: EvaluationPair) -> list[dict[str, Any]]:
    """All that differs between two evaluations, as JSON values; numbers of whole sets last."""
    sets = [_whole_record(metric, name, *both) for metric, of in pair.whole.items() for name, both in of.items()]
    return [*(change.record() for change in pair.changes), *sets]


def _whole_record(metric: str, name: str, before: float, after: float) -> dict[str, Any]:
    """A change of a number of whole sets, as :meth:`Change.record`."""
    known = {"metric": metric, "name": name, "before": before, "after": after, "gain": after - before}
    return {**dict.fromkeys(field.name for field in fields(Change)), **known}


def change_cells(change: Change) -> tuple[str, ...]:
    """A change as cells: metric, value, pairs, prompts, before, after, difference, fixed / broken."""
    binary = change.fixed is not None
    scale, digits = (100.0, 1) if binary else (1.0, 4)
    low, high = (None if each is None else scale * each for each in (change.low, change.high))
    means = [f"{_number(each, binary)}{' %' if binary else ''}" for each in (change.before, change.after)]
    moved = f"{change.fixed} / {change.broken}" if binary else "-"
    gain = shown_gain(scale * change.gain, low, high, digits)
    return (change.metric, change.name, str(change.n), str(change.prompts), *means, gain, moved)


def write_comparison(folder: str | Path, about: str, pair: EvaluationPair) -> list[Path]:
    """Write ``comparison.md``, ``.csv`` and ``.json``.

    Args:
        folder: where to.
        about: what is compared, a sentence.
        pair: the two.

    Returns:
        The files.

    Raises:
        OutputError: they cannot be written.
    """
    records = [change.record() for change in pair.changes]
    whole = {metric: {name: list(both) for name, both in values.items()} for metric, values in pair.whole.items()}
    texts = {
        "md": tables_page([about, *pair.notes], [comparison_table(pair)], PAIRED),
        "csv": records_csv(pair_records(pair)),
        "json": json.dumps({"changes": records, "whole": whole}, indent=1, ensure_ascii=False) + "\n",
    }
    return [atomic_write(Path(folder) / f"{COMPARISON}.{ending}", text) for ending, text in texts.items()]
