"""RAM, RAM++ and Tag2Text as taggers, from the published files, on today's libraries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from realignkit.contracts import Tagger
from realignkit.errors import ModelError
from realignkit.images import to_rgb
from realignkit.types import Tag
from realignkit_plugins.loading import Checkpoint, CheckpointPlugin, freeze
from realignkit_plugins.taggers.recognize_anything_config import MEAN, STD, Architecture
from realignkit_plugins.weight_formats import no_weights

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from realignkit_plugins.taggers.recognize_anything_networks import TaggingNetwork


@dataclass(frozen=True)
class Vocabulary:
    """A network on its device, its tags, and from which probability on each is given."""

    network: TaggingNetwork
    tags: tuple[str, ...]
    thresholds: tuple[float, ...]


class RecognizeAnythingTagger(CheckpointPlugin, Tagger):
    """Tags by RAM (arXiv:2306.03514), RAM++ (arXiv:2310.15200) or Tag2Text (arXiv:2303.05657).

    ``model`` is a hub id, a ``.pth`` or ``.safetensors`` file, or a folder with the weights (``file``, or
    ``model.safetensors``), optionally a ``config.json`` (the network's shape; else the published one) and the
    vocabulary. Weights are loaded strictly and without unpickling; the captioning half of the published models is
    left out. A tag is given when its probability is above its threshold: the option ``threshold`` for all, else each
    tag's own.

    The vocabulary (tag list; for RAM and RAM++ also a threshold for each tag) is looked for in the options, beside
    the weights, and, for a model from the hub, in its authors' Space. Tags that are in the list twice are given once.

    Raises:
        ModelError: (on use) a file is missing, damaged or of another network, or the network computes NaN.
    """

    role = "tagger"
    checkpoint = Checkpoint("tagging network")

    class Options(CheckpointPlugin.Options):
        """Options of :class:`RecognizeAnythingTagger`."""

        model: str = Field(
            "xinyu1205/recognize_anything_model",
            min_length=1,
            description="hub id (pickles there; only tensors are read), file, folder, or micro:<name>",
        )
        file: str = Field("ram_swin_large_14m.pth", description="name of the weights in the folder or on the hub")
        architecture: Architecture = Field("ram", description="which network; where there is a config, it decides")
        config: Path | None = Field(None, description="the network's shape (JSON); None: the model's, or as published")
        tag_list: Path | None = Field(None, description="one tag a line; None: the model's own")
        thresholds: Path | None = Field(None, description="one number a tag; None: the model's own")
        threshold: float | None = Field(None, ge=0, le=1, description="one threshold for all tags instead")
        skip: tuple[str, ...] = Field((), description="prefixes of weights to leave out besides the captioning half")
        top_k: int | None = Field(None, ge=1, description="most tags per image; None: no limit")
        batch_size: int = Field(8, ge=1, description="images per forward pass")

    options: RecognizeAnythingTagger.Options

    def __call__(self, images: Sequence[Image]) -> list[tuple[Tag, ...]]:
        """One tuple of tags per image, most confident first."""
        size = self.options.batch_size
        tags: list[tuple[Tag, ...]] = []
        for start in range(0, len(images), size):
            tags += [self._tags(row) for row in self.probabilities(images[start : start + size]).tolist()]
        return tags

    @property
    def labels(self) -> tuple[str, ...]:
        """The tag list, in the order of :meth:`probabilities`."""
        tags: tuple[str, ...] = self.loaded.tags
        return tags

    def pixels(self, images: Sequence[Image]) -> Tensor:
        """What the network sees: float32 (images, 3, S, S), squashed to a square, ImageNet's mean and deviation."""
        import numpy as np
        import torch
        from PIL.Image import Resampling

        size = self.loaded.network.config.image_size
        squares = [to_rgb(image).resize((size, size), Resampling.BILINEAR) for image in images]
        x = torch.from_numpy(np.stack([np.asarray(square) for square in squares])).permute(0, 3, 1, 2).float() / 255
        return (x - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)

    def probabilities(self, images: Sequence[Image]) -> Tensor:
        """Probability of every tag, float32 (images, tags) on the CPU, in [0, 1]."""
        import torch

        network = self.loaded.network
        with torch.inference_mode():
            logits = network(self.pixels(images).to(self.device)).float().cpu()
        return self.finite(logits).sigmoid()

    def _tags(self, row: Sequence[float]) -> tuple[Tag, ...]:
        loaded = self.loaded
        deleted = set(loaded.network.config.deleted_tags)
        confidences: dict[str, float] = {}
        for index, (name, p, least) in enumerate(zip(loaded.tags, row, loaded.thresholds, strict=True)):
            if p > least and index not in deleted:
                confidences[name] = max(p, confidences.get(name, 0.0))
        tags = sorted((Tag(name, p) for name, p in confidences.items()), key=lambda tag: -tag.confidence)
        return tuple(tags[: self.options.top_k])

    def load(self) -> Vocabulary:
        """The network, built as its files say, and its vocabulary."""
        import torch

        from realignkit_plugins.taggers import recognize_anything_files as files
        from realignkit_plugins.taggers.recognize_anything_networks import build_network
        from realignkit_plugins.weight_files import read_weights

        chosen = self.options
        source = files.find(chosen.model, chosen.file, chosen.revision)
        if source.folder is not None and (instead := no_weights(source.weights())):
            raise ModelError(f"'{chosen.model}' {'. '.join(instead)}")
        config = files.read_config(source, chosen.model, chosen.architecture, chosen.config)
        # The small files first: nobody should wait for gigabytes to hear that a list is missing.
        tags = files.read_tags(source, config, chosen.model, chosen.tag_list)
        if chosen.threshold is not None:
            thresholds: tuple[float, ...] = (chosen.threshold,) * config.num_tags
        else:
            thresholds = files.read_thresholds(source, config, chosen.model, chosen.thresholds)
        with torch.device("meta"):
            network = build_network(config)
        files.load_weights(network, read_weights(source.weights(), chosen.model), chosen.model, chosen.skip)
        return Vocabulary(freeze(network.float(), self.device), tags, thresholds)
