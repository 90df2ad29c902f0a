"""Tables written down: Markdown, CSV, JSON and a plot, into the ablation's folder."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from realignkit.evaluation.results import SCORERS, AblationFolder
from realignkit.evaluation.statistics import HOW, shown_gain, shown_p
from realignkit.evaluation.table import CONTROL, AblationTable, Comparison, Difference, RowResult, tabulate
from realignkit.files import atomic_write
from realignkit.plots import STYLE, document
from realignkit.tables import csv_text

PAGE, NUMBERS, RECORDS, PLOT = "table.md", "table.csv", "table.json", "plot.svg"
ANSWERS = ("tagger", "scorer", "success", "95 %", "answers", "prompts", "objects seen", "why not")
"""The headings of Table IV."""

Point = tuple[float, float | None, float | None]
"""A value with the ends of its interval."""

PANELS_ACROSS = 3
"""Of a plot: more panels than these go below one another."""


def write_tables(folder: str | Path, control: str = CONTROL) -> tuple[AblationTable, list[Path]]:
    """Count what a folder has, and write :data:`PAGE`, :data:`NUMBERS`, :data:`RECORDS` and :data:`PLOT`.

    Args:
        folder: that :class:`realignkit.evaluation.measure.Ablation` filled.
        control: see :func:`realignkit.evaluation.table.tabulate`.

    Returns:
        The table, and the files: without a plot where matplotlib is not installed.

    Raises:
        OutputError: it holds no ablation, is damaged, or cannot be written.
    """
    results = AblationFolder(folder)
    table = tabulate(results.existing(), results.read(), results.reference(), control)
    records = json.dumps([row.record() for row in table.rows], indent=1) + "\n"
    texts = {PAGE: markdown(table), NUMBERS: comma_separated(table), RECORDS: records}
    with contextlib.suppress(ModuleNotFoundError):
        texts[PLOT] = svg(table)
    return table, [atomic_write(results.folder / name, text) for name, text in texts.items()]


def columns(table: AblationTable) -> list[str]:
    """The headings of the table as it is shown."""
    if table.kind == SCORERS:
        return list(ANSWERS)
    percent = " %" if table.percent else ""
    headings = ["row", "pictures", "prompts", f"{table.value.replace('_', ' ')}{percent} [95 %]"]
    for name in ("base", "control"):
        if any(getattr(row, name) for row in table.rows):
            headings.append(f"vs {_against(table, name)} [95 %]")
            headings += ["fixed / broken", "sign-flip p"] if table.binary else []
    headings += table.scores
    if any(row.frechet is not None for row in table.rows):
        headings += ["Fréchet", "/ base's [95 %]"]
    return headings


def cells(table: AblationTable) -> list[list[str]]:
    """The table's rows as they are shown, a text per heading."""
    return [_cells(table, row) if row.asked is None else _asked_cells(row) for row in table.rows]


def _cells(table: AblationTable, row: RowResult) -> list[str]:
    digits = 1 if table.percent else 3
    known = row.low is not None and row.high is not None
    interval = f"{row.low:.{digits}f}, {row.high:.{digits}f}" if known else "-"
    texts = [row.name, str(row.n), str(row.prompts), f"{row.value:.{digits}f} [{interval}]"]
    for name in ("base", "control"):
        if any(getattr(other, name) for other in table.rows):
            texts += _difference(getattr(row, name), table.binary, _shown(table, row, getattr(row, name)))
    for name in table.scores:
        score = row.scores.get(name)
        texts.append("-" if score is None else f"{score.mean:.4f}{'*' if score.raised else ''}")
    if any(other.frechet is not None for other in table.rows):
        texts.append("-" if row.frechet is None else f"{row.frechet:.4g}")
        texts.append(_ratio(row))
    return texts


def _asked_cells(row: RowResult) -> list[str]:
    assert row.asked is not None
    asked, names = row.asked, [row.asked.tagger, row.asked.scorer]
    if row.value is None:
        return [*names, "-", "-", "0", "0", "-", " ".join((asked.problem or "no image had a tag").split())]
    interval = "-" if row.low is None else f"{row.low:.3f} - {row.high:.3f}"
    why = ", ".join(f"{reason}: {count}" for reason, count in asked.reasons.items()) or "-"
    return [*names, f"{row.value:.3f}", interval, str(row.n), str(row.prompts), f"{asked.seen} of {asked.objects}", why]


def _shown(table: AblationTable, row: RowResult, paired: Difference | None) -> bool:
    """Whether a difference is that of the values which the two rows show: both have the same pictures."""
    return paired is None or all(
        other.n == paired.n for other in table.rows if other.name in (row.name, paired.against)
    )


def _difference(paired: Difference | None, binary: bool, shown: bool = True) -> list[str]:
    if paired is None:
        return ["-"] * (3 if binary else 1)
    digits = 1 if binary else 3
    gain = shown_gain(paired.gain, paired.low, paired.high, digits)
    if not shown:
        gain += f" ({paired.n} pairs: {paired.before:.{digits}f} to {paired.after:.{digits}f})"
    return [gain, f"{paired.fixed} / {paired.broken}", shown_p(paired.p)] if binary else [gain]


def _ratio(row: RowResult) -> str:
    ratio = row.relative
    if ratio is None:
        return "-"
    interval = "" if ratio.low is None or ratio.high is None else f" [{ratio.low:.2f}, {ratio.high:.2f}]"
    return f"{ratio.value:.2f}{interval}"


def _against(table: AblationTable, name: str) -> str:
    return str(next(getattr(row, name).against for row in table.rows if getattr(row, name)))


RIGHT = """\
Success: the answer parses, (a) every tag that the prompt names is
certain, (b) its caption has all of that object's attributes and none of another's, (c) no other tag is
certain, (d) no caption names another object. Reasons count answers; one answer may have several.
Intervals are Wilson's, widened as far as the answers of a prompt are alike."""
"""How to read Table IV."""


def markdown(table: AblationTable) -> str:
    """A page with the table, another with each trained model where there are some, and how to read them."""
    if table.kind == SCORERS:
        lines = [
            f"Prompts: {table.source or 'unknown source'}. {RIGHT}",
            "",
            *markdown_table(columns(table), cells(table)),
        ]
        return "\n".join(lines) + "\n"
    seeds = sorted({seed for row in table.rows for seed in row.seeds})
    most = max((row.prompts for row in table.rows), default=0)
    lines = [
        f"Prompts: {table.source or 'unknown source'}, {most} different ones; seeds: "
        f"{', '.join(map(str, seeds))}. Metric: {table.metric}, {table.value}.",
        *(["", f"{text[0].upper()}{text[1:]}."] if (text := silence(table)) else []),
        "",
        *markdown_table(columns(table), cells(table)),
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
        lines += markdown_table(headings, models)
    return "\n".join(lines) + "\n"


def silence(table: AblationTable) -> str:
    """Of how many pictures the metric knows nothing to say, a phrase; "" where it judges all, and of Table IV."""
    silent, judged = (sum(getattr(row, name) for row in table.rows) for name in ("silent", "n"))
    text = f"metric '{table.metric}' knows nothing to say of {silent} of {silent + judged} pictures"
    return text if silent and table.kind != SCORERS else ""


def notes(table: AblationTable) -> list[str]:
    """How to read the table, a text per line."""
    if table.kind == SCORERS:
        return [RIGHT.replace("\n", " ")]
    texts = []
    if table.binary:
        texts.append(f"Intervals of shares are Wilson's, widened as far as the pictures of a prompt are alike. {HOW}")
    else:
        texts.append(
            "Intervals of means resample prompts; those of differences, which are over the same prompts and seeds, "
            "hold what a sign-flip test by prompt does not reject."
        )
    if any(row.models for row in table.rows):
        texts.append(
            "Intervals and p are about prompts and noise, for the models as they are: all pictures of a training share "
            "its luck. Compare the training seeds."
        )
    if table.scores:
        texts.append(f"{', '.join(table.scores)}: mean of the reward.")
    if any(score.raised for row in table.rows for score in row.scores.values()):
        texts.append("*: what the row was trained to raise, or chosen by, and so no evidence of better pictures.")
    if any(row.frechet is not None for row in table.rows):
        texts.append(
            f"Fréchet: squared distance to {table.reference} reference pictures, by the features of {table.features}; "
            f"it falls with n, so compare rows of equal n. Its ratio to the base's is over the same prompts and seeds, "
            f"with a jackknife interval over prompts."
        )
    return texts


def _model_cells(table: AblationTable, model: Any) -> list[str]:
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


def markdown_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A table as lines of Markdown."""
    lines = [headings, ["---"] * len(headings), *rows]
    return [f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines]


def pair_columns(pair: Comparison) -> list[str]:
    """The headings of a comparison of two rows."""
    binary = pair.difference.fixed is not None
    value = f"{pair.value.replace('_', ' ')}{' %' if binary else ''}"
    headings = ["pairs", "prompts", f"{value} before", "after", "difference [95 %]"]
    return headings + (["fixed / broken", "sign-flip p"] if binary else [])


def pair_cells(pair: Comparison) -> list[str]:
    """Its values as they are shown."""
    paired = pair.difference
    binary = paired.fixed is not None
    means = [f"{mean:.{1 if binary else 3}f}" for mean in (paired.before, paired.after)]
    return [str(paired.n), str(paired.prompts), *means, *_difference(paired, binary)]


def comma_separated(table: AblationTable) -> str:
    """The table with a number per cell, for spreadsheets."""
    if table.kind == SCORERS:
        records = [row.record() for row in table.rows]
        reasons = list(dict.fromkeys(reason for record in records for reason in record["reasons"]))
        names = ["tagger", "scorer", "images", "asked", "prompts", "successes", "rate", "objects", "found", "seconds"]
        lines: list[list[Any]] = [[*names, "low", "high", *reasons]]
        for scored, record in zip(table.rows, records, strict=True):
            counts = [record["reasons"].get(reason, 0) for reason in reasons]
            lines.append([*(record[name] for name in names), scored.low, scored.high, *counts])
        return csv_text(lines)
    sides = ("base", "control")
    numbers = ("n", "gain", "low", "high", "fixed", "broken", "p")
    headings = ["row", "n", "prompts", "seeds", table.value, "low", "high"]
    headings += [f"vs_{side}_{number}" for side in sides for number in numbers]
    headings += [f"{name}_{what}" for name in table.scores for what in ("mean", "error", "raised")]
    lines = [[*headings, "frechet", "frechet_ratio", "frechet_ratio_low", "frechet_ratio_high"]]
    for row in table.rows:
        line: list[Any] = [row.name, row.n, row.prompts, len(row.seeds), row.value, row.low, row.high]
        line += [getattr(getattr(row, side), number, None) for side in sides for number in numbers]
        for name in table.scores:
            score = row.scores.get(name)
            line += [None] * 3 if score is None else [score.mean, score.error, score.raised]
        relative = row.relative
        line += [row.frechet, *([None] * 3 if relative is None else [relative.value, relative.low, relative.high])]
        lines.append(line)
    return csv_text(lines)


def svg(table: AblationTable) -> str:
    """The table as a picture, an SVG document: values and differences with their intervals.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    value = table.value.replace("_", " ") + (" %" if table.percent else "")
    panels = [Panel(value, [_point(row) for row in table.rows])]
    for side in ("base", "control"):
        paired = [getattr(row, side) for row in table.rows]
        if any(paired):
            title = f"difference to {_against(table, side)}{', points' if table.binary else ''}"
            panels.append(Panel(title, [_point(row) for row in paired], zero=True))
    return panels_svg(panels, [_label(row) for row in table.rows], f"{table.value}: {table.source}")


def _label(row: RowResult) -> str:
    return f"{row.name} (n={row.n}, {row.prompts} prompts)"


def _point(result: RowResult | Difference | None) -> Point | None:
    """A value with its interval."""
    if result is None:
        return None
    value = result.value if isinstance(result, RowResult) else result.gain
    return None if value is None else (value, result.low, result.high)


@dataclass(frozen=True)
class Panel:
    """A number of several rows, as a plot shows it.

    Attributes:
        title: what the number is.
        points: of each row, the value with its interval; None where it has none.
        zero: whether zero is marked.
    """

    title: str
    points: Sequence[Point | None]
    zero: bool = False


def panels_svg(panels: Sequence[Panel], rows: Sequence[str], title: str) -> str:
    """Values with their intervals as an SVG document: the same rows in every panel, three panels side by side.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    import matplotlib
    from matplotlib.figure import Figure

    across, down = min(len(panels), PANELS_ACROSS), math.ceil(len(panels) / PANELS_ACROSS)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(3 + 3.2 * across, down * (1 + 0.3 * len(rows))), layout="constrained")
        axes = figure.subplots(down, across, sharey=True, squeeze=False).ravel()
        for number, (axis, panel) in enumerate(zip(axes, panels, strict=False)):
            axis.set_title(panel.title, fontsize=10)
            draw_panel(axis, panel, f"value-{number}")
        for axis in axes[len(panels) :]:
            axis.remove()
        axes[0].set_yticks(range(len(rows)), rows)
        axes[0].set_ylim(len(rows) - 0.5, -0.5)
        return document(figure, "svg", title).decode()


def draw_panel(axis: Any, panel: Panel, gid: str) -> None:
    """Values with their intervals, one below the other; each value's mark is called ``gid``-place."""
    axis.grid(axis="x", color="#cccccc")
    axis.tick_params(axis="y", length=0)
    axis.spines[["left", "right", "top"]].set_visible(False)
    if panel.zero:
        axis.axvline(0, color="#333333", linewidth=1)
    for place, point in enumerate(panel.points):
        if point is None:
            continue
        value, low, high = point
        width = None if low is None or high is None else [[max(0.0, value - low)], [max(0.0, high - value)]]
        mark, *_ = axis.errorbar([value], [place], xerr=width, fmt="o", color="#2a6f97", capsize=4)
        mark.set_gid(f"{gid}-{place}")
