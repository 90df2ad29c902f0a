"""The Fréchet Inception distance (Heusel et al., 2017)."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from realignkit.frechet import Gaussian
from realignkit_plugins.metrics.features import Features
from realignkit_plugins.metrics.moments import Moments
from realignkit_plugins.metrics.sets import Array, SetMetric

logger = logging.getLogger(__name__)

FEW = 2048
"""With fewer images the covariance of 2048 features is singular, and the distance mostly tells how many there were."""


class FID(SetMetric):
    """Fréchet distance between the features of images and of a reference set; 0 is best.

    What is kept is the number of images, and the sum and outer sum of their features in float64 (34 MB for 2048
    features), however many there are.
    """

    options: FID.Options

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.moments = Moments()

    def compute(self) -> dict[str, float]:
        """``fid`` and ``n``; a line in the log where there are too few images to compare with other people's numbers.

        Raises:
            PluginError: fewer than two images were seen.
            OptionError: the reference has other features, or cannot be read.
        """
        n = self.moments.n
        self._enough(n)
        reference = self._reference
        self._fitting(reference.mean)
        if n < FEW:
            logger.warning(
                "fid of %d images: below %d it is biased upwards, the more the fewer there are; compare it only with "
                "as many images, or take kid, which has no such bias",
                n,
                FEW,
            )
        return {"fid": self.moments.gaussian().distance(reference), "n": n}

    @property
    def _reference(self) -> Gaussian:
        return self.compared.gaussian()

    def _take(self, features: Features) -> None:
        self.moments.add(features)

    def _join(self, other: FID) -> None:
        self.moments.merge(other.moments)

    def _width(self) -> int:
        return len(self.moments.sum)

    def state(self) -> dict[str, Array]:
        """``n`` (1,), ``sum`` (D,) and ``outer`` (D, D), float64."""
        return self.moments.state()

    def restore(self, state: Mapping[str, Array]) -> None:
        """Go on from what :meth:`state` gave, in the place of what was seen before."""
        self.moments = Moments.of(state)
