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


@dataclass(frozen=True, eq=False)
class Gaussian:
    """What a Fréchet distance knows of a set of pictures: mean and covariance of their features.

    Attributes:
        mean: float64 (D,).
        root: float64 (r, D), with ``root.T @ root`` the covariance; r is at most D. The distance is computed from such
            roots alone: those of covariances below full rank have no small numbers whose square roots are mere noise.
    """

    mean: Array
    root: Array

    @classmethod
    def of(cls, features: Array) -> Gaussian:
        """Fitted to features, float (n, D), n at least 2; the covariance divides by n - 1."""
        values = np.asarray(features, np.float64)
        mean = values.mean(0)
        root: Any = np.linalg.qr((values - mean) / math.sqrt(len(values) - 1), mode="r")
        return cls(mean, root)

    @classmethod
    def of_moments(cls, mean: Array, covariance: Array) -> Gaussian:
        """From a mean (D,) and a covariance (D, D), symmetric and positive semi-definite; may be singular."""
        values, vectors = np.linalg.eigh(np.asarray(covariance, np.float64))
        # Below this, rounding cannot be told from variance; as numpy's matrix_rank has it.
        kept = values > len(values) * np.finfo(np.float64).eps * values[-1]
        return cls(np.asarray(mean, np.float64), np.sqrt(values[kept])[:, None] * vectors.T[kept])

    def distance(self, other: Gaussian) -> float:
        """Squared Fréchet (2-Wasserstein) distance, at least 0.

        ``|m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2))``. With roots ``R_a`` and ``R_b`` of the covariances the
        last trace is the nuclear norm of ``R_a R_b^T``.
        """
        apart = np.square(self.mean - other.mean).sum() + np.square(self.root).sum() + np.square(other.root).sum()
        overlap = np.linalg.svd(self.root @ other.root.T, compute_uv=False).sum()
        return max(0.0, float(apart - 2 * overlap))


def gaussian_distance(mean_a: Array, covariance_a: Array, mean_b: Array, covariance_b: Array) -> float:
    """Squared Fréchet distance of two Gaussians, see :meth:`Gaussian.distance`.

    Args:
        mean_a: float (D,).
        covariance_a: float (D, D), symmetric and positive semi-definite; may be singular.
        mean_b: float (D,).
        covariance_b: like ``covariance_a``.
    """
    return Gaussian.of_moments(mean_a, covariance_a).distance(Gaussian.of_moments(mean_b, covariance_b))


def frechet_distance(features: Array, reference: Array) -> float:
    """Squared Fréchet distance between Gaussians fitted to two sets of features, as FID states it.

    It is biased upwards by about 1/n: compare only values with equal numbers of pictures and the same reference.

    Args:
        features: float (n, D), n at least 2.
        reference: float (m, D), m at least 2.
    """
    return Gaussian.of(features).distance(Gaussian.of(reference))


@dataclass(frozen=True)
class Ratio:
    """One distance over another, with a 95 % interval (None where there are too few prompts for one)."""

    value: float
    low: float | None
    high: float | None


def ratio(features: Array, base: Array, reference: Gaussian, clusters: Sequence[Hashable]) -> Ratio | None:
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
    far = reference.distance(Gaussian.of(base))
    if far <= 0:
        return None
    value = reference.distance(Gaussian.of(features)) / far
    names = {name: index for index, name in enumerate(dict.fromkeys(clusters))}
    if len(names) < GROUPS or value <= 0:
        return Ratio(value, None, None)
    group = np.array([names[name] % GROUPS for name in clusters])
    logs = []
    for left_out in range(GROUPS):
        kept = group != left_out
        above, below = (reference.distance(Gaussian.of(each[kept])) for each in (features, base))
        if above <= 0 or below <= 0:
            return Ratio(value, None, None)
        logs.append(math.log(above / below))
    error = math.sqrt((GROUPS - 1) / GROUPS * float(np.square(np.array(logs) - np.mean(logs)).sum()))
    return Ratio(value, value * math.exp(-_T * error), value * math.exp(_T * error))
