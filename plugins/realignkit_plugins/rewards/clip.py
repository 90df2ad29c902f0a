"""CLIP's and SigLIP's image-text similarity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import Field

from realignkit.contracts import Options as PluginOptions
from realignkit.errors import ModelError
from realignkit_plugins.loading import (
    DTypeName,
    hub_options,
    image_processor,
    load_model,
    loading,
    resolve_model,
    text_tokenizer,
)
from realignkit_plugins.rewards.base import PixelReward, place, tokenize, workplace

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image
    from torch import Tensor

    from realignkit_plugins.rewards.preprocess import Preprocessing


@dataclass(frozen=True)
class _Loaded:
    network: Any
    tokenizer: Any
    preprocessing: Preprocessing


class CLIPReward(PixelReward[_Loaded]):
    """Cosine of a dual encoder's image and text features, in [-1, 1] (the paper's Table III, "CLIP").

    Any ``CLIPModel`` or ``SiglipModel`` checkpoint of transformers, and plain CLIPs in open_clip's layout
    (:mod:`realignkit_plugins.rewards.open_clip`), which need no package of their own. The margin is 1.
    """

    margin = 1.0

    class Options(PluginOptions):
        """Options of :class:`CLIPReward`."""

        model: str = Field("openai/clip-vit-large-patch14", description="hub id, folder, or micro:<name>", min_length=1)
        revision: str | None = Field(None, description="branch, tag or commit on the hub")
        tokenizer: str = Field(
            "openai/clip-vit-large-patch14",
            description="hub id or folder, where a checkpoint in open_clip's layout holds none",
        )
        device: str = Field("auto", description="auto, cpu, cuda, cuda:1, mps …")
        dtype: DTypeName = Field("auto", description="auto: bf16 on CUDA, fp32 elsewhere")

    options: CLIPReward.Options

    @property
    def preprocessing(self) -> Preprocessing:
        """As the checkpoint's processor says."""
        return self.loaded.preprocessing

    def judge(self, pixel_values: Tensor, prompts: Sequence[str]) -> Tensor:
        """Cosines (B,)."""
        return (self.image_features(pixel_values) * self.text_features(prompts)).sum(-1)

    def image_features(self, pixel_values: Tensor) -> Tensor:
        """Normalised image features, float32 (B, D)."""
        network = self.loaded.network
        seen = network.get_image_features(pixel_values=pixel_values.to(network.device, network.dtype))
        return _normalised(seen)

    def features(self, images: Sequence[Image]) -> np.ndarray:
        """Normalised features of PIL images, float32 (B, D), as a Fréchet distance compares them."""
        import torch

        with torch.no_grad():
            return self.image_features(self.preprocessing.from_pil(images)).cpu().numpy()

    def text_features(self, texts: Sequence[str]) -> Tensor:
        """Normalised text features, float32 (B, D); texts over the encoder's length are cut."""
        import torch

        kept = self.loaded
        network, limit = kept.network, kept.network.config.text_config.max_position_embeddings
        # SigLIP was trained on texts padded to full length, without a mask.
        padded = {"padding": "max_length"} if network.config.model_type.startswith("siglip") else {}
        with torch.no_grad():
            tokens = tokenize(kept.tokenizer, texts, limit, network.device, **padded)
            if padded:
                return _normalised(network.get_text_features(input_ids=tokens["input_ids"]))
            return _normalised(
                network.get_text_features(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"])
            )

    def _load(self) -> _Loaded:
        from transformers import AutoModel

        from realignkit_plugins.rewards import open_clip
        from realignkit_plugins.rewards.preprocess import Preprocessing

        chosen = self.options
        folder, hub = resolve_model(chosen.model), hub_options(chosen.revision)
        with loading("CLIP model", chosen.model):
            if open_clip.is_open_clip(folder, chosen.revision):
                return self._load_open_clip(folder)
            where, dtype = workplace(chosen.device, chosen.dtype)
            network = place(load_model(AutoModel, folder, chosen.model, dtype, **hub), where)
            if not hasattr(network, "get_text_features") or not hasattr(network, "get_image_features"):
                raise ModelError(
                    f"'{chosen.model}' is a {type(network).__name__}, which has no image-text features. "
                    f"Use a CLIPModel or SiglipModel checkpoint."
                )
            tokenizer = text_tokenizer(folder, **hub)
            preprocessing = Preprocessing.of(image_processor(folder, **hub))
        return _Loaded(network, tokenizer, preprocessing)

    def _load_open_clip(self, folder: str) -> _Loaded:
        from realignkit_plugins.rewards import open_clip

        chosen = self.options
        own = any(open_clip.find(folder, name, chosen.revision) for name in ("tokenizer.json", "vocab.json"))
        words, hub = (folder, hub_options(chosen.revision)) if own else (resolve_model(chosen.tokenizer), {})
        with loading("tokenizer", words):
            tokenizer = text_tokenizer(words, **hub)
        where, dtype = workplace(chosen.device, chosen.dtype)
        network, preprocessing = open_clip.load(folder, chosen.revision, tokenizer.eos_token_id, dtype)
        if len(tokenizer) > network.config.text_config.vocab_size:
            raise ModelError(
                f"the tokenizer '{words}' has {len(tokenizer)} tokens, the model only "
                f"{network.config.text_config.vocab_size}. Give the one that it was trained with (tokenizer=…)."
            )
        return _Loaded(place(network, where), tokenizer, preprocessing)


def _normalised(output: Any) -> Tensor:
    from torch.nn.functional import normalize

    features = getattr(output, "pooler_output", output)
    return normalize(features.float(), dim=-1)
