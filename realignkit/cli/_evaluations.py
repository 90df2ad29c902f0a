"""How evaluations are shown: their tables on the terminal and as files, and the page of pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from realignkit.cli._progress import note, out, print_table

if TYPE_CHECKING:
    from realignkit.evaluation.compare import EvaluationPair, Pair
    from realignkit.evaluation.folder import Line
    from realignkit.evaluation.write_evaluation import ShownTable
    from realignkit.named import Named
    from realignkit.report.gallery import Card, Section

PAGE = "report.html"
SHOWN = 8
"""Pictures of each kind on a page."""


def show_metrics(folder: Path, metrics: Sequence[Named]) -> None:
    """Sum up a folder, write its tables and its page, and print what is over all pictures."""
    from realignkit.evaluation.folder import EvaluationFolder
    from realignkit.evaluation.summary import summarise
    from realignkit.evaluation.write_evaluation import INTERVALS, tables_of, write_metrics
    from realignkit.report.gallery import write_gallery

    results = EvaluationFolder(folder)
    record, lines = results.existing(), list(results.lines().values())
    values = summarise(lines, metrics, record.get("whole", {}))
    files = write_metrics(folder, record, values)
    tables = tables_of(values)
    about = [f"{record['pictures']['source']}: {len(lines)} pictures.", INTERVALS]
    sections = [section for metric in metrics for section in _extremes(folder, lines, metric)]
    files.append(write_gallery(folder / PAGE, "Evaluation", about, tables, sections))
    print_tables(tables, [INTERVALS], [*files, folder / "pictures.jsonl"])
    for metric in metrics:
        if unknown := sum(not line["values"].get(metric.name) for line in lines if metric.name in line["values"]):
            note(f"{metric.whose} knows nothing to say of {unknown} of {len(lines)} pictures")


def show_comparison(folder: Path, before: Path, after: Path, pair: EvaluationPair) -> None:
    """Write the tables and the page of a comparison, and print it."""
    from realignkit.evaluation.write_evaluation import PAIRED, comparison_table, write_comparison
    from realignkit.report.gallery import write_gallery

    about = f"Before: {before.name}. After: {after.name}."
    files = write_comparison(folder, about, pair)
    table = comparison_table(pair)
    sections = [section for change in _deciding(pair) for section in _moved(before, after, pair, *change)]
    files.append(write_gallery(folder / PAGE, "Comparison", [about, *pair.notes, PAIRED], [table], sections))
    for text in pair.notes:
        note(text)
    print_tables([table], [PAIRED], files)


def print_tables(tables: Sequence[ShownTable], texts: Sequence[str], files: Sequence[Path]) -> None:
    """Print tables, how to read them, and where they are."""
    for table in tables:
        if table.title:
            out().print(f"\n{table.title}", markup=False)
        print_table(table.headings, table.rows)
    for text in texts:
        out().print(text, style="dim", markup=False)
    out().print("\n".join(f"  {path}" for path in files), markup=False)
    if not any(path.suffix == ".svg" for path in files) and any(path.name == "metrics.md" for path in files):
        note("there is no plot: install realignkit[plots]")


def _extremes(folder: Path, lines: Sequence[Line], metric: Named) -> list[Section]:
    """The best and the worst pictures by a metric's first value."""
    from realignkit.report.gallery import Section

    judged = [line for line in lines if line["values"].get(metric.name)]
    if not judged:
        return []
    name = next(iter(judged[0]["values"][metric.name]))
    higher = bool(getattr(metric.plugin, "higher_is_better", True))
    # Of equals, such as yes and no, the metric's other values say more.
    ranked = sorted(judged, key=lambda line: list(line["values"][metric.name].values()), reverse=higher)
    count = min(SHOWN, len(ranked) // 2 or 1)
    kinds = {"Best": ranked[:count], "Worst": ranked[::-1][:count]}
    heading = metric.name if name == metric.name else f"{metric.name} ({name})"
    return [
        Section(f"{kind} by {heading}", tuple(_card(folder, line, metric.name) for line in some))
        for kind, some in kinds.items()
    ]


def _card(folder: Path, line: Line, metric: str) -> Card:
    from realignkit.report.gallery import Card

    return Card(line["prompt"], _said(line, metric), (("", folder / line["image"]),))


def _said(line: Line, metric: str) -> str:
    """What a metric says of a picture, in short."""
    numbers = [f"{name} {value:.4g}" for name, value in line["values"][metric].items() if "/" not in name]
    wrong = [
        f"{detail.get('question')} {detail.get('answer')}"
        for detail in line.get("details", {}).get(metric, [])
        if detail.get("right") in (False, 0)
    ]
    return "; ".join([", ".join(numbers), *wrong[:3]])


def _deciding(pair: EvaluationPair) -> list[tuple[str, str]]:
    """Each metric's first value."""
    first: dict[str, str] = {}
    for change in pair.changes:
        first.setdefault(change.metric, change.name)
    return list(first.items())


def _moved(before: Path, after: Path, pair: EvaluationPair, metric: str, name: str) -> list[Section]:
    """The pictures that gained and lost most."""
    from realignkit.report.gallery import Card, Section

    moved: list[tuple[float, Pair]] = []
    for each in pair.pairs:
        if (change := each.change(metric, name)) is not None and change:
            moved.append((change, each))
    moved.sort(key=lambda item: item[0])

    def card(change: float, each: Pair) -> Card:
        pictures = (("before", before / each.before["image"]), ("after", after / each.after["image"]))
        values = [line["values"][metric][name] for line in (each.before, each.after)]
        return Card(each.after["prompt"], f"{name} {values[0]:.4g} → {values[1]:.4g} ({change:+.4g})", pictures)

    up = [card(*item) for item in moved[::-1][:SHOWN] if item[0] > 0]
    down = [card(*item) for item in moved[:SHOWN] if item[0] < 0]
    headings = {f"{metric}: {name} rose most": up, f"{metric}: {name} fell most": down}
    return [Section(heading, tuple(cards)) for heading, cards in headings.items() if cards]
