from __future__ import annotations

import itertools

import numpy as np
import pytest

from realignkit.evaluation.resampling import grouped_jackknife, mean_sign_flip
from realignkit.evaluation.statistics import difference_interval, sign_flip


def test_few_prompts_are_counted_over_all_choices_of_signs():
    differences, prompts = [0.3, -0.1, 0.25, 0.2, 0.0], ["a", "b", "c", "c", "d"]
    sums = np.array([0.3, -0.1, 0.45, 0.0])
    flips = np.array(list(itertools.product((-1, 1), repeat=4))) @ sums
    extreme = np.mean(np.abs(flips) >= abs(sums.sum()) - 1e-9)
    assert mean_sign_flip(differences, prompts) == pytest.approx(extreme)
    assert mean_sign_flip([0.0, 0.0], ["a", "b"]) == 1.0
    assert mean_sign_flip([0.5, 0.5], ["a", "a"]) is None


def test_many_prompts_agree_with_the_exact_law_of_whole_numbers():
    random = np.random.default_rng(3)
    moved = random.choice([-1, 0, 1], p=[0.2, 0.5, 0.3], size=80)
    assert mean_sign_flip(moved, range(80)) == pytest.approx(sign_flip(moved), abs=0.02)
    # An effect beyond doubt has the least p that so many choices can give, and an interval that excludes 0.
    assert mean_sign_flip(np.full(60, 0.4) + random.normal(0, 0.01, 60), range(60)) == pytest.approx(1 / 10_001)
    assert difference_interval(moved + 2.0, range(80))[0] > 0


def test_the_jackknife_of_a_mean_is_the_interval_of_a_mean():
    random = np.random.default_rng(4)
    values, prompts = random.normal(2, 1, 400), np.arange(400)
    low, high = grouped_jackknife(lambda kept: float(np.mean(values[list(kept)])), prompts.tolist())
    assert (low + high) / 2 == pytest.approx(values.mean())
    assert (high - low) / 2 == pytest.approx(2.09 * values.std() / 20, rel=0.35)
    assert grouped_jackknife(lambda kept: 1.0, range(19)) is None
    assert grouped_jackknife(lambda kept: None, range(40)) is None
