"""The arithmetic of Soft-TIFA (GenEval 2): means of the probabilities of right answers. Plain functions, in [0, 1]."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from statistics import fmean


def arithmetic_mean(probabilities: Sequence[float]) -> float:
    """Of one prompt's questions: how much of it is there."""
    return math.fsum(probabilities) / len(probabilities)


def geometric_mean(probabilities: Sequence[float]) -> float:
    """Of one prompt's questions: whether all of it is there; 0 where one probability is."""
    if min(probabilities) <= 0:
        return 0.0
    return math.exp(math.fsum(math.log(value) for value in probabilities) / len(probabilities))


def over_prompts(scores: Iterable[float]) -> float:
    """The mean over prompts of their arithmetic or geometric means."""
    return fmean(scores)


def per_skill(probabilities: Sequence[Sequence[float]], skills: Sequence[Sequence[str]]) -> dict[str, float]:
    """The mean probability of each skill's questions, pooled over prompts.

    Args:
        probabilities: per prompt, of each question.
        skills: likewise ("object", "attribute", "count", "position", "verb").
    """
    pooled: dict[str, list[float]] = defaultdict(list)
    for values, names in zip(probabilities, skills, strict=True):
        for value, name in zip(values, names, strict=True):
            pooled[name].append(value)
    return {name: arithmetic_mean(values) for name, values in pooled.items()}


def per_atom_count(probabilities: Sequence[Sequence[float]], atom_counts: Sequence[int]) -> dict[int, float]:
    """The mean of the prompts' geometric means at each number of atoms, in order."""
    pooled: dict[int, list[float]] = defaultdict(list)
    for values, count in zip(probabilities, atom_counts, strict=True):
        pooled[count].append(geometric_mean(values))
    return {count: fmean(pooled[count]) for count in sorted(pooled)}
