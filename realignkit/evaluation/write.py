"""Tables of rows written down: Markdown, CSV, JSON and an SVG, into the ablation's folder."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from realignkit.evaluation.results import AblationFolder
from realignkit.evaluation.row_plot import svg
from realignkit.evaluation.statistics import HOW, shown_gain, shown_p
from realignkit.evaluation.table import CONTROL, Difference, Pair, RowResult, RowTable, tabulate
from realignkit.files import atomic_write

FILES = ("table.md", "table.csv", "table.json", "plot.svg")


def write_tables(folder: str | Path, control: str = CONTROL) -> RowTable:
    """Count what a folder has, and write :data:`FILES`.

    Args:
        folder: that :class:`realignkit.evaluation.plan.RowAblation` filled.
        control: see :func:`realignkit.evaluation.table.tabulate`.

    Raises:
        OutputError: it holds no ablation, is damaged, or cannot be written.
    """
    results = AblationFolder(folder)
    table = tabulate(results.existing(), results.read(), results.reference(), control)
    texts = (
        markdown(table),
        comma_separated(table),
        json.dumps([row.record() for row in table.rows], indent=1) + "\n",
        svg(table),
    )
    for name, text in zip(FILES, texts, strict=True):
        atomic_write(results.folder / name, text)
    return table


def columns(table: RowTable) -> list[str]:
    """The headings of the table as it is shown."""
    percent = " %" if table.binary else ""
    found = ["row", "pictures", "prompts", f"{table.value.replace('_', ' ')}{percent} [95 %]"]
    for name in ("base", "control"):
        if any(getattr(row, name) for row in table.rows):
            found.append(f"vs {_against(table, name)} [95 %]")
            found += ["fixed / broken", "sign-flip p"] if table.binary else []
    found += table.scores
    if any(row.frechet is not None for row in table.rows):
        found += ["Fréchet", "/ base's [95 %]"]
    return found


def cells(table: RowTable) -> list[list[str]]:
    """The table's rows as they are shown, a text per heading."""
    return [_cells(table, row) for row in table.rows]


def _cells(table: RowTable, row: RowResult) -> list[str]:
    digits = 1 if table.binary else 3
    known = row.low is not None and row.high is not None
    interval = f"{row.low:.{digits}f}, {row.high:.{digits}f}" if known else "-"
    found = [row.name, str(row.n), str(row.prompts), f"{row.value:.{digits}f} [{interval}]"]
    for name in ("base", "control"):
        if any(getattr(other, name) for other in table.rows):
            found += _difference(getattr(row, name), table.binary, _shown(table, row, getattr(row, name)))
    for name in table.scores:
        score = row.scores.get(name)
        found.append("-" if score is None else f"{score.mean:.4f}{'*' if score.raised else ''}")
    if any(other.frechet is not None for other in table.rows):
        found.append("-" if row.frechet is None else f"{row.frechet:.4g}")
        found.append(_ratio(row))
    return found


def _shown(table: RowTable, row: RowResult, found: Difference | None) -> bool:
    """Whether a difference is that of the values which the two rows show: both have the same pictures."""
    return found is None or all(other.n == found.n for other in table.rows if other.name in (row.name, found.against))


def _difference(found: Difference | None, binary: bool, shown: bool = True) -> list[str]:
    if found is None:
        return ["-"] * (3 if binary else 1)
    digits = 1 if binary else 3
    gain = shown_gain(found.gain, found.low, found.high, digits)
    if not shown:
        gain += f" ({found.n} pairs: {found.before:.{digits}f} to {found.after:.{digits}f})"
    return [gain, f"{found.fixed} / {found.broken}", shown_p(found.p)] if binary else [gain]


def _ratio(row: RowResult) -> str:
    found = row.relative
    if found is None:
        return "-"
    interval = "" if found.low is None or found.high is None else f" [{found.low:.2f}, {found.high:.2f}]"
    return f"{found.value:.2f}{interval}"


def _against(table: RowTable, name: str) -> str:
    found: str = next(getattr(row, name).against for row in table.rows if getattr(row, name))
    return found


def markdown(table: RowTable) -> str:
    """A page with the table, a second one with each trained model, and how to read them."""
    seeds = sorted({seed for row in table.rows for seed in row.seeds})
    most = max((row.prompts for row in table.rows), default=0)
    lines = [
        f"Prompts: {table.source or 'unknown source'}, {most} different ones; seeds: "
        f"{', '.join(map(str, seeds))}. Metric: {table.metric}, {table.value}.",
        "",
        *_markdown_table(columns(table), cells(table)),
        "",
        *notes(table),
    ]
    models = [[row.name, *_model_cells(table, model)] for row in table.rows for model in row.models]
    if models:
        percent = " %" if table.binary else ""
        headings = ["row", "training seed", "reward", "iteration", "pictures", "prompts", f"base{percent}"]
        headings += [f"{table.value.replace('_', ' ')}{percent}", "vs base [95 %]"]
        headings += ["fixed / broken", "sign-flip p"] if table.binary else []
        lines += ["", "Each trained model, and the base, on the seeds that were dealt to it:", ""]
        lines += _markdown_table(headings, models)
    return "\n".join(lines) + "\n"


def notes(table: RowTable) -> list[str]:
    """How to read the table, a text per line."""
    found = []
    if table.binary:
        found.append(f"Intervals of shares are Wilson's, widened as far as the pictures of a prompt are alike. {HOW}")
    else:
        found.append(
            "Intervals of means resample prompts; those of differences, which are over the same prompts and seeds, "
            "hold what a sign-flip test by prompt does not reject."
        )
    if any(row.models for row in table.rows):
        found.append(
            "Intervals and p are about prompts and noise, for the models as they are: all pictures of a training share "
            "its luck. Compare the training seeds."
        )
    if table.scores:
        found.append(f"{', '.join(table.scores)}: mean of the reward.")
    if any(score.raised for row in table.rows for score in row.scores.values()):
        found.append("*: what the row was trained to raise, or chosen by, and so no evidence of better pictures.")
    if any(row.frechet is not None for row in table.rows):
        found.append(
            f"Fréchet: squared distance to {table.reference} reference pictures, by the features of {table.features}; "
            f"it falls with n, so compare rows of equal n. Its ratio to the base's is over the same prompts and seeds, "
            f"with a jackknife interval over prompts."
        )
    return found


def _model_cells(table: RowTable, model: Any) -> list[str]:
    record: Mapping[str, Any] = model.record
    reward = "none" if record.get("reward_weight") == 0 else record.get("reward")
    digits = 1 if table.binary else 3
    base = model.base
    facts = [record.get("seed"), reward, record.get("iteration"), model.n, model.prompts]
    return [
        *("-" if fact is None else str(fact) for fact in facts),
        "-" if base is None else f"{base.before:.{digits}f}",
        f"{model.value:.{digits}f}",
        *_difference(base, table.binary, base is None or base.n == model.n),
    ]


def _markdown_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [headings, ["---"] * len(headings), *rows]
    return [f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines]


def pair_columns(pair: Pair) -> list[str]:
    """The headings of a comparison of two rows."""
    binary = pair.difference.fixed is not None
    value = f"{pair.value.replace('_', ' ')}{' %' if binary else ''}"
    found = ["pairs", "prompts", f"{value} before", "after", "difference [95 %]"]
    return found + (["fixed / broken", "sign-flip p"] if binary else [])


def pair_cells(pair: Pair) -> list[str]:
    """Its values as they are shown."""
    found = pair.difference
    binary = found.fixed is not None
    means = [f"{mean:.{1 if binary else 3}f}" for mean in (found.before, found.after)]
    return [str(found.n), str(found.prompts), *means, *_difference(found, binary)]


def comma_separated(table: RowTable) -> str:
    """The table with a number per cell, for spreadsheets."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    sides = ("base", "control")
    numbers = ("n", "gain", "low", "high", "fixed", "broken", "p")
    writer.writerow(
        ["row", "n", "prompts", "seeds", table.value, "low", "high"]
        + [f"vs_{side}_{number}" for side in sides for number in numbers]
        + [f"{name}_{what}" for name in table.scores for what in ("mean", "error", "raised")]
        + ["frechet", "frechet_ratio", "frechet_ratio_low", "frechet_ratio_high"]
    )
    for row in table.rows:
        line: list[Any] = [row.name, row.n, row.prompts, len(row.seeds), row.value, row.low, row.high]
        line += [getattr(getattr(row, side), number, None) for side in sides for number in numbers]
        for name in table.scores:
            score = row.scores.get(name)
            line += [None] * 3 if score is None else [score.mean, score.error, score.raised]
        relative = row.relative
        line += [row.frechet, *([None] * 3 if relative is None else [relative.value, relative.low, relative.high])]
        writer.writerow(line)
    return buffer.getvalue()
