"""From measurements to the paper's tables: shares with intervals, paired differences, scores, Fréchet distances."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from realignkit.errors import OptionError
from realignkit.evaluation.results import SCORERS, SUCCESS, Features, Measurement
from realignkit.evaluation.statistics import (
    compare,
    difference_interval,
    mean_interval,
    share_interval,
    standard_error,
)
from realignkit.frechet import Gaussian, Ratio, ratio

BASE, CONTROL = "base", "control"

Row = Mapping[tuple[int, int], Measurement]
"""Measurements by prompt and seed."""


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

    ``raised``: a model of the row was trained to raise it, or its pictures were chosen or guided by it.
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
class Asked:
    """What Table IV says of a row beside its share of right answers.

    Attributes:
        tagger, scorer: who was asked.
        images: how many were tagged; those without a tag, or whose prompt's truth is not known, are no question.
        successes: right answers.
        reasons: what the others lack, reason -> answers; an answer may lack several things.
        objects, seen: objects that the prompts name, and how many of them the tagger saw.
        seconds: spent on asking, all together.
        problem: why there is nothing to count, where a whole step failed.
    """

    tagger: str
    scorer: str
    images: int
    successes: int
    reasons: Mapping[str, int]
    objects: int
    seen: int
    seconds: float
    problem: str


@dataclass(frozen=True)
class RowResult:
    """A row of the table.

    Attributes:
        name: the row's.
        n, prompts, seeds: pictures that were judged, different prompts, seeds.
        silent: pictures that the metric knows nothing to say of.
        value, low, high: of the metric, None where nothing was judged, with its 95 % interval, None without one:
            Wilson's for prompts of several pictures where verdicts are yes/no, else a bootstrap over prompts. Shares
            are in percent where :attr:`AblationTable.percent` says so.
        base, control: differences to those rows, where they are there.
        scores: means of rewards.
        frechet: distance to the reference pictures; None without features.
        relative: the same over the base's, on the pictures that both have.
        models: where the row has several, or a trained one.
        asked: in Table IV.
    """

    name: str
    n: int
    prompts: int
    seeds: tuple[int, ...]
    value: float | None
    low: float | None
    high: float | None
    base: Difference | None = None
    control: Difference | None = None
    scores: Mapping[str, Score] = field(default_factory=dict)
    frechet: float | None = None
    relative: Ratio | None = None
    models: tuple[ModelResult, ...] = ()
    asked: Asked | None = None
    silent: int = 0

    def record(self) -> dict[str, Any]:
        """As JSON values."""
        record = asdict(self)
        asked = record.pop("asked")
        if asked is None:
            return record
        interval = None if self.low is None else [self.low, self.high]
        counts = {"asked": self.n, "prompts": self.prompts, "rate": self.value, "interval": interval}
        return {"found": asked.pop("seen"), **asked, **counts}


@dataclass(frozen=True)
class AblationTable:
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
    def percent(self) -> bool:
        """Whether values are shares in percent; Table IV's are in [0, 1]."""
        return self.binary and self.kind != SCORERS

    @property
    def scores(self) -> list[str]:
        """The rewards that some row has a score of."""
        return list(dict.fromkeys(name for row in self.rows for name in row.scores))


def tabulate(
    record: Mapping[str, Any],
    measurements: Sequence[Measurement],
    reference: Features | None = None,
    control: str = CONTROL,
) -> AblationTable:
    """Count.

    Args:
        record: ``ablation.json``.
        measurements: of any rows; pairs are made by prompt and seed.
        reference: features of the reference pictures.
        control: the row that others are compared with beside the base.
    """
    kind, rows = record["kind"], _by_row(measurements, record["rows"])
    value = SUCCESS if kind == SCORERS else next((next(iter(m.values)) for m in measurements if m.values), "")
    judged = {name: {pair: m for pair, m in row.items() if value in m.values} for name, row in rows.items()}
    binary = all(m.values[value] in (0.0, 1.0) for row in judged.values() for m in row.values())
    percent = binary and kind != SCORERS
    known = Gaussian.of(reference) if reference is not None and len(reference) > 1 else None
    results = []
    for name in sorted(rows, key=lambda name: {BASE: 0, control: 1}.get(name, 2)):  # else in the record's order
        models, row = record["rows"].get(name, []), judged[name]
        if not rows[name] and kind != SCORERS:
            continue
        verdicts, prompts = [m.values[value] for m in row.values()], [m.prompt for m in row.values()]
        interval = share_interval(verdicts, prompts) if binary else mean_interval(verdicts, prompts)
        scale = 100.0 if percent else 1.0
        low, high = (None, None) if interval is None else (scale * interval[0], scale * interval[1])
        features = _stack(list(row.values()))
        base = {} if name == BASE else judged.get(BASE, {})
        other = {} if name in (BASE, control) else judged.get(control, {})
        results.append(
            RowResult(
                name=name,
                n=len(row),
                prompts=len(set(prompts)),
                seeds=tuple(sorted({m.seed for m in row.values()})),
                value=_mean(verdicts, percent) if verdicts else None,
                low=low,
                high=high,
                base=difference(base, row, value, binary, BASE),
                control=difference(other, row, value, binary, control),
                scores=_scores(list(row.values()), models),
                frechet=None if known is None or features is None else known.distance(Gaussian.of(features)),
                relative=None if known is None else _ratio(row, base, known),
                models=_models(row, base, models, value, binary),
                asked=_asked(list(rows[name].values()), models[0]) if kind == SCORERS else None,
                silent=len(rows[name]) - len(row),
            )
        )
    return AblationTable(
        rows=tuple(results),
        kind=kind,
        value=value,
        binary=binary,
        metric=record["settings"]["metric"]["name"],
        source=record.get("source", ""),
        features=record["settings"].get("features"),
        reference=0 if reference is None else len(reference),
    )


def _by_row(measurements: Sequence[Measurement], names: Sequence[str] | Mapping[str, Any] = ()) -> dict[str, Row]:
    rows: dict[str, dict[tuple[int, int], Measurement]] = {name: {} for name in names}
    for measurement in measurements:
        rows.setdefault(measurement.row, {})[measurement.pair] = measurement
    return dict(rows)


def difference(before: Row, after: Row, value: str, binary: bool, against: str) -> Difference | None:
    """One row against another (:class:`Difference`); None where they share no prompt and seed."""
    both = [pair for pair in after if pair in before]
    if not both:
        return None
    was, now = ([row[pair].values[value] for pair in both] for row in (before, after))
    prompts = [after[pair].prompt for pair in both]
    changes = np.subtract(now, was)
    numbers: dict[str, Any] = {"low": None, "high": None}
    if binary:
        paired = compare([bool(v) for v in was], [bool(v) for v in now], prompts)
        numbers = {name: getattr(paired, name) for name in ("low", "high", "fixed", "broken", "p")}
    elif interval := difference_interval(changes, prompts):
        numbers["low"], numbers["high"] = interval
    first, second, gain = (_mean(values, binary) for values in (was, now, changes))
    return Difference(against, len(both), len(set(prompts)), first, second, gain, **numbers)


@dataclass(frozen=True)
class Comparison:
    """Two rows on the pictures that both have; ``value`` is the metric's deciding value."""

    value: str
    difference: Difference


def pair_rows(measurements: Sequence[Measurement], before: str, after: str) -> Comparison:
    """Compare any two rows.

    Raises:
        OptionError: there is no such row, or they share no prompt and seed.
    """
    rows = _by_row(measurements)
    for name in (before, after):
        if name not in rows:
            raise OptionError(f"there is no row '{name}'. Rows: {', '.join(rows) or 'none'}.")
    value = next((next(iter(m.values)) for m in rows[after].values() if m.values), "")
    was, now = ({pair: m for pair, m in rows[name].items() if value in m.values} for name in (before, after))
    binary = all(row[pair].values[value] in (0.0, 1.0) for row in (was, now) for pair in was.keys() & now.keys())
    paired = difference(was, now, value, binary, before)
    if paired is None:
        raise OptionError(f"rows '{before}' and '{after}' share no prompt and seed: there is nothing to pair.")
    return Comparison(value, paired)


def _mean(values: Sequence[float] | npt.NDArray[Any], percent: bool) -> float:
    # Multiplied before it is divided: shares such as 207 of 400 are rounded as they are, not as 51.7499….
    return (100.0 if percent else 1.0) * float(np.sum(values)) / len(values)


def _scores(row: Sequence[Measurement], models: Sequence[Mapping[str, Any]]) -> dict[str, Score]:
    trained = {name for model in models for name in model.get("raised", ())}
    scores = {}
    for name in dict.fromkeys(name for m in row for name in m.scores):
        scored = [m for m in row if name in m.scores]
        values = [m.scores[name] for m in scored]
        error = standard_error(values, [m.prompt for m in scored])
        scores[name] = Score(float(np.mean(values)), error, name in trained)
    return scores


def _stack(row: Sequence[Measurement]) -> Features | None:
    vectors = [m.features for m in row if m.features is not None]
    # A distance of some of the pictures would not be the row's.
    return np.stack(vectors) if len(vectors) == len(row) > 1 else None


def _ratio(row: Row, base: Row, reference: Gaussian) -> Ratio | None:
    both = [pair for pair in row if pair in base]
    features, before = _stack([row[pair] for pair in both]), _stack([base[pair] for pair in both])
    if features is None or before is None:
        return None
    return ratio(features, before, reference, [row[pair].prompt for pair in both])


def _models(
    row: Row, base: Row, records: Sequence[Mapping[str, Any]], value: str, binary: bool
) -> tuple[ModelResult, ...]:
    models = []
    for run, record in enumerate(records):
        mine = {pair: m for pair, m in row.items() if m.run == run}
        if mine and record.get("weights") is not None:
            mean = _mean([m.values[value] for m in mine.values()], binary)
            prompts = len({m.prompt for m in mine.values()})
            models.append(ModelResult(record, len(mine), prompts, mean, difference(base, mine, value, binary, BASE)))
    return tuple(models)


def _asked(row: Sequence[Measurement], record: Mapping[str, Any]) -> Asked:
    sums: Counter[str] = Counter()
    for measurement in row:
        sums.update(measurement.values)
    seconds = float(sums.pop("seconds", 0.0))
    counts = {name: int(count) for name, count in sums.items()}
    named = {name: counts.pop(name, 0) for name in (SUCCESS, "objects", "seen")}
    return Asked(
        tagger=record["tagger"],
        scorer=record["scorer"],
        images=len(row),
        successes=named[SUCCESS],
        reasons=dict(sorted(counts.items())),
        objects=named["objects"],
        seen=named["seen"],
        seconds=seconds,
        problem=record.get("problem", ""),
    )
