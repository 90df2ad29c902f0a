"""Kernel distances are clean-fid's and torch-fidelity's, given the rows that each drew."""

from __future__ import annotations

import numpy as np
import pytest

from realignkit.errors import OptionError
from realignkit_plugins.metrics.kernels import draw_rows, gaussian, kernel_distance, squared_mmd
from tests.plugins.metrics import inception as golden

CASES = golden.read("clean_resize", "metrics.json")["cases"]
EXACT = {"rel": 1e-9, "abs": 1e-12}


def features(case: str) -> tuple[np.ndarray, np.ndarray]:
    kept = golden.tensors("clean_resize", "features")
    return kept[f"{case}_a"].astype(np.float64), kept[f"{case}_b"].astype(np.float64)


def rows(case: str, project: str) -> list[tuple[np.ndarray, np.ndarray]]:
    kept = golden.tensors("clean_resize", "features")
    return list(zip(*(kept[f"{case}_{project}_subset_rows_{name}"] for name in "ab"), strict=True))


@pytest.mark.parametrize("case", CASES)
def test_equals_the_originals_given_their_rows(case: str) -> None:
    a, b = features(case)
    theirs = CASES[case]["torch_fidelity_kid"]
    drawn = rows(case, "torchfidelity")
    distance = kernel_distance(a, b, drawn)
    assert (distance.mean, distance.deviation) == pytest.approx((theirs["mean"], theirs["std"]), **EXACT)
    each = [kernel_distance(a, b, [subset]).mean for subset in drawn]
    assert each == pytest.approx(theirs["per_subset"], **EXACT)
    by_rbf, expected = kernel_distance(a, b, drawn, gaussian(5)), theirs["rbf_sigma_5"]
    assert by_rbf.mean == pytest.approx(expected["kernel_inception_distance_mean"], **EXACT)
    assert by_rbf.deviation == pytest.approx(expected["kernel_inception_distance_std"], **EXACT)
    clean = CASES[case]["cleanfid_kid"]["value_float64_features"]
    assert kernel_distance(a, b, rows(case, "cleanfid")).mean == pytest.approx(clean, **EXACT)


@pytest.mark.parametrize("case", CASES)
def test_the_estimators_of_equally_many_rows(case: str) -> None:
    a, b = features(case)
    theirs = CASES[case]["mmd2_first_rows"]
    a, b = a[: theirs["rows"]], b[: theirs["rows"]]
    assert squared_mmd(a, b) == pytest.approx(theirs["unbiased"], **EXACT)
    assert squared_mmd(a, b, biased=True) == pytest.approx(theirs["biased"], **EXACT)


@pytest.mark.parametrize("case", CASES)
def test_rows_are_drawn_as_torch_fidelity_draws_them(case: str) -> None:
    a, b = features(case)
    settings = CASES[case]["torch_fidelity_kid"]
    drawn = list(draw_rows(len(a), len(b), settings["kid_subsets"], settings["kid_subset_size"], settings["rng_seed"]))
    for ours, theirs in zip(drawn, rows(case, "torchfidelity"), strict=True):
        assert np.array_equal(ours[0], theirs[0])
        assert np.array_equal(ours[1], theirs[1])
    assert {len(x) for pair in draw_rows(7, 900, 3) for x in pair} == {7}


def test_a_set_against_itself_and_too_few() -> None:
    random = np.random.default_rng(0)
    a = random.normal(size=(2500, 3))  # more than a block
    whole = np.exp(-np.square(a[:, None] - a[None]).sum(-1) / 2).mean()
    b = random.normal(size=(40, 3))
    both = np.exp(-np.square(a[:, None] - b[None]).sum(-1) / 2).mean()
    within = np.exp(-np.square(b[:, None] - b[None]).sum(-1) / 2).mean()
    assert squared_mmd(a, b, gaussian(1), biased=True) == pytest.approx(whole + within - 2 * both)
    assert squared_mmd(a, a, biased=True) == pytest.approx(0, abs=1e-9)
    with pytest.raises(OptionError, match="needs two images on either side, not 1 and 40"):
        squared_mmd(a[:1], b)
