"""The statistics of paired comparisons, against enumeration and known values."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from realignkit.evaluation import paired


@pytest.mark.parametrize(("fixed", "broken"), [(5, 1), (3, 3), (0, 4), (7, 2), (0, 0)])
def test_mcnemar_is_the_share_of_coin_flips_at_least_as_uneven(fixed: int, broken: int) -> None:
    total = fixed + broken
    flips = [sum(way) for way in itertools.product((0, 1), repeat=total)]
    uneven = [abs(heads - total / 2) >= abs(fixed - total / 2) for heads in flips]
    assert paired.mcnemar(fixed, broken) == pytest.approx(sum(uneven) / len(flips))


def test_compare_counts_pairs_and_brackets_the_difference() -> None:
    before = [True] * 40 + [False] * 60
    after = [True] * 35 + [False] * 5 + [True] * 20 + [False] * 40
    result = paired.compare(before, after, clusters=range(100))
    assert (result.fixed, result.broken, result.before, result.after) == pytest.approx((20, 5, 40, 55))
    assert result.low < result.gain < result.high
    # Normal approximation of the paired difference: 15 ± 1.96 * 100 * sqrt((25 - 0.15**2 * 100) / 100**2).
    assert result.low == pytest.approx(15 - 9.35, abs=1.5)
    assert result.high == pytest.approx(15 + 9.35, abs=1.5)


def test_intervals_widen_when_seeds_of_a_prompt_move_together() -> None:
    before, after = [False] * 200, [True] * 40 + [False] * 160
    apart = paired.compare(before, after, clusters=range(200))
    together = paired.compare(before, after, clusters=[index // 4 for index in range(200)])
    assert together.high - together.low > 1.5 * (apart.high - apart.low)


def test_the_interval_of_a_mean_is_that_of_its_standard_error() -> None:
    values = np.random.default_rng(3).normal(2.0, 1.0, 400)
    low, high = paired.mean_interval(values, range(400))
    error = values.std() / 20
    assert (low, high) == pytest.approx((values.mean() - 1.96 * error, values.mean() + 1.96 * error), abs=0.15 * error)
    # Four copies of a value in a cluster tell no more than one.
    again = paired.mean_interval(values.repeat(4), np.arange(400).repeat(4).tolist())
    assert again == pytest.approx((low, high))
