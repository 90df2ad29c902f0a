"""Precision and recall of features, and the Inception Score of logits. Plain functions of arrays, in float64."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from realignkit.errors import OptionError

Array = npt.NDArray[Any]

_BLOCK = 512


@dataclass(frozen=True)
class PrecisionRecall:
    """Shares in [0, 1]: of the images that look like a reference's, and of the references that look like an image."""

    precision: float
    recall: float

    @property
    def f_score(self) -> float:
        """Their harmonic mean; 0 where both are."""
        return 2 * self.precision * self.recall / max(1e-5, self.precision + self.recall)


def precision_recall(features: Array, reference: Array, neighbours: int = 3) -> PrecisionRecall:
    """Improved precision and recall (Kynkäänniemi et al., 2019), as torch-fidelity computes them.

    A point is inside a set if it is no further from one of its points than that one's ``neighbours``-th nearest
    neighbour in the set, the point itself not counted.

    Args:
        features: of images, float (n, D).
        reference: of real ones, float (m, D).
        neighbours: fewer than either set has images.

    Raises:
        OptionError: a set has too few images.
    """
    x, y = (np.asarray(each, np.float64) for each in (features, reference))
    if min(len(x), len(y)) <= neighbours:
        raise OptionError(
            f"precision and recall with {neighbours} neighbours need {neighbours + 1} images on either side, not "
            f"{len(x)} and {len(y)}."
        )
    return PrecisionRecall(_inside(x, y, neighbours), _inside(y, x, neighbours))


def _inside(points: Array, others: Array, neighbours: int) -> float:
    """The share of points that lie within a ball around one of the others."""
    radii = np.concatenate([np.partition(block, neighbours, 1)[:, neighbours] for block in _distances(others, others)])
    return float(np.concatenate([(block <= radii).any(1) for block in _distances(points, others)]).mean())


def _distances(points: Array, others: Array) -> Any:
    """Squared distances to all others, a block of points at a time; exactly 0 from a point to itself."""
    lengths = np.square(others).sum(1)
    for start in range(0, len(points), _BLOCK):
        part = points[start : start + _BLOCK]
        squares = np.square(part).sum(1)[:, None] + lengths[None] - 2 * (part @ others.T)
        if points is others:
            squares[np.arange(len(part)), start + np.arange(len(part))] = 0
        yield squares


def inception_score(logits: Array, splits: int = 10, seed: int | None = 2020) -> tuple[float, float]:
    """The Inception Score (Salimans et al., 2016): its mean over splits, and their standard deviation (population).

    Args:
        logits: float (n, classes); FID's network leaves the bias out
            (:meth:`realignkit_plugins.metrics.inception.FIDInception.logits`).
        splits: parts of nearly equal size, each scored by itself.
        seed: shuffles the images first, as torch-fidelity does; None: they stay in their order.

    Raises:
        OptionError: fewer images than splits.
    """
    if len(logits) < splits:
        raise OptionError(f"an Inception Score in {splits} parts needs as many images, not {len(logits)}.")
    values = np.asarray(logits, np.float64)
    if seed is not None:
        values = values[np.random.RandomState(seed).permutation(len(values))]
    values = values - values.max(1, keepdims=True)
    logs = values - np.log(np.exp(values).sum(1, keepdims=True))
    places = [number * len(logs) // splits for number in range(splits + 1)]
    scores = []
    for first, last in pairwise(places):
        part = logs[first:last]
        shares = np.exp(part)
        scores.append(np.exp((shares * (part - np.log(shares.mean(0)))).sum(1).mean()))
    return float(np.mean(scores)), float(np.std(scores))
