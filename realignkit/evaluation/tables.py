"""What the paper's tables are filled with, and how they are written down."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from realignkit.evaluation.statistics import Interval


@dataclass(frozen=True)
class Cell:
    """One tagger with one scorer.

    Attributes:
        images: how many were tagged.
        asked: those with at least one tag, whose prompt the truth is known for; the others are no question.
        prompts: of how many different prompts those are.
        successes: answers that are right, see :mod:`realignkit.evaluation.success`.
        interval: 95 % of the success rate, see :func:`realignkit.evaluation.statistics.share_interval`.
        reasons: what the others lack, reason -> answers; an answer may lack several things.
        objects, found: objects that the prompts name, and how many of them the tagger saw.
        seconds: spent on asking, all together.
        problem: why there is nothing to count, where a whole step failed.
    """

    tagger: str
    scorer: str
    images: int = 0
    asked: int = 0
    prompts: int = 0
    successes: int = 0
    interval: Interval = None
    reasons: Mapping[str, int] = field(default_factory=dict)
    objects: int = 0
    found: int = 0
    seconds: float = 0.0
    problem: str = ""

    @property
    def rate(self) -> float | None:
        """Success rate in [0, 1]; None when nothing was asked."""
        return self.successes / self.asked if self.asked else None


def markdown(cells: Sequence[Cell], source: str) -> str:
    """Cells as a Markdown page: rates with their intervals, and reasons."""
    lines = [
        f"Prompts: {source or 'unknown source'}. Success: the answer parses, (a) every tag that the prompt names is",
        "certain, (b) its caption has all of that object's attributes and none of another's, (c) no other tag is",
        "certain, (d) no caption names another object. Reasons count answers; one answer may have several.",
        "Intervals are Wilson's, widened as far as the answers of a prompt are alike.",
        "",
        "| tagger | scorer | success | 95 % | answers | prompts | objects seen | why not |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for cell in cells:
        if cell.rate is None:
            why = cell.problem or "no image had a tag"
            lines.append(f"| {cell.tagger} | {cell.scorer} | - | - | 0 | 0 | - | {' '.join(why.split())} |")
            continue
        interval = "-" if cell.interval is None else f"{cell.interval[0]:.3f} - {cell.interval[1]:.3f}"
        why = ", ".join(f"{reason}: {count}" for reason, count in cell.reasons.items()) or "-"
        lines.append(
            f"| {cell.tagger} | {cell.scorer} | {cell.rate:.3f} | {interval} | {cell.asked} | {cell.prompts} "
            f"| {cell.found} of {cell.objects} | {why} |"
        )
    return "\n".join(lines) + "\n"


def row(cell: Cell) -> dict[str, Any]:
    """A cell as JSON values."""
    return {**asdict(cell), "rate": cell.rate}
