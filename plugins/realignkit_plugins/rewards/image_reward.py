"""ImageReward, loading the published file on today's libraries."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from realignkit.contracts import Options as PluginOptions
from realignkit.errors import ModelError
from realignkit_plugins.loading import (
    DTypeName,
    hub_options,
    loading,
    resolve_model,
    text_tokenizer,
)
from realignkit_plugins.rewards.base import PixelReward, place, workplace
from realignkit_plugins.weight_files import read_weights

if TYPE_CHECKING:
    from torch import Tensor

    from realignkit_plugins.rewards.image_reward_model import ImageRewardModel
    from realignkit_plugins.rewards.preprocess import Preprocessing

MAX_LENGTH = 35
"""Prompts are padded to, and cut at, this many tokens, as in training."""
_WEIGHTS = ("ImageReward.pt", "model.safetensors", "checkpoint.pth")
_TOKENIZER = ("tokenizer.json", "vocab.txt")


@dataclass(frozen=True)
class _Loaded:
    network: ImageRewardModel
    tokenizer: Any
    preprocessing: Preprocessing


class ImageReward(PixelReward[_Loaded]):
    """What people would prefer, as ImageReward learned it: standardised, about in [-2.5, 2.5]; the margin is 2.

    ``model`` is a file (``ImageReward.pt``), a folder with one, or a hub id. A folder may also hold the tokenizer
    and a ``config.json`` with what the weights do not tell (``vit_heads``, ``num_attention_heads``, ``mean``, ``std``).
    """

    margin = 2.0

    class Options(PluginOptions):
        """Options of :class:`ImageReward`."""

        model: str = Field(
            "THUDM/ImageReward",
            description="ImageReward.pt, folder, hub id (a pickle there; only tensors are read), or micro:<name>",
            min_length=1,
        )
        revision: str | None = Field(None, description="branch, tag or commit on the hub")
        tokenizer: str = Field(
            "google-bert/bert-base-uncased", description="hub id or folder, where the model's folder holds none"
        )
        device: str = Field("auto", description="auto, cpu, cuda, cuda:1, mps …")
        dtype: DTypeName = Field("auto", description="auto: bf16 on CUDA, fp32 elsewhere")

    options: ImageReward.Options

    @property
    def preprocessing(self) -> Preprocessing:
        """Shorter side to the network's size, bicubic; centre crop; CLIP's mean and deviation."""
        return self.loaded.preprocessing

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

    def _load(self) -> _Loaded:
        from realignkit_plugins.rewards.image_reward_model import ImageRewardModel
        from realignkit_plugins.rewards.preprocess import Preprocessing

        chosen = self.options
        with loading("ImageReward model", chosen.model):
            file = _find(chosen.model, chosen.revision)
            where, dtype = workplace(chosen.device, chosen.dtype)
            network = ImageRewardModel.from_state(read_weights(file, chosen.model), _known(file.parent), dtype)
        own = any((file.parent / name).is_file() for name in _TOKENIZER)
        words = str(file.parent) if own else chosen.tokenizer
        with loading("tokenizer of ImageReward", words):
            tokenizer = text_tokenizer(words if own else resolve_model(words))
        if len(tokenizer) > network.config.vocab_size:
            raise ModelError(
                f"the tokenizer '{words}' has {len(tokenizer)} tokens, the model only {network.config.vocab_size}. "
                f"Give the tokenizer that the model was trained with."
            )
        side = network.config.image_size
        # The original trains through tensors, which saturate nowhere, and scores through 8-bit images.
        preprocessing = Preprocessing(size=side, crop=(side, side), crop_offset="round", saturate=False)
        return _Loaded(place(network, where), tokenizer, preprocessing)


def _find(model: str, revision: str | None) -> Path:
    file = Path(model).expanduser()
    if file.is_file():
        return file
    resolved = resolve_model(model)
    folder = Path(resolved)
    if not folder.is_dir():
        from huggingface_hub import hf_hub_download

        return Path(hf_hub_download(resolved, _WEIGHTS[0], **hub_options(revision)))
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
