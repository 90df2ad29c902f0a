"""How well images fit their prompts by CLIP: CLIPScore (Hessel et al., 2021) and the plain cosine."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pydantic import Field

from realignkit.contracts import Metric
from realignkit.errors import OptionError, PluginError
from realignkit.machine import full_precision
from realignkit_plugins.loading import CheckpointPlugin
from realignkit_plugins.metrics.features import weights_digest
from realignkit_plugins.rewards.clip import CLIPReward

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

TEMPLATE = "A photo depicts "
"""What CLIPScore puts before a text."""
WEIGHT = 2.5
"""By which it multiplies a cosine, so that most values lie between 0 and 1."""


class CLIPScore(Metric):
    """CLIPScore and the plain cosine of image and prompt, by any CLIP of transformers, always in float32.

    ``clip_score`` is ``2.5 max(cos, 0)`` of the prompt behind "A photo depicts"; ``clip_cosine`` is the cosine of the
    prompt as it is. Papers that multiply the latter by 100, or by CLIP's own temperature, call that CLIP score too.
    """

    yes_or_no = ("truncated",)

    class Options(CheckpointPlugin.Options):
        """Options of :class:`CLIPScore`."""

        model: str = Field("openai/clip-vit-base-patch32", description="hub id, folder, or micro:<name>", min_length=1)
        batch_size: int = Field(32, ge=1, description="images per forward pass")

    options: CLIPScore.Options

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.seen: list[dict[str, float]] = []

    @cached_property
    def clip(self) -> CLIPReward:
        """The network, which looks at images as its own processor says."""
        chosen = self.options
        return CLIPReward(model=chosen.model, revision=chosen.revision, device=chosen.device, dtype="fp32")

    def out_of_reach(self) -> str:
        """What of the checkpoint cannot be had, see :class:`realignkit.contracts.Plugin`."""
        return self.clip.out_of_reach()

    def judge_each(self, images: Sequence[Image], prompts: Sequence[str]) -> list[dict[str, float]]:
        """Per image ``clip_score``, ``clip_cosine``, and ``truncated``: 1 where its prompt did not fit, and was cut.

        CLIP reads 77 tokens, two of which are its own; what comes after has no say in the score. The template's tokens
        count, so a prompt may be cut in ``clip_score`` alone.

        Raises:
            OptionError: not as many prompts as images.
            ModelError: the checkpoint cannot be loaded, or computes NaN.
        """
        import torch

        if len(images) != len(prompts):
            raise OptionError(f"{len(images)} images but {len(prompts)} prompts: give one prompt per image.")
        values: list[dict[str, float]] = []
        for start in range(0, len(images), self.options.batch_size):
            part = slice(start, start + self.options.batch_size)
            with torch.no_grad(), full_precision(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
                seen = self.clip.image_features(self.clip.preprocessing.from_pil(images[part]))
                plain = self._cosines(seen, prompts[part])
                framed = self._cosines(seen, [TEMPLATE + prompt for prompt in prompts[part]])
            values += [
                {"clip_score": WEIGHT * max(of_framed, 0.0), "clip_cosine": of_plain, "truncated": float(cut)}
                for of_framed, of_plain, cut in zip(framed, plain, map(self._cut, prompts[part]), strict=True)
            ]
        return values

    def _cosines(self, seen: Tensor, texts: Sequence[str]) -> list[float]:
        cosines = (seen * self.clip.text_features(texts)).sum(-1)
        return [float(value) for value in self.clip.finite(cosines)]

    def _cut(self, prompt: str) -> bool:
        kept = self.clip.loaded
        limit = kept.network.config.text_config.max_position_embeddings
        return len(kept.tokenizer(TEMPLATE + prompt)["input_ids"]) > limit

    def identity(self) -> dict[str, Any]:
        """The weights by what is in them, the template and the factor."""
        network = self.clip.loaded.network
        return {"weights": weights_digest(network), "template": TEMPLATE, "weight": WEIGHT}

    def update(self, images: Sequence[Image], prompts: Sequence[str]) -> None:
        """Take in images (RGB) and their prompts; errors as for :meth:`judge_each`."""
        self.seen += self.judge_each(images, prompts)

    def compute(self) -> dict[str, float]:
        """Means over images of ``clip_score``, ``clip_cosine`` and ``truncated``, and ``n``.

        Raises:
            PluginError: nothing has been judged yet.
        """
        if not self.seen:
            raise PluginError("nothing to compute: call update(images, prompts) first.")
        return {**_means(self.seen), "n": len(self.seen)}

    def merge(self, other: Metric) -> None:
        """Take in what another has judged.

        Raises:
            PluginError: it is another metric, or of another model.
        """
        if not isinstance(other, CLIPScore) or other.options != self.options:
            raise PluginError("cannot merge another metric into CLIPScore. Use equal options.")
        self.seen += other.seen


def _means(values: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: statistics.fmean(value[name] for value in values) for name in values[0]}
