"""Mean and covariance of features that come batch by batch; what is kept does not grow with their number."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from realignkit.frechet import Gaussian

Array = npt.NDArray[Any]


class Moments:
    """Number, sum and sum of outer products, in float64: equal batches in an equal order give equal bits."""

    def __init__(self) -> None:
        self.n = 0
        self.sum: Array = np.zeros(0)
        self.outer: Array = np.zeros((0, 0))

    def add(self, features: Array) -> None:
        """Take in features, float (B, D)."""
        values = np.asarray(features, np.float64)
        self._add(len(values), values.sum(0), values.T @ values)

    def merge(self, other: Moments) -> None:
        """Take in what another has seen."""
        if other.n:
            self._add(other.n, other.sum, other.outer)

    def _add(self, n: int, total: Array, outer: Array) -> None:
        if not self.n:
            self.sum, self.outer = np.zeros_like(total), np.zeros_like(outer)
        self.n += n
        self.sum = self.sum + total
        self.outer = self.outer + outer

    def mean_and_covariance(self) -> tuple[Array, Array]:
        """Mean (D,) and covariance (D, D), which divides by n - 1; n must be at least 2."""
        mean = self.sum / self.n
        return mean, (self.outer - self.n * np.outer(mean, mean)) / (self.n - 1)

    def gaussian(self) -> Gaussian:
        """What a Fréchet distance compares."""
        return Gaussian.of_moments(*self.mean_and_covariance())

    def state(self) -> dict[str, Array]:
        """All of it, by name."""
        return {"n": np.array([self.n]), "sum": self.sum, "outer": self.outer}

    @classmethod
    def of(cls, state: Mapping[str, Array]) -> Moments:
        """What :meth:`state` gave."""
        moments = cls()
        moments.n = int(np.asarray(state["n"]).item())
        moments.sum, moments.outer = (np.array(state[name], np.float64) for name in ("sum", "outer"))
        return moments
