"""Distances by kernels: KID (Bińkowski et al., 2018) and CMMD (Jayasumana et al., 2024)."""

from __future__ import annotations

import logging
from typing import Any

from pydantic import Field

from realignkit_plugins.metrics.kernels import draw_rows, gaussian, kernel_distance, squared_mmd
from realignkit_plugins.metrics.sets import KeepsFeatures

logger = logging.getLogger(__name__)

_SCALE = 1000
"""By which CMMD is multiplied, to be read more easily."""


class KID(KeepsFeatures):
    """Kernel inception distance: squared MMD of polynomial kernels, over subsets; 0 is best.

    It has no bias by the number of images, and may be slightly negative.
    """

    class Options(KeepsFeatures.Options):
        """Options of :class:`KID`."""

        subsets: int = Field(100, ge=1, description="how many subsets the mean is over")
        subset_size: int = Field(1000, ge=2, description="images of either set in each, or as many as there are")
        seed: int = Field(2020, ge=0, description="of the draw of subsets")

    options: KID.Options

    def compute(self) -> dict[str, float]:
        """``kid``, its standard deviation over subsets ``kid_std``, and ``n``.

        Raises:
            PluginError: fewer than two images were seen.
            OptionError: the reference has other features, or statistics only, or cannot be read.
        """
        self._enough(self.n)
        chosen, reference = self.options, self.compared.features()
        self._fitting(reference)
        if (fewer := min(self.n, len(reference))) < chosen.subset_size:
            logger.warning(
                "kid of %d images and a reference of %d: subsets have %d of them in place of subset_size=%d, so they "
                "overlap more, and kid_std says less of how sure the number is",
                self.n,
                len(reference),
                fewer,
                chosen.subset_size,
            )
        rows = draw_rows(self.n, len(reference), chosen.subsets, chosen.subset_size, chosen.seed)
        distance = kernel_distance(self.all, reference, rows)
        return {"kid": distance.mean, "kid_std": distance.deviation, "n": self.n}

    def identity(self) -> dict[str, Any]:
        """Also how subsets are drawn."""
        return {**super().identity(), **self.options.model_dump(include={"subsets", "subset_size", "seed"})}


class CMMD(KeepsFeatures):
    """Squared MMD of Gaussian kernels on CLIP's features, times 1000; 0 is best.

    The published one stretches images to 336 x 336 without antialias; here they go through the checkpoint's own
    processor, which cuts them to a square.
    """

    class Options(KeepsFeatures.Options):
        """Options of :class:`CMMD`."""

        features: str = Field("clip", description="a reward or metric that has features, or inception")
        feature_options: dict[str, Any] = Field(
            {"model": "openai/clip-vit-large-patch14-336"}, description="of that reward or metric"
        )
        sigma: float = Field(10, gt=0, description="width of the kernel")

    options: CMMD.Options

    def compute(self) -> dict[str, float]:
        """``cmmd`` and ``n``.

        Raises:
            PluginError, OptionError: as :meth:`KID.compute`.
        """
        self._enough(self.n)
        reference = self.compared.features()
        self._fitting(reference)
        distance = squared_mmd(self.all, reference, gaussian(self.options.sigma), biased=True)
        return {"cmmd": _SCALE * distance, "n": self.n}

    def identity(self) -> dict[str, Any]:
        """Also the kernel's width."""
        return {**super().identity(), "sigma": self.options.sigma}
