"""The Fréchet distance against the closed form, and against two other ways to compute it."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file
from scipy import linalg

from realignkit.frechet import GROUPS, Gaussian, frechet_distance, gaussian_distance, ratio
from tests.conftest import ROOT

GOLDEN = ROOT / "tests" / "golden" / "fid_inception"
CASES = json.loads((GOLDEN / "frechet.json").read_text())["cases"]


def covariance(random, size, rank=None):
    factor = random.normal(size=(size, rank or size))
    return factor @ factor.T / size


def by_eigenvalues(mean_a, a, mean_b, b):
    """tr (ab)^(1/2) from the eigenvalues of the product, which is not symmetric."""
    roots = torch.linalg.eigvals(torch.from_numpy(a @ b)).real.clamp(min=0).sqrt().sum()
    return float(((mean_a - mean_b) ** 2).sum() + np.trace(a) + np.trace(b) - 2 * roots)


def test_gaussians_with_independent_parts_are_the_closed_form():
    mean_a, mean_b = np.array([0.0, 1.0, -2.0]), np.array([1.0, 1.0, 0.5])
    a, b = np.array([1.0, 4.0, 0.25]), np.array([9.0, 4.0, 0.0])
    expected = ((mean_a - mean_b) ** 2).sum() + ((np.sqrt(a) - np.sqrt(b)) ** 2).sum()
    assert gaussian_distance(mean_a, np.diag(a), mean_b, np.diag(b)) == pytest.approx(expected)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 12))
def test_any_gaussians_agree_with_eigenvalues_of_the_product(seed, size):
    random = np.random.default_rng(seed)
    a, b = covariance(random, size), covariance(random, size)
    means = random.normal(size=(2, size))
    found = gaussian_distance(means[0], a, means[1], b)
    assert found == pytest.approx(by_eigenvalues(means[0], a, means[1], b), rel=1e-6, abs=1e-8)
    assert found == pytest.approx(gaussian_distance(means[1], b, means[0], a), rel=1e-9, abs=1e-9)
    assert gaussian_distance(means[0], a, means[0], a) == pytest.approx(0, abs=1e-7)


def test_agrees_with_a_matrix_square_root():
    random = np.random.default_rng(0)
    one, two = random.normal(size=(300, 6)), random.normal(size=(200, 6)) @ covariance(random, 6) + 0.3
    a, b = np.cov(one, rowvar=False), np.cov(two, rowvar=False)
    root = linalg.sqrtm(a @ b).real
    expected = ((one.mean(0) - two.mean(0)) ** 2).sum() + np.trace(a + b - 2 * root)
    assert frechet_distance(one, two) == pytest.approx(expected)


def test_fewer_pictures_than_features_is_no_accident():
    random = np.random.default_rng(1)
    a, b = covariance(random, 10, rank=3), covariance(random, 10, rank=2)
    zero = np.zeros(10)
    assert gaussian_distance(zero, a, zero, b) == pytest.approx(by_eigenvalues(zero, a, zero, b), abs=1e-5)
    assert frechet_distance(random.normal(size=(4, 10)), random.normal(size=(5, 10))) > 0


@pytest.mark.parametrize("case", CASES)
def test_equals_the_original_and_the_exact_value_at_any_rank(case):
    """pytorch-fid's own error, at the ranks that it has trouble with, is about 1e-6."""
    expected, features = CASES[case], load_file(GOLDEN / "frechet_features.safetensors")
    a, b = (features[f"{case}_{name}"].astype(np.float64) for name in "ab")
    moments = [part for x in (a, b) for part in (x.mean(0), np.cov(x, rowvar=False))]
    for distance in (frechet_distance(a, b), frechet_distance(b, a), gaussian_distance(*moments)):
        assert distance == pytest.approx(expected["exact_nuclear_norm"], rel=1e-9)
        close = {"abs": 1e-5} if expected["rank_deficient"] else {"rel": 1e-9}
        assert distance == pytest.approx(expected["pytorch_fid"], **close)
    assert 0 <= frechet_distance(a, a) < 1e-9
    assert 0 <= gaussian_distance(*moments[:2], *moments[:2]) < 1e-9


def test_pictures_that_are_all_alike_have_a_distance():
    flat, other = np.ones((3, 4)), np.eye(4)
    expected = np.square(flat[0] - other.mean(0)).sum() + np.trace(np.cov(other, rowvar=False))
    assert frechet_distance(flat, other) == pytest.approx(expected)
    assert gaussian_distance(flat[0], np.zeros((4, 4)), other.mean(0), np.cov(other, rowvar=False)) == pytest.approx(
        expected
    )


def samples(random, count, shift):
    return random.normal(size=(count, 4)) + np.array([shift, 0, 0, 0])


def test_the_ratio_is_of_the_two_distances_and_its_interval_covers_the_truth():
    random = np.random.default_rng(2)
    reference = Gaussian.of(random.normal(size=(100_000, 4)))
    covered, widths = 0, []

    def far(features):
        return reference.distance(Gaussian.of(features))

    for _ in range(40):
        row, base = samples(random, 400, 2.0), samples(random, 400, 1.0)
        found = ratio(row, base, reference, [i // 2 for i in range(400)])
        assert found.value == pytest.approx(far(row) / far(base))
        assert found.low < found.value < found.high
        covered += found.low <= 4.0 <= found.high  # shifts of 2 and 1 are 4 and 1 apart
        widths.append(found.high - found.low)
    assert covered >= 34  # 95 % of 40 is 38; fewer than 34 would be one in a hundred
    again = ratio(row, row, reference, range(400))
    assert (again.value, again.low, again.high) == (1, 1, 1)


def test_pictures_of_a_prompt_stay_together():
    random = np.random.default_rng(3)
    reference = Gaussian.of(random.normal(size=(5000, 4)))
    row, base = samples(random, 60, 1.5).repeat(8, 0), samples(random, 60, 1.0).repeat(8, 0)
    apart = ratio(row, base, reference, range(480))
    together = ratio(row, base, reference, np.arange(60).repeat(8).tolist())
    assert together.high - together.low > 1.5 * (apart.high - apart.low)


def test_too_few_prompts_have_no_interval():
    random = np.random.default_rng(4)
    reference, row = Gaussian.of(random.normal(size=(50, 2))), random.normal(size=(30, 2)) + 1
    few = ratio(row, row + 1, reference, [i % (GROUPS - 1) for i in range(30)])
    assert few.value < 1
    assert few.low is few.high is None
