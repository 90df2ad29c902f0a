"""Precision and recall of a set of images, and its Inception Score."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pydantic import Field

from realignkit_plugins.metrics.features import Features, Inception
from realignkit_plugins.metrics.scores import inception_score, precision_recall
from realignkit_plugins.metrics.sets import InceptionOptions, KeepsFeatures

if TYPE_CHECKING:
    from PIL.Image import Image


class PrecisionRecall(KeepsFeatures):
    """How many images look like real ones, and how much of what is real they cover; 1 is best."""

    higher_is_better = True

    class Options(KeepsFeatures.Options):
        """Options of :class:`PrecisionRecall`."""

        neighbours: int = Field(3, ge=1, description="how many images near one say how far it reaches")

    options: PrecisionRecall.Options

    def compute(self) -> dict[str, float]:
        """``precision``, ``recall``, ``f_score`` and ``n``.

        Raises:
            PluginError: fewer than two images were seen.
            OptionError: too few for so many neighbours, or the reference has other features or statistics only.
        """
        self._enough(self.n)
        reference = self.compared.features()
        self._fitting(reference)
        result = precision_recall(self.all, reference, self.options.neighbours)
        return {"precision": result.precision, "recall": result.recall, "f_score": result.f_score, "n": self.n}

    def identity(self) -> dict[str, Any]:
        """Also how many neighbours count."""
        return {**super().identity(), "neighbours": self.options.neighbours}


class InceptionScore(KeepsFeatures):
    """How sure Inception is of each image, and of how many kinds they are; from 1 to 1008, higher is better.

    It compares with no reference and knows no prompt.
    """

    higher_is_better = True

    class Options(InceptionOptions):
        """Options of :class:`InceptionScore`."""

        splits: int = Field(10, ge=1, description="parts that are scored by themselves")
        seed: int = Field(2020, ge=0, description="of the draw of parts")

    options: InceptionScore.Options

    @cached_property
    def observer(self) -> Inception:
        """The network."""
        chosen = self.options
        return Inception(chosen.weights, chosen.resize, 2048, chosen.device)

    @property
    def _by_inception(self) -> bool:
        return True

    def _prepare(self) -> None:
        pass

    def _look(self, images: Sequence[Image]) -> Features:
        return self.observer.logits(images)

    def compute(self) -> dict[str, float]:
        """``inception_score``, its standard deviation over parts ``inception_score_std``, and ``n``.

        Raises:
            PluginError: fewer than two images were seen.
            OptionError: fewer than parts.
        """
        self._enough(self.n)
        mean, deviation = inception_score(self.all, self.options.splits, self.options.seed)
        return {"inception_score": mean, "inception_score_std": deviation, "n": self.n}

    def identity(self) -> dict[str, Any]:
        """The network, its weights, resize, and how parts are drawn."""
        return {**self.observer.identity(), **self.options.model_dump(include={"splits", "seed"})}
