"""Intervals and tests of numbers of any kind, by what happens to them when prompts are left out or change sign."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence

import numpy as np

from realignkit.evaluation.statistics import PIECE, RESAMPLES, Interval, Values, by_prompt

GROUPS = 20
_T = 2.093024  # 97.5 % quantile of Student's t with GROUPS - 1 degrees of freedom


def grouped_jackknife(statistic: Callable[[Sequence[int]], float | None], clusters: Sequence[Hashable]) -> Interval:
    """95 % interval of any number over pictures: a delete-a-group jackknife over prompts, with Student's t.

    Args:
        statistic: the number over the pictures at these places; None where it has none.
        clusters: the prompt of each picture; pictures of a prompt stay together.

    Returns:
        The interval; None of fewer than :data:`GROUPS` prompts, or where it is undefined without one of the groups.
    """
    names = {name: index for index, name in enumerate(dict.fromkeys(clusters))}
    if len(names) < GROUPS:
        return None
    group = np.array([names[name] % GROUPS for name in clusters])
    value = statistic(range(len(group)))
    without = [statistic(np.flatnonzero(group != left_out).tolist()) for left_out in range(GROUPS)]
    if value is None or any(each is None for each in without):
        return None
    spread = np.array(without, float)
    error = math.sqrt((GROUPS - 1) / GROUPS * float(np.square(spread - spread.mean()).sum()))
    return value - _T * error, value + _T * error


def mean_sign_flip(differences: Values, clusters: Sequence[Hashable], seed: int = 0) -> float | None:
    """Two-sided p of a sign-flip test of paired differences by prompt: all pictures of a prompt change sign together.

    Exact up to 13 prompts; beyond, by 10,000 random choices of signs, of which what was seen counts as one (Phipson and
    Smyth, 2010), so that p is at least 1e-4. For yes and no there is an exact one for any number:
    :func:`realignkit.evaluation.statistics.sign_flip`.

    Args:
        differences: float (n,), of pictures.
        clusters: the prompt of each.
        seed: of the choices.

    Returns:
        p; None of fewer than two prompts.
    """
    sums, _ = by_prompt(differences, clusters)
    sums = sums[sums != 0]
    if len(set(clusters)) < 2:
        return None
    seen = abs(sums.sum()) * (1 - 1e-12)  # sums that are equal may be rounded apart
    if not seen:
        return 1.0
    if 2 ** len(sums) <= RESAMPLES:
        signs = 1 - 2 * ((np.arange(2 ** len(sums))[:, None] >> np.arange(len(sums))) & 1)
        return float(np.mean(np.abs(signs @ sums) >= seen))
    random, extreme, piece = np.random.default_rng(seed), 0, max(1, PIECE // len(sums))
    for start in range(0, RESAMPLES, piece):
        signs = 1 - 2 * random.integers(2, size=(min(piece, RESAMPLES - start), len(sums)), dtype=np.int8)
        extreme += int(np.sum(np.abs(signs @ sums) >= seen))
    return (extreme + 1) / (RESAMPLES + 1)
