"""Fréchet distance between two sets of pictures, by any features of theirs (Heusel et al., 2017, FID)."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

GROUPS = 20
_T = 2.093024  # 97.5 % quantile of Student's t with GROUPS - 1 degrees of freedom


def gaussian_distance(mean_a: Array, covariance_a: Array, mean_b: Array, covariance_b: Array) -> float:
    """Squared Fréchet (2-Wasserstein) distance of two Gaussians.

    ``|m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a^(1/2) C_b C_a^(1/2))^(1/2))``, at least 0.

    Args:
        mean_a: float (D,).
        covariance_a: float (D, D), symmetric and positive semi-definite; may be singular.
        mean_b: float (D,).
        covariance_b: like ``covariance_a``.
    """
    return _distance(mean_a, covariance_a, mean_b, _root(covariance_b), float(np.trace(covariance_b)))


def frechet_distance(features: Array, reference: Array) -> float:
    """Squared Fréchet distance between Gaussians fitted to two sets of features, as FID states it.

    It is biased upwards by about 1/n: compare only values with equal numbers of pictures and the same reference.

    Args:
        features: float (n, D), n at least 2.
        reference: float (m, D), m at least 2.
    """
    return Reference(reference).distance(features)


class Reference:
    """A reference set whose part of the work is done once. ``features``: float (m, D), m at least 2."""

    def __init__(self, features: Array) -> None:
        self.mean, covariance = _moments(features)
        self._root, self._trace = _root(covariance), float(np.trace(covariance))

    def distance(self, features: Array) -> float:
        """See :func:`frechet_distance`."""
        return _distance(*_moments(features), self.mean, self._root, self._trace)


@dataclass(frozen=True)
class Ratio:
    """One distance over another, with a 95 % interval (None where there are too few prompts for one)."""

    value: float
    low: float | None
    high: float | None


def ratio(features: Array, base: Array, reference: Reference, clusters: Sequence[Hashable]) -> Ratio | None:
    """How many times as far a row's pictures are from the reference as the base's; None where the base's are on it.

    The interval leaves out each of :data:`GROUPS` groups of prompts in turn (a delete-a-group jackknife of the log
    ratio): resampling with replacement, as a bootstrap does, would add to both distances' bias. The reference counts
    as fixed.

    Args:
        features: of the row, float (n, D).
        base: of the same prompts and seeds, in the same order.
        reference: what both are compared with.
        clusters: the prompt of each picture; pictures of a prompt stay together.
    """
    far = reference.distance(base)
    if far <= 0:
        return None
    value = reference.distance(features) / far
    names = {name: index for index, name in enumerate(dict.fromkeys(clusters))}
    if len(names) < GROUPS or value <= 0:
        return Ratio(value, None, None)
    group = np.array([names[name] % GROUPS for name in clusters])
    logs = []
    for left_out in range(GROUPS):
        kept = group != left_out
        above, below = reference.distance(features[kept]), reference.distance(base[kept])
        if above <= 0 or below <= 0:
            return Ratio(value, None, None)
        logs.append(math.log(above / below))
    error = math.sqrt((GROUPS - 1) / GROUPS * float(np.square(np.array(logs) - np.mean(logs)).sum()))
    return Ratio(value, value * math.exp(-_T * error), value * math.exp(_T * error))


def _moments(features: Array) -> tuple[Array, Array]:
    values = np.asarray(features, np.float64)
    return values.mean(0), np.atleast_2d(np.cov(values, rowvar=False))


def _root(covariance: Array) -> Array:
    values, vectors = np.linalg.eigh(covariance)
    return np.asarray((vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T)


def _distance(mean_a: Array, covariance_a: Array, mean_b: Array, root_b: Array, trace_b: float) -> float:
    # tr (C_a C_b)^(1/2) by the symmetric form, whose eigenvalues are real whatever the rounding.
    inner = root_b @ covariance_a @ root_b
    overlap = np.sqrt(np.clip(np.linalg.eigvalsh((inner + inner.T) / 2), 0, None)).sum()
    apart = float(np.square(mean_a - mean_b).sum())
    return max(0.0, apart + float(np.trace(covariance_a)) + trace_b - 2 * float(overlap))
