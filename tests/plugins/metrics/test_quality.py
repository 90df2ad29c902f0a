"""Precision, recall and the Inception Score as metrics."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from realignkit_plugins.metrics.inception import inception_from
from realignkit_plugins.metrics.quality import InceptionScore, PrecisionRecall
from realignkit_plugins.metrics.resizing import network_input
from realignkit_plugins.metrics.scores import inception_score, precision_recall
from tests.plugins.metrics import inception as golden
from tests.plugins.metrics.conftest import pictures


def test_pictures_of_the_reference_are_as_real_as_they_get(reference: Path, recipe: Path) -> None:
    options = {"reference": str(reference), "weights": str(recipe), "dims": 64, "device": "cpu"}
    metric = PrecisionRecall(**options)
    metric.update(pictures(10, 1), [""] * 10)
    assert metric.compute() == {"precision": 1, "recall": 1, "f_score": 1, "n": 10}
    other, real = PrecisionRecall(**options, neighbours=2), metric.all
    other.seen = [real[:4] + np.linspace(0, 1, 64, dtype=np.float32)]
    expected = precision_recall(other.all, real, 2)
    assert other.compute()["precision"] == pytest.approx(expected.precision)
    assert other.compute()["recall"] == pytest.approx(expected.recall)
    assert expected.precision < 1
    assert other.identity()["neighbours"] == 2


def test_the_inception_score_is_of_logits_without_bias(recipe: Path) -> None:
    images = pictures(4, 1)
    metric = InceptionScore(weights=str(recipe), device="cpu", splits=2, resize="tensorflow")
    metric.update(images, [""] * 4)
    network = inception_from(golden.weights(), "recipe.pth")
    logits = network.logits(network.features(network_input(images, "tensorflow"))).numpy()
    in_order = [values[np.argsort(values[:, 0])] for values in (metric.all, logits)]
    assert in_order[0] == pytest.approx(in_order[1], abs=1e-4)
    mean, deviation = inception_score(metric.all, 2)
    assert metric.compute() == {"inception_score": mean, "inception_score_std": deviation, "n": 4}
    assert metric.identity().keys() == {"features", "dims", "resize", "weights", "splits", "seed"}
    assert np.isfinite(mean)
    assert InceptionScore().check().startswith("the Inception network of FID is not on this machine")
