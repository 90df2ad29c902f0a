"""CLIP's and SigLIP's image-text similarity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field

from realignkit.errors import ModelError
from realignkit_plugins.loading import Checkpoint, Loaded, check_vocabulary, freeze, load_tokenizer, text_tokenizer
from realignkit_plugins.model_names import resolve_model
from realignkit_plugins.rewards.base import PixelReward, differentiable, tokenize

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image
    from torch import Tensor


def _verify(network: Any, model: str) -> None:
    if not hasattr(network, "get_text_features") or not hasattr(network, "get_image_features"):
        raise ModelError(
            f"'{model}' is a {type(network).__name__}, which has no image-text features. "
            f"Use a CLIPModel or SiglipModel checkpoint."
        )


class CLIPReward(PixelReward):
    """Cosine of a dual encoder's image and text features, in [-1, 1] (the paper's Table III, "CLIP").

    Any ``CLIPModel`` or ``SiglipModel`` checkpoint of transformers, and plain CLIPs in open_clip's layout
    (:mod:`realignkit_plugins.rewards.open_clip`), which need no package of their own. The margin is 1.
    """

    margin = 1.0
    checkpoint = Checkpoint(
        "CLIP model", other="AutoModel", verify=_verify, processor=differentiable, tokenizer=text_tokenizer, frozen=True
    )

    class Options(PixelReward.Options):
        """Options of :class:`CLIPReward`."""

        model: str = Field("openai/clip-vit-large-patch14", description="hub id, folder, or micro:<name>", min_length=1)
        tokenizer: str = Field(
            "openai/clip-vit-large-patch14",
            description="hub id or folder, where a checkpoint in open_clip's layout holds none",
        )

    options: CLIPReward.Options

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

    def load(self) -> Loaded:
        """A checkpoint of transformers, or one in open_clip's layout."""
        from realignkit_plugins.rewards import open_clip

        chosen = self.options
        folder = resolve_model(chosen.model)
        if not open_clip.is_open_clip(folder, chosen.revision):
            return super().load()
        has_tokenizer = any(open_clip.find(folder, name, chosen.revision) for name in ("tokenizer.json", "vocab.json"))
        words, revision = (folder, chosen.revision) if has_tokenizer else (chosen.tokenizer, None)
        tokenizer = load_tokenizer("tokenizer", words, revision)
        network, preprocessing = open_clip.load(folder, chosen.revision, tokenizer.eos_token_id, self.dtype)
        advice = "Give the one that it was trained with (tokenizer=…)."
        check_vocabulary(tokenizer, words, network.config.text_config.vocab_size, advice)
        return Loaded(freeze(network, self.device), preprocessing, tokenizer)


def _normalised(output: Any) -> Tensor:
    from torch.nn.functional import normalize

    features = getattr(output, "pooler_output", output)
    return normalize(features.float(), dim=-1)
