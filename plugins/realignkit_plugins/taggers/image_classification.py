"""Tags from any image-classification checkpoint of transformers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydantic import Field

from realignkit.contracts import Tagger
from realignkit.errors import ModelError
from realignkit.images import to_rgb
from realignkit.types import Tag
from realignkit_plugins.loading import Checkpoint, CheckpointPlugin, image_processor

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

MULTI_LABEL_THRESHOLD = 0.5
SINGLE_LABEL_THRESHOLD = 0.1


class ImageClassificationTagger(CheckpointPlugin, Tagger):
    """The labels that an image-classification network gives an image.

    Multi-label checkpoints (``problem_type`` of their config) give each label its own probability (sigmoid), others
    share one among all labels (softmax). Without the ``threshold`` option, a list ``tag_thresholds`` in the
    checkpoint's config (one per label) decides, else 0.5 for multi-label and 0.1 for single-label checkpoints.
    A label with synonyms ("tabby, tabby cat") gives its first.

    Raises:
        ModelError: (on use) the checkpoint is missing, damaged, no image classifier, or computes NaN.
    """

    role = "tagger"
    checkpoint = Checkpoint("image classifier", other="AutoModelForImageClassification", processor=image_processor)

    class Options(CheckpointPlugin.Options):
        """Options of :class:`ImageClassificationTagger`."""

        threshold: float | None = Field(None, ge=0, le=1, description="least confidence; None: the checkpoint's own")
        top_k: int | None = Field(None, ge=1, description="most tags per image; None: no limit")
        batch_size: int = Field(16, ge=1, description="images per forward pass")

    options: ImageClassificationTagger.Options

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
        config = self.loaded.network.config
        names = (str(config.id2label[i]) for i in range(config.num_labels))
        return tuple(name.split(",")[0].strip().replace("_", " ") for name in names)

    def probabilities(self, images: Sequence[Image]) -> Tensor:
        """Probability of every label, float32 (images, labels) on the CPU, in [0, 1]."""
        import torch

        network = self.loaded.network
        pixels = self.loaded.processor(images=[to_rgb(image) for image in images], return_tensors="pt")["pixel_values"]
        with torch.inference_mode():
            logits = network(pixel_values=pixels.to(network.device, network.dtype)).logits.float().cpu()
        self.finite(logits)
        multi_label = network.config.problem_type == "multi_label_classification"
        return logits.sigmoid() if multi_label else logits.softmax(dim=-1)

    def _tags(self, row: Sequence[float]) -> tuple[Tag, ...]:
        labels, thresholds = self.labels, self._thresholds()
        tags = [Tag(label, p) for label, p, least in zip(labels, row, thresholds, strict=True) if p >= least]
        tags.sort(key=lambda tag: -tag.confidence)
        return tuple(tags[: self.options.top_k])

    def _thresholds(self) -> list[float]:
        config = self.loaded.network.config
        if self.options.threshold is not None:
            return [self.options.threshold] * config.num_labels
        stated = getattr(config, "tag_thresholds", None)
        if stated is None:
            multi_label = config.problem_type == "multi_label_classification"
            return [MULTI_LABEL_THRESHOLD if multi_label else SINGLE_LABEL_THRESHOLD] * config.num_labels
        if len(stated) != config.num_labels:
            raise ModelError(
                f"'{self.options.model}' has {config.num_labels} labels but {len(stated)} tag_thresholds. "
                f"Correct its config.json, or set the option threshold."
            )
        return [float(value) for value in stated]
