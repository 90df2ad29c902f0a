"""From measurements to Tables II and III: shares with intervals, paired differences, scores, Fréchet distances."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from realignkit.errors import OptionError
from realignkit.evaluation.frechet import Ratio, Reference, ratio
from realignkit.evaluation.results import Features, Measurement
from realignkit.evaluation.statistics import (
    Interval,
    compare,
    difference_interval,
    mean_interval,
    share_interval,
    standard_error,
)

BASE, CONTROL = "base", "control"


@dataclass(frozen=True)
class Difference:
    """A row against another one, on the pictures that both have.

    Attributes:
        against: the other row.
        n, prompts: pairs, and of how many different prompts.
        before, after: the other row and this one on these pictures alone; in percent where verdicts are yes/no.
        gain: after minus before.
        low, high: its 95 % interval (:func:`realignkit.evaluation.statistics.difference_interval`); None without one.
        fixed, broken: discordant pairs; None where verdicts are numbers.
        p: of a sign-flip test by prompt, exact and two-sided; None also of fewer than two prompts.
    """

    against: str
    n: int
    prompts: int
    before: float
    after: float
    gain: float
    low: float | None
    high: float | None
    fixed: int | None = None
    broken: int | None = None
    p: float | None = None


@dataclass(frozen=True)
class Score:
    """The mean of a reward over a row's pictures, and its standard error over prompts (None of fewer than two).

    ``raised``: a model of the row was trained to raise it, or its pictures were chosen by it.
    """

    mean: float
    error: float | None
    raised: bool = False


@dataclass(frozen=True)
class ModelResult:
    """One of the models (training seeds) of a row: its record, pictures, different prompts, value, against the base."""

    record: Mapping[str, Any]
    n: int
    prompts: int
    value: float
    base: Difference | None


@dataclass(frozen=True)
class RowResult:
    """A row of the table.

    Attributes:
        name: the row's.
        n, prompts, seeds: pictures, different prompts, seeds.
        value, low, high: of the metric, with its 95 % interval, None without one: in percent and Wilson's for
            prompts of several pictures where verdicts are yes/no, else a bootstrap over prompts.
        base, control: differences to those rows, where they are there.
        scores: means of rewards.
        frechet: distance to the reference pictures; None without features.
        relative: the same over the base's, on the pictures that both have.
        models: where the row has several, or a trained one.
    """

    name: str
    n: int
    prompts: int
    seeds: tuple[int, ...]
    value: float
    low: float | None
    high: float | None
    base: Difference | None = None
    control: Difference | None = None
    scores: Mapping[str, Score] = field(default_factory=dict)
    frechet: float | None = None
    relative: Ratio | None = None
    models: tuple[ModelResult, ...] = ()

    def record(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class RowTable:
    """Rows with what they say: ``value`` is the metric's deciding value, ``binary`` whether its verdicts are yes/no."""

    rows: tuple[RowResult, ...]
    kind: str
    value: str
    binary: bool
    metric: str
    source: str
    features: str | None = None
    reference: int = 0

    @property
    def scores(self) -> list[str]:
        """The rewards that some row has a score of."""
        return list(dict.fromkeys(name for row in self.rows for name in row.scores))


def tabulate(
    record: Mapping[str, Any],
    measurements: Sequence[Measurement],
    reference: Features | None = None,
    control: str = CONTROL,
) -> RowTable:
    """Count.

    Args:
        record: ``ablation.json``.
        measurements: of any rows; pairs are made by prompt and seed.
        reference: features of the reference pictures.
        control: the row that others are compared with beside the base.
    """
    by_row: dict[str, dict[tuple[int, int], Measurement]] = {name: {} for name in record["rows"]}
    for measurement in measurements:
        by_row.setdefault(measurement.row, {})[measurement.pair] = measurement
    by_row = {name: found for name, found in sorted(by_row.items(), key=lambda item: _place(item[0], control)) if found}
    value = next((next(iter(m.values)) for m in measurements), "")
    binary = all(m.values[value] in (0.0, 1.0) for m in measurements)
    known = Reference(reference) if reference is not None and len(reference) > 1 else None
    rows = []
    for name, own in by_row.items():
        verdicts = [m.values[value] for m in own.values()]
        clusters = [m.prompt for m in own.values()]
        interval = share_interval(verdicts, clusters) if binary else mean_interval(verdicts, clusters)
        low, high = _ends(interval, _scale(binary))
        base = {} if name == BASE else by_row.get(BASE, {})
        other = {} if name in (BASE, control) else by_row.get(control, {})
        rows.append(
            RowResult(
                name=name,
                n=len(own),
                prompts=len(set(clusters)),
                seeds=tuple(sorted({m.seed for m in own.values()})),
                value=_mean(verdicts, binary),
                low=low,
                high=high,
                base=difference(base, own, value, binary, BASE),
                control=difference(other, own, value, binary, control),
                scores=_scores(list(own.values()), record["rows"].get(name, [])),
                frechet=None if known is None else _distance(list(own.values()), known),
                relative=None if known is None else _ratio(own, base, known),
                models=_models(own, base, record["rows"].get(name, []), value, binary),
            )
        )
    settings = record["settings"]
    return RowTable(
        rows=tuple(rows),
        kind=record["kind"],
        value=value,
        binary=binary,
        metric=settings["metric"]["name"],
        source=record.get("source", ""),
        features=settings.get("features"),
        reference=0 if reference is None else len(reference),
    )


def difference(
    before: Mapping[tuple[int, int], Measurement],
    after: Mapping[tuple[int, int], Measurement],
    value: str,
    binary: bool,
    against: str,
) -> Difference | None:
    """One row against another (:class:`Difference`); None where they share no prompt and seed."""
    both = [pair for pair in after if pair in before]
    if not both:
        return None
    was, now = ([row[pair].values[value] for pair in both] for row in (before, after))
    prompts = [after[pair].prompt for pair in both]
    changes = np.subtract(now, was)
    found: dict[str, Any] = {"low": None, "high": None}
    if binary:
        paired = compare([bool(v) for v in was], [bool(v) for v in now], prompts)
        found = {name: getattr(paired, name) for name in ("low", "high", "fixed", "broken", "p")}
    elif interval := difference_interval(changes, prompts):
        found["low"], found["high"] = interval
    first, second, gain = (_mean(values, binary) for values in (was, now, changes))
    return Difference(against, len(both), len(set(prompts)), first, second, gain, **found)


@dataclass(frozen=True)
class Pair:
    """Two rows on the pictures that both have; ``value`` is the metric's deciding value."""

    value: str
    difference: Difference


def pair_rows(measurements: Sequence[Measurement], before: str, after: str) -> Pair:
    """Compare any two rows.

    Raises:
        OptionError: there is no such row, or they share no prompt and seed.
    """
    rows: dict[str, dict[tuple[int, int], Measurement]] = {}
    for measurement in measurements:
        rows.setdefault(measurement.row, {})[measurement.pair] = measurement
    for name in (before, after):
        if name not in rows:
            raise OptionError(f"there is no row '{name}'. Rows: {', '.join(rows) or 'none'}.")
    was, now = rows[before], rows[after]
    value = next(iter(next(iter(now.values())).values))
    both = [pair for pair in now if pair in was]
    binary = all(row[pair].values[value] in (0.0, 1.0) for row in (was, now) for pair in both)
    found = difference(was, now, value, binary, before)
    if found is None:
        raise OptionError(f"rows '{before}' and '{after}' share no prompt and seed: there is nothing to pair.")
    return Pair(value, found)


def _place(name: str, control: str) -> tuple[int, str]:
    # Sorting is stable: beyond these two the order is that of the record.
    return ({BASE: 0, control: 1}.get(name, 2), "")


def _scale(binary: bool) -> float:
    return 100.0 if binary else 1.0


def _mean(values: Sequence[float] | npt.NDArray[Any], binary: bool) -> float:
    # Multiplied before it is divided: shares such as 207 of 400 are rounded as they are, not as 51.7499….
    return _scale(binary) * float(np.sum(values)) / len(values)


def _ends(interval: Interval, scale: float = 1.0) -> tuple[float, float] | tuple[None, None]:
    return (None, None) if interval is None else (scale * interval[0], scale * interval[1])


def _scores(own: Sequence[Measurement], models: Sequence[Mapping[str, Any]]) -> dict[str, Score]:
    trained = {name for model in models for name in model.get("raised", ())}
    found = {}
    for name in dict.fromkeys(name for m in own for name in m.scores):
        scored = [m for m in own if name in m.scores]
        values = [m.scores[name] for m in scored]
        error = standard_error(values, [m.prompt for m in scored])
        found[name] = Score(float(np.mean(values)), error, name in trained)
    return found


def _stack(own: Sequence[Measurement]) -> Features | None:
    vectors = [m.features for m in own if m.features is not None]
    # A distance of some of the pictures would not be the row's.
    return np.stack(vectors) if len(vectors) == len(own) > 1 else None


def _distance(own: Sequence[Measurement], reference: Reference) -> float | None:
    features = _stack(own)
    return None if features is None else reference.distance(features)


def _ratio(
    own: Mapping[tuple[int, int], Measurement],
    base: Mapping[tuple[int, int], Measurement],
    reference: Reference,
) -> Ratio | None:
    both = [pair for pair in own if pair in base]
    features, before = _stack([own[pair] for pair in both]), _stack([base[pair] for pair in both])
    if features is None or before is None:
        return None
    return ratio(features, before, reference, [own[pair].prompt for pair in both])


def _models(
    own: Mapping[tuple[int, int], Measurement],
    base: Mapping[tuple[int, int], Measurement],
    records: Sequence[Mapping[str, Any]],
    value: str,
    binary: bool,
) -> tuple[ModelResult, ...]:
    found = []
    for run, record in enumerate(records):
        mine = {pair: m for pair, m in own.items() if m.run == run}
        if mine and record.get("weights") is not None:
            mean = _mean([m.values[value] for m in mine.values()], binary)
            prompts = len({m.prompt for m in mine.values()})
            found.append(ModelResult(record, len(mine), prompts, mean, difference(base, mine, value, binary, BASE)))
    return tuple(found)
