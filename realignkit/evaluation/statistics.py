"""Shares and paired comparisons of pictures that come several to a prompt.

The seeds of one prompt succeed and fail together. A test or an interval that takes each picture for a draw of its own
is too sure, so here the prompt is what chance draws: whole prompts change sign, or are drawn again. With one picture
per prompt these are the usual statistics (McNemar's exact test, Wilson's interval). ``clusters`` names the prompt of
each value, by its text or a digest of it: a prompt that is listed twice is one prompt.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from realignkit.errors import OptionError

Array = npt.NDArray[Any]
Values = Sequence[float] | npt.NDArray[Any]
Interval = tuple[float, float] | None
"""95 %; None where too little is known for one."""

LEVEL = 0.05
RESAMPLES = 10_000
PIECE = 4_000_000  # numbers at a time, a bound on memory
HEADER = """| prompts | pictures | different prompts | base % | fine % | gain [95 %] | fixed / broken | sign-flip p |
| --- | --- | --- | --- | --- | --- | --- | --- |"""
HOW = (
    "Differences are in points, over the same prompts and seeds, and rounded by themselves; fixed pictures became "
    "right, broken ones wrong. p is that of an exact two-sided sign-flip test by prompt: all pictures of a prompt "
    "change sides together (with one picture per prompt it is McNemar's). The 95 % interval holds the differences that "
    "this test does not reject, so it excludes 0 where p is below 0.05; '-' where the prompts are fewer than six or "
    "all moved alike."
)
"""How to read differences and their p, as tables say it."""


@dataclass(frozen=True)
class Paired:
    """Before and after, on the same ``n`` pictures; shares in percent, difference in points.

    Attributes:
        n: how many pictures.
        prompts: of how many different prompts.
        before, after: share of yes, in percent; None of no picture.
        fixed, broken: how many became yes, and how many became no.
        p: of :func:`sign_flip`, exact and two-sided; None of fewer than two prompts.
        low, high: of :func:`difference_interval`, in points; None where there is none.
    """

    n: int
    prompts: int
    before: float | None
    after: float | None
    fixed: int
    broken: int
    p: float | None
    low: float | None
    high: float | None

    @property
    def gain(self) -> float | None:
        """After minus before, in points."""
        return 100 * (self.fixed - self.broken) / self.n if self.n else None

    def row(self, name: str) -> str:
        """A row of :data:`HEADER`'s table."""
        before, after = ("-" if share is None else f"{share:.1f}" for share in (self.before, self.after))
        return (
            f"| {name} | {self.n} | {self.prompts} | {before} | {after} | {shown_gain(self.gain, self.low, self.high)} "
            f"| {self.fixed} / {self.broken} | {shown_p(self.p)} |"
        )


def compare(before: Sequence[bool], after: Sequence[bool], clusters: Sequence[Hashable], seed: int = 0) -> Paired:
    """Compare two judgements of the same pictures.

    Args:
        before: judgements (n,).
        after: judgements of the same pictures, in the same order.
        clusters: the prompt of each.
        seed: of :func:`difference_interval`.

    Raises:
        OptionError: they are not equally many.
    """
    was, now = np.asarray(before, bool), np.asarray(after, bool)
    if not len(was) == len(now) == len(clusters):
        raise OptionError(
            f"{len(was)} judgements before, {len(now)} after and {len(clusters)} prompts do not go together: give one "
            f"of each per picture."
        )
    changes = now.astype(int) - was
    sums, _ = by_prompt(changes, clusters)
    p = sign_flip(sums.astype(int)) if len(sums) > 1 else None
    low, high = _points(difference_interval(changes, clusters, p, seed))
    return Paired(
        n=len(was),
        prompts=len(sums),
        before=100 * int(was.sum()) / len(was) if len(was) else None,
        after=100 * int(now.sum()) / len(now) if len(now) else None,
        fixed=int((changes > 0).sum()),
        broken=int((changes < 0).sum()),
        p=p,
        low=low,
        high=high,
    )


def yes_or_no(name: str, values: Values, verdicts: Collection[str] | None) -> bool:
    """Whether values are verdicts, 1 or 0 each.

    Args:
        name: what they are called.
        values: of pictures.
        verdicts: the values that are, as the metric says; None: it does not say, and what only has 0 and 1 is.
    """
    return (verdicts is None or name in verdicts) and set(values) <= {0.0, 1.0}


def by_prompt(values: Values, clusters: Sequence[Hashable]) -> tuple[Array, Array]:
    """Sums of values (n,) and how many there are, for each different prompt: float (K,), int (K,)."""
    names = {name: index for index, name in enumerate(dict.fromkeys(clusters))}
    of = np.array([names[name] for name in clusters], int)
    return np.bincount(of, np.asarray(values, float), len(names)), np.bincount(of, minlength=len(names))


def sign_flip(differences: Sequence[int] | Array) -> float:
    """Exact two-sided p of a sign-flip test: how many of all 2^K choices of signs give a sum as far from 0, or farther.

    Without an effect, a prompt's pictures are as likely to have moved the other way, all of them together. No draws:
    the law of the sum is built up prompt by prompt. With differences of -1, 0 and 1 it is McNemar's exact test.

    Args:
        differences: whole numbers (K,), of each prompt: fixed less broken pictures.
    """
    sizes = [abs(int(difference)) for difference in differences if difference]
    total, seen = sum(sizes), abs(sum(int(difference) for difference in differences))
    if not seen:
        return 1.0
    law = np.zeros(total + 1)  # of the sum of those that keep a plus sign
    law[0] = 1.0
    for size in sizes:
        law[size:] = (law[size:] + law[:-size]) / 2
        law[:size] /= 2
    return float(2 * law[: (total - seen) // 2 + 1].sum())


def mcnemar(fixed: int, broken: int) -> float:
    """McNemar's exact two-sided p, for pictures of as many different prompts only; otherwise :func:`sign_flip`."""
    return sign_flip([1] * fixed + [-1] * broken)


def difference_interval(
    values: Values, clusters: Sequence[Hashable], p: float | None = None, seed: int = 0
) -> Interval:
    """95 % interval of the mean of paired differences: all means that :func:`sign_flip`'s test does not reject.

    A choice of signs splits the prompts in two. It is as extreme as what was seen, for a supposed mean, where that mean
    lies between the means of the two parts (Hartigan, Journal of the American Statistical Association 64, 1969). So the
    bounds are quantiles of the parts' means: over all splits up to 13 prompts, over 10,000 random ones beyond.

    Args:
        values: differences (n,), of pictures.
        clusters: the prompt of each.
        p: the exact p of no difference, which a bound at 0 must not contradict by the luck of the splits.
        seed: of the splits.

    Returns:
        The interval; None of fewer than six prompts (no test of them could reject anything), or where all prompts
        moved alike (nothing tells how much others would differ).
    """
    sums, sizes = by_prompt(values, clusters)
    if 2 / 2 ** len(sums) > LEVEL or np.ptp(sums / sizes) == 0:
        return None
    lows, highs = (np.sort(ends) for ends in _splits(sums, sizes, seed))
    left_out = int(LEVEL * len(lows))
    low, high = float(lows[left_out]), float(highs[-1 - left_out])
    if p is not None and p > LEVEL:
        return min(low, 0.0), max(high, 0.0)
    if p is not None and low <= 0 <= high:
        return (float(lows[lows > 0][0]), high) if sums.sum() > 0 else (low, float(highs[highs < 0][-1]))
    return low, high


def _splits(sums: Array, sizes: Array, seed: int) -> tuple[Array, Array]:
    """The lesser and the greater mean of the two parts, for each split of the prompts in two."""
    count, random = len(sums), np.random.default_rng(seed)
    every = 2**count <= RESAMPLES
    splits = 2**count if every else RESAMPLES
    lows, highs = np.empty(splits), np.empty(splits)
    piece = max(1, PIECE // count)
    for start in range(0, splits, piece):
        part = slice(start, min(start + piece, splits))
        if every:
            chosen = (np.arange(part.start, part.stop)[:, None] >> np.arange(count)) & 1
        else:
            chosen = random.integers(2, size=(part.stop - part.start, count), dtype=np.int8)
        one, of_one = chosen @ sums, chosen @ sizes
        other, of_other = sums.sum() - one, sizes.sum() - of_one
        whole = (of_one == 0) | (of_other == 0)  # such a split is as extreme as what was seen, whatever is supposed
        means = one / np.where(whole, 1, of_one), other / np.where(whole, 1, of_other)
        lows[part] = np.where(whole, -np.inf, np.minimum(*means))
        highs[part] = np.where(whole, np.inf, np.maximum(*means))
    return lows, highs


def wilson(successes: float, count: float, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's score interval of a proportion of independent trials, 95 % by default; (0, 1) without observations.

    Pictures of which several have the same prompt are not independent: see :func:`share_interval`.
    """
    if count == 0:
        return 0.0, 1.0
    share, square = successes / count, z * z
    centre = (share + square / (2 * count)) / (1 + square / count)
    half = z * math.sqrt(share * (1 - share) / count + square / (4 * count * count)) / (1 + square / count)
    # Rounding must not push the share itself out of its interval.
    return max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half))


def share_interval(verdicts: Values, clusters: Sequence[Hashable]) -> Interval:
    """95 % interval of a share in [0, 1]: Wilson's, for as many independent pictures as these are worth.

    The pictures count for n over the design effect: how much more the prompts' counts vary than those of independent
    pictures would, at least 1. It is estimated with one more prompt of all and one of no successes, without which few
    prompts, or shares near 0 and 1, look too sure: in simulations (10 to 400 prompts, 1 to 20 seeds, shares of 50 to
    98 %, correlations of 0 to 0.8) these intervals held the truth in 93 to 100 % of cases, the plain ones in 9 to 98 %.
    With one picture per prompt it is Wilson's interval exactly.

    Args:
        verdicts: yes or no (n,), as booleans, or as 1 and 0.
        clusters: the prompt of each.

    Returns:
        The interval; None of no picture.
    """
    sums, sizes = by_prompt(verdicts, clusters)
    n, successes = int(sizes.sum()), float(sums.sum())
    if n == 0:
        return None
    size = float(np.square(sizes).sum()) / n
    sums, sizes = np.append(sums, [size, 0.0]), np.append(sizes, [size, size])
    share = float(sums.sum() / sizes.sum())
    effect = float(np.square(sums - sizes * share).sum() / (sizes.sum() * share * (1 - share)))
    effect = max(1.0, effect) if size > 1 else 1.0
    return wilson(successes / effect, n / effect)


def mean_interval(values: Values, clusters: Sequence[Hashable], seed: int = 0) -> Interval:
    """95 % bootstrap interval (percentiles) of a mean, whole prompts drawn with replacement.

    Args:
        values: float (n,).
        clusters: the prompt of each.
        seed: of the bootstrap (10,000 resamples).

    Returns:
        The interval; None of fewer than two prompts.
    """
    sums, sizes = by_prompt(values, clusters)
    if len(sums) < 2:
        return None
    random = np.random.default_rng(seed)
    means: list[Array] = []
    piece = max(1, PIECE // len(sums))
    for start in range(0, RESAMPLES, piece):
        draws = random.integers(len(sums), size=(min(piece, RESAMPLES - start), len(sums)))
        means.append(sums[draws].sum(1) / sizes[draws].sum(1))
    low, high = np.quantile(np.concatenate(means), (0.025, 0.975))
    return float(low), float(high)


def standard_error(values: Values, clusters: Sequence[Hashable]) -> float | None:
    """Standard error of a mean, cluster-robust (a ratio estimator over prompts); None of fewer than two prompts.

    Args:
        values: float (n,).
        clusters: the prompt of each.
    """
    sums, sizes = by_prompt(values, clusters)
    count, n = len(sums), int(sizes.sum())
    if count < 2:
        return None
    off = float(np.square(sums - sizes * sums.sum() / n).sum())
    return math.sqrt(count / (count - 1) * off) / n


def shown_gain(gain: float | None, low: float | None, high: float | None, digits: int = 1) -> str:
    """A difference with its interval as tables show it; a bound beside 0 is never shown as 0."""
    if gain is None:
        return "-"
    interval = "-" if low is None or high is None else f"{_signed(low, digits)}, {_signed(high, digits)}"
    return f"{_signed(gain, digits)} [{interval}]"


def _signed(value: float, digits: int) -> str:
    while value and not round(value, digits) and digits < 6:
        digits += 1
    return f"{value + 0.0:+.{digits}f}"  # adding 0 takes the sign off -0


def shown_p(p: float | None) -> str:
    """A p as tables show it: two digits, or as many as it takes to see on which side of 0.05 it is."""
    if p is None:
        return "-"
    digits = 2
    while (float(f"{p:.{digits}g}") < LEVEL) != (p < LEVEL):
        digits += 1
    return f"{p:.{digits}g}" if p else "< 1e-300"


def _points(interval: Interval) -> tuple[float, float] | tuple[None, None]:
    return (None, None) if interval is None else (100 * interval[0], 100 * interval[1])
