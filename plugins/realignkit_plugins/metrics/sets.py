"""What metrics of a set of images share: who looks at them, what they are compared with, and what is kept."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from realignkit.contracts import Metric
from realignkit.contracts import Options as PluginOptions
from realignkit.errors import ModelError, OptionError, PluginError
from realignkit_plugins.metrics.features import INCEPTION, Borrowed, Features, Inception, Observer

if TYPE_CHECKING:
    from PIL.Image import Image

    from realignkit_plugins.metrics.reference import Reference

Array = npt.NDArray[Any]


class InceptionOptions(PluginOptions):
    """What Inception's features are made with."""

    weights: str | None = Field(
        None,
        description="pt_inception-2015-12-05-6726825d.pth: file, folder, or owner/name:file on the hub; "
        "None: where pytorch-fid or torch-fidelity have put it, else in $REALIGNKIT_DATA",
    )
    resize: Literal["clean", "pytorch", "tensorflow"] = Field(
        "clean", description="to 299 x 299 as clean-fid, pytorch-fid or torch-fidelity does"
    )
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, mps …")
    batch_size: int = Field(32, ge=1, description="images per forward pass")


class SetMetric(Metric):
    """A number about a set of images as a whole, by their features; it says nothing of single ones."""

    higher_is_better = False

    class Options(InceptionOptions):
        """Options of a metric that compares with a reference set."""

        reference: str | None = Field(
            None, description="required: a folder of pictures, or an .npz that pytorch-fid or clean-fid has written"
        )
        features: str = Field(INCEPTION, description="inception, or a reward or metric that has features, such as clip")
        feature_options: dict[str, Any] = Field({}, description="of that reward or metric")
        dims: Literal[64, 192, 768, 2048] = Field(2048, description="which of Inception's features, by their number")

    options: Any

    @cached_property
    def observer(self) -> Observer:
        """Who looks at the images.

        Raises:
            OptionError: whom ``features`` names has none, or its options are not right.
            PluginError: nobody is called so.
        """
        chosen = self.options
        if chosen.features == INCEPTION:
            return Inception(chosen.weights, chosen.resize, chosen.dims, chosen.device)
        return Borrowed(chosen.features, chosen.feature_options)

    @cached_property
    def compared(self) -> Reference:
        """The reference set.

        Raises:
            OptionError: none is given, or it is not there.
        """
        from realignkit_plugins.metrics.reference import Reference

        if self.options.reference is None:
            raise OptionError(
                f"{type(self).__name__} compares with real pictures: give reference=…, a folder of them or an .npz "
                f"with their statistics."
            )
        return Reference(self.options.reference, self.observer, self.options.batch_size)

    def check(self) -> str:
        """What is missing on this machine, in a sentence."""
        from realignkit_plugins.metrics.weights import missing

        return missing() if self.options.weights is None and self._by_inception else ""

    def out_of_reach(self) -> str:
        """What is missing and cannot be downloaded, see :class:`realignkit.contracts.Plugin`."""
        from realignkit_plugins.metrics.weights import PUBLISHED

        given = self.options.weights if self._by_inception else None
        why = self.check() or (PUBLISHED.missing(given) if given else "")
        return why or getattr(self.borrowed, "out_of_reach", str)() or self._no_reference()

    def _no_reference(self) -> str:
        """Why there is no reference to compare with."""
        try:
            self._prepare()
        except OptionError as error:
            return str(error)
        return ""

    @property
    def borrowed(self) -> Any:
        """The reward or metric whose features are compared; None where they are Inception's."""
        return getattr(self.observer, "plugin", None)

    @property
    def _by_inception(self) -> bool:
        return bool(self.options.features == INCEPTION)

    def update(self, images: Sequence[Image], prompts: Sequence[str]) -> None:
        """Take in images (RGB, of any sizes); what they were made for makes no difference.

        Raises:
            OptionError: there is no reference, or no weights.
            ModelError: the weights are another network's, or features are no numbers.
        """
        self._prepare()
        for start in range(0, len(images), self.options.batch_size):
            features = self._look(images[start : start + self.options.batch_size])
            if not np.isfinite(features).all():
                raise ModelError("the features of some images are NaN or infinite. Use other weights.")
            self._take(features)

    def _prepare(self) -> None:
        """Find out before the first image whether there is all that is needed after the last."""
        _ = self.compared

    def _look(self, images: Sequence[Image]) -> Features:
        return self.observer.features(images)

    def identity(self) -> dict[str, Any]:
        """What the number depends on beside the images: features, their weights, resize, and the reference."""
        return {**self.observer.identity(), "reference": self.compared.identity}

    def merge(self, other: Metric) -> None:
        """Take in what another instance has seen.

        Raises:
            PluginError: it is another metric, or has other options.
        """
        if type(other) is not type(self) or other.options != self.options:
            raise PluginError(f"cannot merge another metric into {type(self).__name__}. Use equal options.")
        self._join(other)

    def _enough(self, n: int) -> None:
        if n < 2:
            raise PluginError(
                f"{type(self).__name__} is about a set: it needs 2 images at least, and has seen {n}. Call "
                f"update(images, prompts) first."
            )

    def _fitting(self, reference: Array) -> None:
        """Refuse a reference with other features."""
        width = self._width()
        if reference.shape[-1] != width:
            raise OptionError(
                f"the reference '{self.options.reference}' has {reference.shape[-1]} features, and these images have "
                f"{width}. Give the one that goes with features={self.options.features}, dims={self.options.dims}."
            )

    @abstractmethod
    def _take(self, features: Features) -> None:
        """Keep what is needed of features (B, D)."""

    @abstractmethod
    def _join(self, other: Any) -> None:
        """Take in what another of the same kind has kept."""

    @abstractmethod
    def _width(self) -> int:
        """D."""

    @abstractmethod
    def state(self) -> dict[str, Array]:
        """All that it has seen, as arrays by name."""

    @abstractmethod
    def restore(self, state: Mapping[str, Array]) -> None:
        """Go on from what :meth:`state` gave, in the place of what was seen before."""


class KeepsFeatures(SetMetric):
    """One that needs the features themselves: 8 KB an image of Inception's 2048."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.seen: list[Features] = []

    @property
    def n(self) -> int:
        """Images seen."""
        return sum(map(len, self.seen))

    @property
    def all(self) -> Features:
        """Features of all images seen, float32 (n, D), in an order of their own: that of coming plays no part.

        So several processes draw the same subsets as one.
        """
        features = np.concatenate(self.seen)
        return features[np.lexsort((features[:, -1], features[:, 0], features.sum(1, dtype=np.float64)))]

    def _take(self, features: Features) -> None:
        self.seen.append(np.asarray(features, np.float32))

    def _join(self, other: KeepsFeatures) -> None:
        self.seen += other.seen

    def _width(self) -> int:
        return self.seen[0].shape[1]

    def state(self) -> dict[str, Array]:
        """Features, float32 (n, D)."""
        return {"features": np.concatenate(self.seen) if self.seen else np.zeros((0, 0), np.float32)}

    def restore(self, state: Mapping[str, Array]) -> None:
        """Go on from what :meth:`state` gave, in the place of what was seen before."""
        features = np.array(state["features"], np.float32)
        self.seen = [features] if len(features) else []
