"""Paired comparisons of two yes/no judgements of the same things."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Paired:
    """Before and after, on the same ``n`` things; shares in percent, difference in points."""

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


HEADER = """| prompts | n | base % | fine % | gain [95 %] | fixed / broken | McNemar p |
| --- | --- | --- | --- | --- | --- | --- |"""


def compare(before: Sequence[bool], after: Sequence[bool], clusters: Sequence[Hashable], seed: int = 0) -> Paired:
    """Compare two judgements.

    Args:
        before: judgements of some things.
        after: judgements of the same things, in the same order.
        clusters: what belongs together (the prompt that several seeds share): the interval resamples clusters.
        seed: of the bootstrap (10,000 resamples).

    Returns:
        Shares, discordant pairs, McNemar's exact two-sided p and the bootstrap's 95 % interval of the difference.
    """
    was, now = np.asarray(before, bool), np.asarray(after, bool)
    fixed, broken = int((~was & now).sum()), int((was & ~now).sum())
    low, high = _interval(now.astype(float) - was, clusters, seed)
    return Paired(
        len(was), 100 * was.mean(), 100 * now.mean(), fixed, broken, mcnemar(fixed, broken), 100 * low, 100 * high
    )


def mcnemar(fixed: int, broken: int) -> float:
    """Exact two-sided p: how likely a fair coin is to split fixed + broken at least so unevenly."""
    total = fixed + broken
    tail = sum(math.comb(total, k) for k in range(min(fixed, broken) + 1))
    return min(1.0, 2 * tail / 2**total)


def _interval(difference: np.ndarray, clusters: Sequence[Hashable], seed: int) -> tuple[float, float]:
    names = {name: index for index, name in enumerate(dict.fromkeys(clusters))}
    of = np.array([names[name] for name in clusters])
    sums, sizes = np.bincount(of, difference), np.bincount(of)
    draws = np.random.default_rng(seed).integers(len(names), size=(10_000, len(names)))
    means = sums[draws].sum(1) / sizes[draws].sum(1)
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)
