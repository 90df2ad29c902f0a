"""Two evaluations of the same prompts and seeds, paired by prompt: what differs, and how sure that is."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from realignkit.errors import OptionError
from realignkit.evaluation.folder import EvaluationFolder, Line, different_metrics
from realignkit.evaluation.identity import YES_OR_NO
from realignkit.evaluation.resampling import mean_sign_flip
from realignkit.evaluation.statistics import by_prompt, compare, difference_interval, yes_or_no

Key = tuple[str, Any, int]
"""Prompt, seed, and the picture's number among those of both: what pictures are paired by."""


@dataclass(frozen=True)
class Change:
    """A value of a metric before and after, on the same prompts.

    Attributes:
        metric, name: whose value, and what it is called.
        n, prompts: pairs, and of how many different prompts.
        before, after: means over prompts of the means over their pictures; in [0, 1] where pictures have it or not.
        low, high: the 95 % interval of the difference, by prompt; None where there is none.
        p: of a sign-flip test by prompt, two-sided; None of fewer than two prompts.
        fixed, broken: how many pictures became right, and wrong; None where values are no yes or no.
    """

    metric: str
    name: str
    n: int
    prompts: int
    before: float
    after: float
    low: float | None
    high: float | None
    p: float | None
    fixed: int | None = None
    broken: int | None = None

    @property
    def gain(self) -> float:
        """After minus before."""
        return self.after - self.before

    def record(self) -> dict[str, Any]:
        """As JSON values."""
        return {**asdict(self), "gain": self.gain}


@dataclass(frozen=True)
class Pair:
    """The two pictures of a prompt and seed, as their evaluations have them."""

    before: Line
    after: Line

    def change(self, metric: str, name: str) -> float | None:
        """By how much a value moved; None where one of them has none."""
        values = [line["values"].get(metric, {}).get(name) for line in (self.before, self.after)]
        return None if None in values else values[1] - values[0]


@dataclass(frozen=True)
class EvaluationPair:
    """Two evaluations of the same.

    Attributes:
        pairs: their pictures, in the first one's order.
        changes: of every value of every metric that both have.
        whole: metric -> value -> (before, after), of metrics of whole sets.
        notes: what to know, a sentence each.
    """

    pairs: tuple[Pair, ...]
    changes: tuple[Change, ...]
    whole: Mapping[str, Mapping[str, tuple[float, float]]]
    notes: tuple[str, ...]


def compare_folders(before: str | Path, after: str | Path) -> EvaluationPair:
    """Pair two evaluations.

    Raises:
        OptionError: they are of other prompts or seeds, or a metric's weights, template or anything else that its
            numbers depend on differ; the message says in what.
        OutputError: a folder holds no evaluation, or one that is damaged or not finished.
    """
    folders = [EvaluationFolder(before), EvaluationFolder(after)]
    records = [folder.existing() for folder in folders]
    lines = [finished(folder, record) for folder, record in zip(folders, records, strict=True)]
    notes = []
    common = [name for name in records[0]["metrics"] if name in records[1]["metrics"]]
    if not common:
        raise OptionError(
            f"{before} and {after} have no metric in common: {' and '.join(_listed(r['metrics']) for r in records)}. "
            f"Measure both with the same --metric."
        )
    if others := [name for record in records for name in record["metrics"] if name not in common]:
        notes.append(f"only one of the two has {', '.join(others)}")
    for folder, record, some in zip(folders, records, lines, strict=True):
        check_measured(folder, record, some, common)
    different = different_metrics(*({name: record["metrics"][name] for name in common} for record in records))
    for name in common:
        weights = [record["metrics"][name].get("weights") for record in records]
        if None not in weights and weights[0] != weights[1]:
            different.append(f"metric '{name}': the weights ({weights[0]} there, {weights[1]} now)")
    if different:
        raise OptionError(f"{before} and {after} were not measured alike: {'; '.join(different)}. Measure one again.")
    pairs = _paired(before, after, *lines)
    if None in {line["seed"] for line in lines[0]} ^ {line["seed"] for line in lines[1]}:
        notes.append("the seeds of one of the two are not known: pictures of a prompt are paired in their order")
    for metric in common:
        if odd := sum(bool(p.before["values"].get(metric)) != bool(p.after["values"].get(metric)) for p in pairs):
            notes.append(f"metric '{metric}' says nothing of one of the two pictures in {odd} of {len(pairs)} pairs")
    changes = tuple(
        change for metric in common for change in _changes(metric, pairs, records[1]["metrics"][metric].get(YES_OR_NO))
    )
    whole = {name: _whole(*(record.get("whole", {}).get(name, {}) for record in records)) for name in common}
    return EvaluationPair(
        tuple(pairs), changes, {name: values for name, values in whole.items() if values}, tuple(notes)
    )


def finished(folder: EvaluationFolder, record: Mapping[str, Any]) -> list[Line]:
    """The lines of an evaluation that lacks none.

    Raises:
        OutputError: some are missing.
    """
    lines = list(folder.lines().values())
    if (count := record["pictures"]["count"]) != len(lines):
        raise OptionError(
            f"{folder.folder} is not finished: {len(lines)} of {count} pictures are measured. Run 'realignkit eval' "
            f"again with the same options."
        )
    return lines


def check_measured(
    folder: EvaluationFolder, record: Mapping[str, Any], lines: Sequence[Line], metrics: Collection[str]
) -> None:
    """Refuse metrics that were added to an evaluation and have not seen all its pictures.

    Raises:
        OptionError: one has not.
    """
    for metric in metrics:
        count = sum(metric in line["values"] for line in lines)
        if count < len(lines) and (count or metric not in record.get("whole", {})):
            raise OptionError(
                f"{folder.folder} is not finished: metric '{metric}' has measured {count} of {len(lines)} pictures. "
                f"Run 'realignkit eval' again with the same options."
            )


def _paired(before: object, after: object, first: Sequence[Line], second: Sequence[Line]) -> list[Pair]:
    seeds = [{line["seed"] for line in lines} for lines in (first, second)]
    prompts = [{line["prompt"] for line in lines} for lines in (first, second)]
    if prompts[0] != prompts[1]:
        only = [prompts[0] - prompts[1], prompts[1] - prompts[0]]
        texts = [
            f"{len(some)} only in {name} (such as '{min(some)[:60]}')"
            for some, name in zip(only, (before, after), strict=True)
            if some
        ]
        raise OptionError(
            f"{before} and {after} are of other prompts: {' and '.join(texts)}. Measure both on the same."
        )
    if None in seeds[0] or None in seeds[1]:
        keys = [_keys(lines, seeded=False) for lines in (first, second)]
    else:
        if seeds[0] != seeds[1]:
            raise OptionError(
                f"{before} and {after} are of other seeds: {_listed(seeds[0])} there, {_listed(seeds[1])} now. Draw "
                f"both from the same."
            )
        keys = [_keys(lines) for lines in (first, second)]
    if odd := next((key for key in [*keys[0], *keys[1]] if key not in keys[0] or key not in keys[1]), None):
        raise OptionError(
            f"{before} and {after} have not as many pictures of each prompt and seed: of '{odd[0][:60]}' they differ. "
            f"Measure both on the same."
        )
    return [Pair(line, keys[1][key]) for key, line in keys[0].items()]


def _keys(lines: Sequence[Line], seeded: bool = True) -> dict[Key, Line]:
    keys: dict[Key, Line] = {}
    for line in lines:
        prompt, seed, number = line["prompt"], line["seed"] if seeded else None, 0
        while (prompt, seed, number) in keys:
            number += 1
        keys[prompt, seed, number] = line
    return keys


def _changes(metric: str, pairs: Sequence[Pair], verdicts: Collection[str] | None) -> list[Change]:
    names = dict.fromkeys(name for pair in pairs for name in pair.before["values"].get(metric, {}))
    changes = []
    for name in names:
        both = [pair for pair in pairs if pair.change(metric, name) is not None]
        if both:
            changes.append(_change(metric, name, both, verdicts))
    return changes


def _change(metric: str, name: str, pairs: Sequence[Pair], verdicts: Collection[str] | None) -> Change:
    was, now = ([getattr(pair, side)["values"][metric][name] for pair in pairs] for side in ("before", "after"))
    prompts = [pair.before["prompt"] for pair in pairs]
    # As in each evaluation's own table, every prompt counts the same, however many pictures it has.
    (was_sums, sizes), (now_sums, _) = by_prompt(was, prompts), by_prompt(now, prompts)
    means = float(np.mean(was_sums / sizes)), float(np.mean(now_sums / sizes))
    binary, equal = yes_or_no(name, [*was, *now], verdicts), len(set(sizes.tolist())) == 1
    paired = compare([bool(value) for value in was], [bool(value) for value in now], prompts) if binary else None
    if paired is not None and equal:
        p = paired.p
        interval = None if paired.low is None or paired.high is None else (paired.low / 100, paired.high / 100)
    else:
        moved = (now_sums - was_sums) / sizes
        p = mean_sign_flip(moved, range(len(moved)))
        interval = difference_interval(moved, range(len(moved)), p)
    low, high = interval or (None, None)
    counts = {} if paired is None else {"fixed": paired.fixed, "broken": paired.broken}
    return Change(metric, name, len(pairs), len(set(prompts)), *means, low, high, p, **counts)


def _whole(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, tuple[float, float]]:
    return {name: (before[name], after[name]) for name in before if name in after and name != "n"}


def _listed(values: Any) -> str:
    texts = sorted(map(str, values), key=lambda text: (len(text), text))
    return ", ".join(texts[:5]) + (f" and {len(texts) - 5} more" if len(texts) > 5 else "")
