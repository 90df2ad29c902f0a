"""ImageReward, loading the published file on today's libraries."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from realignkit.errors import ModelError
from realignkit_plugins.loading import Checkpoint, Loaded, check_vocabulary, freeze, load_tokenizer
from realignkit_plugins.model_names import hub_file, local_file, resolve_model
from realignkit_plugins.rewards.base import PixelReward
from realignkit_plugins.weight_files import read_weights

if TYPE_CHECKING:
    from torch import Tensor

MAX_LENGTH = 35
"""Prompts are padded to, and cut at, this many tokens, as in training."""
_WEIGHTS = ("ImageReward.pt", "model.safetensors", "checkpoint.pth")
_TOKENIZER = ("tokenizer.json", "vocab.txt")


class ImageReward(PixelReward):
    """What people would prefer, as ImageReward learned it: standardised, about in [-2.5, 2.5]; the margin is 2.

    ``model`` is a file (``ImageReward.pt``), a folder with one, or a hub id. A folder may also hold the tokenizer
    and a ``config.json`` with what the weights do not tell (``vit_heads``, ``num_attention_heads``, ``mean``, ``std``).
    """

    margin = 2.0
    checkpoint = Checkpoint("ImageReward model")

    class Options(PixelReward.Options):
        """Options of :class:`ImageReward`."""

        model: str = Field(
            "THUDM/ImageReward",
            description="ImageReward.pt, folder, hub id (a pickle there; only tensors are read), or micro:<name>",
            min_length=1,
        )
        tokenizer: str = Field(
            "google-bert/bert-base-uncased", description="hub id or folder, where the model's folder holds none"
        )

    options: ImageReward.Options

    def judge(self, pixel_values: Tensor, prompts: Sequence[str]) -> Tensor:
        """Standardised rewards (B,)."""
        kept = self.loaded
        weight = kept.network.blip.visual_encoder.cls_token
        tokens = kept.tokenizer(
            list(prompts), padding="max_length", truncation=True, max_length=MAX_LENGTH, return_tensors="pt"
        ).to(weight.device)
        rewards: Tensor = kept.network(
            pixel_values.to(weight.device, weight.dtype), tokens["input_ids"], tokens["attention_mask"]
        )
        return rewards

    def load(self) -> Loaded:
        """The published weights, or ours; the tokenizer from beside them, or as the options say."""
        from realignkit_plugins.rewards.image_reward_model import ImageRewardModel
        from realignkit_plugins.rewards.preprocess import Preprocessing

        chosen = self.options
        file = _find(chosen.model, chosen.revision)
        network = ImageRewardModel.from_state(read_weights(file, chosen.model), _known(file.parent), self.dtype)
        has_tokenizer = any((file.parent / name).is_file() for name in _TOKENIZER)
        words = str(file.parent) if has_tokenizer else chosen.tokenizer
        tokenizer = load_tokenizer("tokenizer of ImageReward", words)
        check_vocabulary(tokenizer, words, network.config.vocab_size)
        side = network.config.image_size
        # Shorter side to the network's size, centre crop. The original trains through tensors, which saturate nowhere,
        # and scores through 8-bit images.
        preprocessing = Preprocessing(size=side, crop=(side, side), crop_offset="round", saturate=False)
        return Loaded(freeze(network, self.device), preprocessing, tokenizer)


def _find(model: str, revision: str | None) -> Path:
    if Path(model).expanduser().is_file() or hub_file(model):
        return local_file(model, revision)
    resolved = resolve_model(model)
    folder = Path(resolved)
    if not folder.is_dir():
        return local_file(f"{resolved}:{_WEIGHTS[0]}", revision)
    for name in _WEIGHTS:
        if (folder / name).is_file():
            return folder / name
    raise ModelError(f"there is no ImageReward checkpoint in '{model}'. It should hold one of {', '.join(_WEIGHTS)}.")


def _known(folder: Path) -> dict[str, Any]:
    file = folder / "config.json"
    if not file.is_file():
        return {}
    known = json.loads(file.read_text(encoding="utf-8"))
    return known if isinstance(known, dict) else {}
