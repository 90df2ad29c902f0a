"""Precision, recall and the Inception Score are torch-fidelity's."""

from __future__ import annotations

import numpy as np
import pytest

from realignkit.errors import OptionError
from realignkit_plugins.metrics.scores import inception_score, precision_recall
from tests.plugins.metrics.test_kernels import CASES, features


@pytest.mark.parametrize("case", CASES)
def test_precision_and_recall_equal_the_original(case: str) -> None:
    a, b = features(case)
    for neighbours, expected in CASES[case]["torch_fidelity_precision_recall"]["by_neighbourhood"].items():
        found = precision_recall(a, b, int(neighbours))
        assert found.precision == pytest.approx(expected["precision"], abs=1e-6)
        assert found.recall == pytest.approx(expected["recall"], abs=1e-6)
        assert found.f_score == pytest.approx(expected["f_score"], abs=1e-6)


@pytest.mark.parametrize("case", CASES)
def test_the_inception_score_equals_the_original(case: str) -> None:
    logits = 3 * features(case)[0][:, :20]
    expected = CASES[case]["torch_fidelity_inception_score"]
    for splits, theirs in {10: expected["splits_10_shuffled_seed_2020"], 1: expected["splits_1"]}.items():
        wanted = theirs["inception_score_mean"], theirs["inception_score_std"]
        assert inception_score(logits, splits) == pytest.approx(wanted, rel=1e-9, abs=1e-12)


def test_pictures_on_the_edge_count_and_too_few_are_refused() -> None:
    line = np.arange(5.0)[:, None]
    assert precision_recall(line + 1, line, 1).precision == 1  # the last is as far from 4 as 3 is
    assert precision_recall(line + 1.5, line, 1).precision == 0.8
    assert precision_recall(line + 9, line, 1).f_score == 0
    with pytest.raises(OptionError, match="with 5 neighbours need 6 images on either side, not 5 and 5"):
        precision_recall(line, line, 5)
    with pytest.raises(OptionError, match="in 10 parts needs as many images, not 5"):
        inception_score(line)
    assert inception_score(np.eye(5) * 100, 1, None)[0] == pytest.approx(5)
