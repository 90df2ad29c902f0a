"""Paired comparisons: two judgements of the same things."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

RESAMPLES = 10_000
HEADER = """| prompts | n | base % | fine % | gain [95 %] | fixed / broken | McNemar p |
| --- | --- | --- | --- | --- | --- | --- |"""


@dataclass(frozen=True)
class Paired:
    """Before and after, on the same ``n`` things; shares in percent, difference in points.

    Attributes:
        n: how many things.
        before, after: share of yes, in percent.
        fixed, broken: how many became yes, and how many became no.
        p: McNemar's, exact and two-sided.
        low, high: 95 % bootstrap interval of the difference, in points.
    """

    n: int
    before: float
    after: float
    fixed: int
    broken: int
    p: float
    low: float
    high: float

    @property
    def gain(self) -> float:
        """After minus before, in points."""
        return self.after - self.before

    def row(self, name: str) -> str:
        """A row of :data:`HEADER`'s table."""
        return (
            f"| {name} | {self.n} | {self.before:.1f} | {self.after:.1f} | {self.gain:+.1f} "
            f"[{self.low:+.1f}, {self.high:+.1f}] | {self.fixed} / {self.broken} | {self.p:.2g} |"
        )


def compare(before: Sequence[bool], after: Sequence[bool], clusters: Sequence[Hashable], seed: int = 0) -> Paired:
    """Compare two judgements.

    Args:
        before: judgements of some things, at least one.
        after: judgements of the same things, in the same order.
        clusters: what belongs together (the prompt that several seeds share): the interval resamples clusters.
        seed: of the bootstrap (10,000 resamples).

    Returns:
        Shares, discordant pairs, McNemar's exact two-sided p and the bootstrap's 95 % interval of the difference.
    """
    was, now = np.asarray(before, bool), np.asarray(after, bool)
    fixed, broken = int((~was & now).sum()), int((was & ~now).sum())
    low, high = mean_interval(now.astype(float) - was, clusters, seed)
    return Paired(
        n=len(was),
        before=100 * float(was.mean()),
        after=100 * float(now.mean()),
        fixed=fixed,
        broken=broken,
        p=mcnemar(fixed, broken),
        low=100 * low,
        high=100 * high,
    )


def mcnemar(fixed: int, broken: int) -> float:
    """Exact two-sided p: how likely a fair coin is to split fixed + broken at least so unevenly."""
    total = fixed + broken
    tail = sum(math.comb(total, k) for k in range(min(fixed, broken) + 1))
    return float(min(1.0, 2 * tail / 2**total))


def mean_interval(
    values: Sequence[float] | npt.NDArray[Any], clusters: Sequence[Hashable], seed: int = 0
) -> tuple[float, float]:
    """95 % bootstrap interval of a mean whose values come in clusters that are drawn as a whole.

    Args:
        values: float (n,), at least one.
        clusters: one name per value.
        seed: of the bootstrap.
    """
    names = {name: index for index, name in enumerate(dict.fromkeys(clusters))}
    of = np.array([names[name] for name in clusters])
    sums, sizes = np.bincount(of, np.asarray(values, float)), np.bincount(of)
    random = np.random.default_rng(seed)
    means: list[npt.NDArray[Any]] = []
    piece = max(1, 4_000_000 // len(names))  # a bound on memory
    for start in range(0, RESAMPLES, piece):
        draws = random.integers(len(names), size=(min(piece, RESAMPLES - start), len(names)))
        means.append(sums[draws].sum(1) / sizes[draws].sum(1))
    low, high = np.quantile(np.concatenate(means), (0.025, 0.975))
    return float(low), float(high)
