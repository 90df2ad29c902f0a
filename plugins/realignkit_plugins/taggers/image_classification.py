"""Tags from any image-classification checkpoint of transformers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field

from realignkit.contracts import Options as PluginOptions
from realignkit.contracts import Tagger
from realignkit.errors import ModelError
from realignkit.images import to_rgb
from realignkit.types import Tag
from realignkit_plugins.loading import (
    hub_options,
    image_processor,
    load_model,
    loading,
    resolve_device,
    resolve_model,
)

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

MULTI_LABEL_THRESHOLD = 0.5
SINGLE_LABEL_THRESHOLD = 0.1


class ImageClassificationTagger(Tagger):
    """The labels that an image-classification network gives an image.

    Multi-label checkpoints (``problem_type`` of their config) give each label its own probability (sigmoid), others
    share one among all labels (softmax). Without the ``threshold`` option, a list ``tag_thresholds`` in the
    checkpoint's config (one per label) decides, else 0.5 for multi-label and 0.1 for single-label checkpoints.
    A label with synonyms ("tabby, tabby cat") gives its first.

    Raises:
        ModelError: (on use) the checkpoint is missing, damaged, no image classifier, or computes NaN.
    """

    class Options(PluginOptions):
        """Options of :class:`ImageClassificationTagger`."""

        model: str = Field(description="hub id, folder, or micro:<name>", min_length=1)
        revision: str | None = Field(None, description="branch, tag or commit on the hub")
        threshold: float | None = Field(None, ge=0, le=1, description="least confidence; None: the checkpoint's own")
        top_k: int | None = Field(None, ge=1, description="most tags per image; None: no limit")
        batch_size: int = Field(16, ge=1, description="images per forward pass")
        device: str = Field("auto", description="auto, cpu, cuda, cuda:1, mps …")

    options: ImageClassificationTagger.Options

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._loaded: tuple[Any, Any] | None = None

    def __call__(self, images: Sequence[Image]) -> list[tuple[Tag, ...]]:
        """One tuple of tags per image, most confident first."""
        size = self.options.batch_size
        tags: list[tuple[Tag, ...]] = []
        for start in range(0, len(images), size):
            probabilities = self.probabilities(images[start : start + size])
            tags += [self._tags(row) for row in probabilities.tolist()]
        return tags

    @property
    def labels(self) -> tuple[str, ...]:
        """Everything that this tagger can see, in the order of :meth:`probabilities`."""
        network, _ = self._load()
        names = (str(network.config.id2label[i]) for i in range(network.config.num_labels))
        return tuple(name.split(",")[0].strip().replace("_", " ") for name in names)

    def probabilities(self, images: Sequence[Image]) -> Tensor:
        """Probability of every label, float32 (images, labels) on the CPU, in [0, 1]."""
        import torch

        network, processor = self._load()
        pixels = processor(images=[to_rgb(image) for image in images], return_tensors="pt")["pixel_values"]
        with torch.inference_mode():
            logits = network(pixel_values=pixels.to(network.device, network.dtype)).logits.float().cpu()
        if not torch.isfinite(logits).all():
            raise ModelError(
                f"the tagger '{self.options.model}' computed NaN or infinity. Download or train the checkpoint again."
            )
        multi_label = network.config.problem_type == "multi_label_classification"
        return logits.sigmoid() if multi_label else logits.softmax(dim=-1)

    def _tags(self, row: Sequence[float]) -> tuple[Tag, ...]:
        labels, thresholds = self.labels, self._thresholds()
        found = [Tag(label, p) for label, p, least in zip(labels, row, thresholds, strict=True) if p >= least]
        found.sort(key=lambda tag: -tag.confidence)
        return tuple(found[: self.options.top_k])

    def _thresholds(self) -> list[float]:
        config = self._load()[0].config
        if self.options.threshold is not None:
            return [self.options.threshold] * config.num_labels
        own = getattr(config, "tag_thresholds", None)
        if own is None:
            multi_label = config.problem_type == "multi_label_classification"
            return [MULTI_LABEL_THRESHOLD if multi_label else SINGLE_LABEL_THRESHOLD] * config.num_labels
        if len(own) != config.num_labels:
            raise ModelError(
                f"'{self.options.model}' has {config.num_labels} labels but {len(own)} tag_thresholds. "
                f"Correct its config.json, or set the option threshold."
            )
        return [float(value) for value in own]

    def _load(self) -> tuple[Any, Any]:
        if self._loaded is None:
            from transformers import AutoModelForImageClassification

            chosen = self.options
            folder, hub = resolve_model(chosen.model), hub_options(chosen.revision)
            with loading("image classifier", chosen.model):
                network = load_model(AutoModelForImageClassification, folder, chosen.model, **hub)
                processor = image_processor(folder, **hub)
                self._loaded = (network.to(resolve_device(chosen.device)), processor)
        return self._loaded
