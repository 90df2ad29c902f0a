"""From what is said of each picture to numbers over a set, with intervals by prompt: whole, by element, by group."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np

from realignkit.evaluation.folder import Line
from realignkit.evaluation.judging import DETAILS
from realignkit.evaluation.resampling import grouped_jackknife
from realignkit.evaluation.statistics import Interval, by_prompt, mean_interval, share_interval, yes_or_no
from realignkit.named import Named

EVERYTHING = ""
"""The group of all pictures."""

Summarise = Callable[[Sequence[Mapping[str, Any]]], Mapping[str, float]]


@dataclass(frozen=True)
class Value:
    """A number over a set of pictures.

    Attributes:
        metric: whose it is.
        name: as the metric calls it; what it says of one kind of element has a slash (``tifa/color``).
        group: what the prompts are grouped by (``category``); :data:`EVERYTHING` for all of them.
        label: which of the groups.
        value: the mean over prompts of the means over their pictures, or what the metric itself makes of them.
        low, high: its 95 % interval, by prompt; None where there is none.
        n, prompts: of how many pictures, and of how many different prompts.
        binary: whether pictures have it or not (1 and 0).
    """

    metric: str
    name: str
    group: str
    label: str
    value: float
    low: float | None
    high: float | None
    n: int
    prompts: int
    binary: bool = False

    def record(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


def summarise(
    lines: Sequence[Line], metrics: Sequence[Named], whole: Mapping[str, Mapping[str, float]] | None = None
) -> list[Value]:
    """All numbers of an evaluation: of each metric those over all pictures, then those of each group.

    Args:
        lines: of the pictures.
        metrics: in the order of the results; one that is not among the lines is left out.
        whole: metric -> what it says of the set as a whole.

    Raises:
        PluginError: a metric failed.
    """
    values: list[Value] = []
    for metric in metrics:
        judged = [line for line in lines if line["values"].get(metric.name)]
        values += _values(metric, judged, EVERYTHING, "")
        prompts = len({line["prompt"] for line in lines})
        values += [
            Value(metric.name, name, EVERYTHING, "", number, None, None, len(lines), prompts)
            for name, number in (whole or {}).get(metric.name, {}).items()
            if name != "n"
        ]
        for group, label, some in _groups(judged):
            values += [v for v in _values(metric, some, group, label) if "/" not in v.name]
    return values


def silences(lines: Sequence[Line], metrics: Sequence[Named]) -> list[str]:
    """Of how many pictures metrics know nothing to say, a phrase for each that is silent about some."""
    texts = []
    for metric in metrics:
        if unknown := sum(not line["values"].get(metric.name) for line in lines if metric.name in line["values"]):
            texts.append(f"{metric.whose} knows nothing to say of {unknown} of {len(lines)} pictures")
    return texts


def _own(metric: Named) -> Summarise | None:
    """The metric's own way from pictures to a set."""
    if not metric.has("summarise"):
        return None

    def own(records: Sequence[Mapping[str, Any]]) -> Mapping[str, float]:
        with metric.blame():
            return {name: float(value) for name, value in metric.plugin.summarise(records).items()}

    return own


def _values(named: Named, lines: Sequence[Line], group: str, label: str) -> Iterator[Value]:
    metric, own = named.name, _own(named)
    means = {
        name: _mean(named, name, [line for line in lines if name in line["values"][metric]], group, label)
        for name in dict.fromkeys(name for line in lines for name in line["values"][metric])
    }
    if own is not None and lines:
        records = [_record(metric, line) for line in lines]
        prompts = [line["prompt"] for line in lines]
        for name, number in own(records).items():
            if name == "n" or (name in means and math.isclose(means[name].value, number, rel_tol=1e-9, abs_tol=1e-12)):
                continue
            interval = grouped_jackknife(partial(_of_some, own, records, name), prompts)
            low, high = interval or (None, None)
            means[name] = Value(metric, name, group, label, number, low, high, len(lines), len(set(prompts)))
    yield from means.values()


def _of_some(own: Summarise, records: Sequence[Mapping[str, Any]], name: str, kept: Sequence[int]) -> float | None:
    return own([records[place] for place in kept]).get(name)


def _record(metric: str, line: Line) -> dict[str, Any]:
    details = line.get("details", {}).get(metric)
    record: dict[str, Any] = {name: line[name] for name in ("id", "prompt", "seed")} | line["values"][metric]
    return record if details is None else record | {DETAILS: details}


def _mean(named: Named, name: str, lines: Sequence[Line], group: str, label: str) -> Value:
    metric = named.name
    values, prompts = [line["values"][metric][name] for line in lines], [line["prompt"] for line in lines]
    sums, sizes = by_prompt(values, prompts)
    binary = yes_or_no(name, values, getattr(named.plugin, "yes_or_no", None))
    if not binary:
        interval: Interval = mean_interval(sums / sizes, range(len(sums)))
    elif len(set(sizes.tolist())) == 1:
        interval = share_interval(values, prompts)
    else:  # as if a prompt's pictures were one: at least as wide as it should be
        interval = share_interval(sums / sizes, range(len(sums)))
    low, high = interval or (None, None)
    mean = float(np.mean(sums / sizes))
    return Value(metric, name, group, label, mean, low, high, len(lines), len(sums), binary)


def _groups(lines: Sequence[Line]) -> Iterator[tuple[str, str, list[Line]]]:
    """(what prompts are grouped by, which group, its pictures); ids are no groups."""
    names = dict.fromkeys(name for line in lines for name in line.get("labels", {}) if name != "id")
    for name in names:
        groups: dict[Hashable, list[Line]] = {}
        for line in lines:
            if name in line.get("labels", {}):
                groups.setdefault(line["labels"][name], []).append(line)
        for label, some in sorted(groups.items(), key=lambda item: _natural(str(item[0]))):
            yield name, str(label), some


def _natural(text: str) -> tuple[int, float, str]:
    """Numbers in the order of their size, before texts."""
    return (0, float(text), text) if text.isdecimal() else (1, 0.0, text)
