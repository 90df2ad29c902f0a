"""Distances of two sets of features by kernels: the squared maximum mean discrepancy (Gretton et al., 2012), KID of it.

Plain functions of arrays. Features count as float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from realignkit.errors import OptionError

Array = npt.NDArray[Any]
Kernel = Callable[[Array, Array], Array]
"""From features (n, D) and (m, D) to values (n, m)."""

Rows = tuple[npt.NDArray[np.integer[Any]], npt.NDArray[np.integer[Any]]]
"""Which rows of either set a subset has."""

_BLOCK = 1024


def polynomial(x: Array, y: Array) -> Array:
    """``(x.y / D + 1)^3``, the kernel of KID."""
    return (x @ y.T / x.shape[1] + 1) ** 3


def gaussian(sigma: float) -> Kernel:
    """``exp(-|x - y|^2 / (2 sigma^2))``, the kernel of CMMD, whose sigma is 10."""

    def kernel(x: Array, y: Array) -> Array:
        squares = np.square(x).sum(1)[:, None] + np.square(y).sum(1)[None] - 2 * (x @ y.T)
        return np.exp(-squares / (2 * sigma**2))

    return kernel


def squared_mmd(features: Array, reference: Array, kernel: Kernel = polynomial, *, biased: bool = False) -> float:
    """The squared maximum mean discrepancy of two sets. Kernel values are summed block by block, and not kept.

    Args:
        features: float (n, D), n at least 2.
        reference: float (m, D), m at least 2.
        kernel: of whose values means are taken.
        biased: count each image's kernel with itself too: the estimate is then never negative, and positive for equal
            distributions. Without, it is right on average, and so negative at times.

    Raises:
        OptionError: fewer than two in a set.
    """
    x, y = (np.asarray(each, np.float64) for each in (features, reference))
    if min(len(x), len(y)) < 2:
        raise OptionError(f"a kernel distance needs two images on either side, not {len(x)} and {len(y)}.")
    return _within(x, kernel, biased) + _within(y, kernel, biased) - 2 * _total(x, y, kernel) / (len(x) * len(y))


def _within(x: Array, kernel: Kernel, biased: bool) -> float:
    n = len(x)
    if biased:
        return _total(x, x, kernel) / n**2
    itself = sum(float(kernel(row[None], row[None])[0, 0]) for row in x)
    return (_total(x, x, kernel) - itself) / (n * (n - 1))


def _total(x: Array, y: Array, kernel: Kernel) -> float:
    return math.fsum(float(kernel(x[start : start + _BLOCK], y).sum()) for start in range(0, len(x), _BLOCK))


@dataclass(frozen=True)
class KernelDistance:
    """KID: the mean over subsets, and their standard deviation (population)."""

    mean: float
    deviation: float


def kernel_distance(
    features: Array, reference: Array, rows: Iterable[Rows], kernel: Kernel = polynomial
) -> KernelDistance:
    """The kernel inception distance (Bińkowski et al., 2018): unbiased :func:`squared_mmd`, averaged over subsets.

    clean-fid and torch-fidelity compute the same of the same rows; clean-fid reports the mean alone.

    Args:
        features: float (n, D).
        reference: float (m, D).
        rows: of ``features`` and of ``reference`` in each subset; :func:`draw_rows` draws them.
        kernel: KID's, unless stated.

    Raises:
        OptionError: a subset has fewer than two images.
    """
    x, y = (np.asarray(each, np.float64) for each in (features, reference))
    values = [squared_mmd(x[of_x], y[of_y], kernel) for of_x, of_y in rows]
    return KernelDistance(float(np.mean(values)), float(np.std(values)))


def draw_rows(count: int, reference: int, subsets: int = 100, size: int = 1000, seed: int = 2020) -> Iterator[Rows]:
    """The rows of each subset, drawn without replacement: those that torch-fidelity draws with the same seed.

    Args:
        count: of features.
        reference: of features to compare with.
        subsets: how many.
        size: of each; smaller where either set is (as in clean-fid; torch-fidelity refuses).
        seed: of numpy's ``RandomState``.
    """
    random = np.random.RandomState(seed)
    size = min(size, count, reference)
    for _ in range(subsets):
        yield random.choice(count, size, replace=False), random.choice(reference, size, replace=False)
