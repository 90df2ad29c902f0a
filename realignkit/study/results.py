"""From answers to results: who is counted, average ranks with intervals, tests, pairs, and which metrics agree."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from realignkit.errors import OptionError
from realignkit.evaluation.statistics import Interval, mean_interval
from realignkit.study.answers import Answer, passed
from realignkit.study.folder import Item, Study
from realignkit.study.ranking import (
    Friedman,
    friedman,
    known,
    mean_kendall_w,
    mean_ranks,
    percentiles,
    rank_correlation,
    resampled_means,
)

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class People:
    """How many people there were.

    Attributes:
        answered: at least one question.
        finished: all questions.
        checked: at least one check.
        failed: a check, at least once.
        counted: in the results.
    """

    answered: int
    finished: int
    checked: int
    failed: int
    counted: int

    @property
    def share_failed(self) -> float | None:
        """Of those who were checked, how many failed, in [0, 1]."""
        return self.failed / self.checked if self.checked else None


@dataclass(frozen=True)
class Placed:
    """How a system was ranked: its average rank (1 is best), the 95 % interval, and how often it alone was best."""

    system: str
    rank: float
    interval: Interval
    first: float


@dataclass(frozen=True)
class Pair:
    """Average rank of one system less that of another, with its 95 % interval: below 0 where ``one`` is better."""

    one: str
    other: str
    difference: float
    interval: Interval


@dataclass(frozen=True)
class Agreement:
    """How far a metric orders pictures as people do, by Spearman's rank correlation: 1 where it does.

    Attributes:
        metric: as an evaluation has it.
        within: mean over prompts, of the systems' pictures for it.
        interval: of that, 95 % by prompt.
        prompts: how many it is of: all systems have a value there, and neither side is one tie.
        systems: of the systems' means over these prompts.
    """

    metric: str
    within: float | None
    interval: Interval
    prompts: int
    systems: float | None


@dataclass(frozen=True)
class Judged:
    """What came of a question.

    Attributes:
        question: its name.
        answers: how many rankings.
        people, prompts: of how many.
        placed: the systems, in the study's order.
        by_answer, by_person, by_prompt: Friedman's tests with rankings, people (over whose prompts ranks are averaged)
            or prompts (over people) as blocks.
        w: mean over prompts of Kendall's W of the people.
        pairs: every system with every other.
        agreements: a metric each.
    """

    question: str
    answers: int
    people: int
    prompts: int
    placed: tuple[Placed, ...]
    by_answer: Friedman
    by_person: Friedman
    by_prompt: Friedman
    w: float | None
    pairs: tuple[Pair, ...]
    agreements: tuple[Agreement, ...]


@dataclass(frozen=True)
class Results:
    """What came of a study: the systems, the people, and each question that anybody answered."""

    systems: tuple[str, ...]
    people: People
    questions: tuple[Judged, ...]


def evaluate(study: Study, answers: Sequence[Answer], *, everybody: bool = False, seed: int = 0) -> Results:
    """The results of a study.

    Args:
        study: what was asked.
        answers: to it.
        everybody: count those too who have failed a check.
        seed: of the bootstrap.

    Raises:
        OptionError: nobody is left to be counted.
    """
    counted = counted_answers(study, answers, everybody=everybody)
    tables = {question.name: rank_table(study, counted, question.name) for question in study.questions}
    judged = [_judged(study, name, ranks, seed) for name, ranks in tables.items() if known(ranks).any()]
    if not judged:
        all_failed = answers and not counted
        why = "everybody failed a check; --everybody counts them" if all_failed else "nobody has answered yet"
        raise OptionError(f"the study has no results: {why}.")
    return Results(tuple(study.systems), _people(study, answers, counted), tuple(judged))


def failed_people(study: Study, answers: Sequence[Answer]) -> frozenset[str]:
    """Who has put another picture first in a check than the one that was asked for."""
    checks = {item.id: item for item in study.items if item.first}
    return frozenset(a.person for a in answers if a.item in checks and not passed(checks[a.item], a))


def counted_answers(study: Study, answers: Sequence[Answer], *, everybody: bool = False) -> list[Answer]:
    """Answers without those of people who have failed a check, unless everybody is to be counted."""
    failed = frozenset() if everybody else failed_people(study, answers)
    return [answer for answer in answers if answer.person not in failed]


def _people(study: Study, answers: Sequence[Answer], counted: Sequence[Answer]) -> People:
    checks = {item.id for item in study.items if item.first}
    numbers: dict[str, int] = {}
    for answer in answers:
        numbers[answer.person] = numbers.get(answer.person, 0) + 1
    return People(
        answered=len(numbers),
        finished=sum(count == len(study.items) * len(study.questions) for count in numbers.values()),
        checked=len({answer.person for answer in answers if answer.item in checks}),
        failed=len(failed_people(study, answers)),
        counted=len({answer.person for answer in counted}),
    )


def system_ranks(item: Item, answer: Answer) -> list[float]:
    """The rank of each system's picture, 1 for the best; ties share the mean of theirs."""
    ranks = dict[str, float]()
    for group in answer.ranking:
        ranks |= dict.fromkeys(group, len(ranks) + (len(group) + 1) / 2)
    return [ranks[name] for name in item.pictures]


def rank_table(study: Study, answers: Sequence[Answer], question: str) -> Array:
    """Ranks of a question, float (people, prompts, systems): NaN where a person has not ranked a prompt; no checks."""
    items = {item.id: (place, item) for place, item in enumerate(_prompts(study))}
    people = {person: place for place, person in enumerate(dict.fromkeys(answer.person for answer in answers))}
    table = np.full((len(people), len(items), len(study.systems)), np.nan)
    for answer in answers:
        if answer.question == question and answer.item in items:
            place, item = items[answer.item]
            table[people[answer.person], place] = system_ranks(item, answer)
    return table


def _prompts(study: Study) -> list[Item]:
    return [item for item in study.items if not item.first]


def _judged(study: Study, question: str, ranks: Array, seed: int) -> Judged:
    present = known(ranks)
    averages, resampled = mean_ranks(ranks), resampled_means(ranks, seed)
    firsts = (ranks[present] == 1).mean(0)  # a tie for the first place has a larger mid-rank
    intervals = [None if resampled is None else percentiles(resampled[:, s]) for s in range(len(study.systems))]
    placed = zip(study.systems, averages.tolist(), intervals, firsts.tolist(), strict=True)
    return Judged(
        question=question,
        answers=int(present.sum()),
        people=int(present.any(1).sum()),
        prompts=int(present.any(0).sum()),
        placed=tuple(Placed(*values) for values in placed),
        by_answer=friedman(ranks[present]),
        by_person=friedman(_means(ranks, axis=1)),
        by_prompt=friedman(_means(ranks, axis=0)),
        w=mean_kendall_w(ranks),
        pairs=tuple(_pairs(study.systems, averages, resampled)),
        agreements=tuple(_agreements(study, ranks, seed)),
    )


def _means(ranks: Array, axis: int) -> Array:
    """Means over prompts (1) or people (0), of those that there are."""
    present = known(ranks)
    sums = np.where(present[..., None], ranks, 0.0).sum(axis)
    counts = present.sum(axis)
    return np.asarray(sums[counts > 0] / counts[counts > 0, None])


def _pairs(systems: Sequence[str], averages: Array, resampled: Array | None) -> Iterator[Pair]:
    for one, other in itertools.combinations(range(len(systems)), 2):
        interval = None if resampled is None else percentiles(resampled[:, one] - resampled[:, other])
        yield Pair(systems[one], systems[other], float(averages[one] - averages[other]), interval)


def _agreements(study: Study, ranks: Array, seed: int) -> Iterator[Agreement]:
    items = _prompts(study)
    for metric in dict.fromkeys(name for item in items for name in item.values):
        correlations: list[float] = []
        values: list[Array] = []
        liked: list[Array] = []
        for place, item in enumerate(items):
            rows = ranks[known(ranks)[:, place], place]
            said = item.values.get(metric, [])
            if not len(rows) or not said or None in said:
                continue
            numbers, order = np.asarray(said, float), -rows.mean(0)
            if (correlation := rank_correlation(numbers, order)) is not None:
                correlations.append(correlation)
                values.append(numbers)
                liked.append(order)
        yield Agreement(
            metric=metric,
            within=float(np.mean(correlations)) if correlations else None,
            interval=mean_interval(correlations, range(len(correlations)), seed),
            prompts=len(correlations),
            systems=rank_correlation(np.mean(values, 0), np.mean(liked, 0)) if correlations else None,
        )


def answer_records(study: Study, answers: Sequence[Answer]) -> Iterator[Mapping[str, Any]]:
    """Answers with the systems' names in the place of the pictures': what leaves the study."""
    for answer in answers:
        item = study.item(answer.item)
        assert item is not None
        names = [f"number {n}" for n in range(1, len(study.systems) + 1)] if item.first else study.systems
        name_of = dict(zip(item.pictures, names, strict=True))
        yield {
            "person": answer.person,
            "item": answer.item,
            "prompt": item.prompt,
            "question": answer.question,
            "check": passed(item, answer),
            "ranking": [[name_of[name] for name in group] for group in answer.ranking],
            "ranks": {name_of[n]: r for n, r in zip(item.pictures, system_ranks(item, answer), strict=True)},
            "shown": [name_of[name] for name in answer.shown],
            "seconds": answer.seconds,
            "at": answer.at,
        }
