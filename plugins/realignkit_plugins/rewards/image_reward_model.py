"""The network of ImageReward (BLIP's ViT and text encoder, and a regression head), under its published key names.

Xu et al., "ImageReward: Learning and Evaluating Human Preferences for Text-to-Image Generation", 2023.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from realignkit.errors import ModelError

PUBLISHED_MEAN = 0.16717362830052426
PUBLISHED_STD = 1.0333394966054072


@dataclass(frozen=True)
class ImageRewardConfig:
    """Sizes of the network; the defaults are those of the published ``ImageReward.pt``."""

    image_size: int = 224
    patch_size: int = 16
    vit_width: int = 1024
    vit_depth: int = 24
    vit_heads: int = 16
    vit_mlp_width: int = 4096
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    max_position_embeddings: int = 512
    vocab_size: int = 30524
    projection_dim: int = 256
    mlp_widths: tuple[int, ...] = (1024, 128, 64, 16)
    mean: float = PUBLISHED_MEAN
    std: float = PUBLISHED_STD

    @classmethod
    def of(cls, state: Mapping[str, Tensor], known: Mapping[str, Any] | None = None) -> ImageRewardConfig:
        """Read the sizes off a state dict. The numbers of heads leave no trace in it: given in ``known``, else 64 wide.

        Args:
            state: the weights, published key names.
            known: fields by name (``vit_heads``, ``num_attention_heads``, ``mean``, ``std``); others are ignored.

        Raises:
            ModelError: the weights are not an ImageReward model's.
        """
        known = known or {}
        try:
            width, patch = state["blip.visual_encoder.patch_embed.proj.weight"].shape[::3]
            vocabulary, hidden = state["blip.text_encoder.embeddings.word_embeddings.weight"].shape
            patches = state["blip.visual_encoder.pos_embed"].shape[1] - 1
            heads = {"vit_heads": max(1, width // 64), "num_attention_heads": max(1, hidden // 64)}
            chosen = {name: int(known.get(name, value)) for name, value in heads.items()}
            return cls(
                image_size=math.isqrt(patches) * patch,
                patch_size=patch,
                vit_width=width,
                vit_depth=_count(state, "blip.visual_encoder.blocks."),
                vit_mlp_width=len(state["blip.visual_encoder.blocks.0.mlp.fc1.bias"]),
                hidden_size=hidden,
                num_hidden_layers=_count(state, "blip.text_encoder.encoder.layer."),
                intermediate_size=len(state["blip.text_encoder.encoder.layer.0.intermediate.dense.bias"]),
                max_position_embeddings=len(state["blip.text_encoder.embeddings.position_embeddings.weight"]),
                vocab_size=vocabulary,
                projection_dim=len(state["blip.text_proj.bias"]),
                mlp_widths=tuple(len(state[f"mlp.layers.{i}.bias"]) for i in (0, 2, 4, 6)),
                mean=float(known.get("mean", PUBLISHED_MEAN)),
                std=float(known.get("std", PUBLISHED_STD)),
                **chosen,
            )
        except (KeyError, ValueError) as error:
            raise ModelError(
                f"these weights are no ImageReward model's (missing {error}). Give ImageReward.pt as published."
            ) from None

    def as_dict(self) -> dict[str, Any]:
        """Field by field, as JSON takes it."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {**values, "mlp_widths": list(self.mlp_widths)}


def _count(state: Mapping[str, Tensor], prefix: str) -> int:
    return 1 + max(int(key.removeprefix(prefix).partition(".")[0]) for key in state if key.startswith(prefix))


class ImageRewardModel(nn.Module):
    """(pixel values, token ids) -> one standardised number per pair."""

    def __init__(self, config: ImageRewardConfig) -> None:
        super().__init__()
        self.config = config
        self.blip = _Blip(config)
        self.mlp = _Head(config)

    @classmethod
    def from_state(
        cls, state: Mapping[str, Tensor], known: Mapping[str, Any] | None = None, dtype: torch.dtype = torch.float32
    ) -> ImageRewardModel:
        """Build the network that fits the weights, and load them strictly, in ``dtype``.

        Raises:
            ModelError: names or shapes are not those of an ImageReward model.
        """
        config = ImageRewardConfig.of(state, known)
        with torch.device("meta"):  # no time or memory for weights that are replaced at once
            model = cls(config)
        floats = {k: v.to(dtype) if v.is_floating_point() else v for k, v in state.items()}
        try:
            model.load_state_dict(floats, strict=True, assign=True)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:300]
            raise ModelError(
                f"these weights do not fit ImageReward: {reason}. Give ImageReward.pt as published."
            ) from None
        return model.eval()

    def features(self, pixel_values: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """The text encoder's last hidden state at [CLS], having attended to the image; (B, hidden_size)."""
        image_embeds = self.blip.visual_encoder(pixel_values)
        hidden: Tensor = self.blip.text_encoder(input_ids, attention_mask, image_embeds)
        return hidden[:, 0]

    def forward(self, pixel_values: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Standardised rewards (B,): about zero mean and unit variance over the pairs that people compared.

        Args:
            pixel_values: float (B, 3, image_size, image_size), CLIP-normalised.
            input_ids: int64 (B, length), [CLS] first.
            attention_mask: (B, length), 1 for tokens, 0 for padding.
        """
        raw = self.mlp(self.features(pixel_values, input_ids, attention_mask)).squeeze(-1)
        return (raw.float() - self.config.mean) / self.config.std


class _Head(nn.Module):
    def __init__(self, config: ImageRewardConfig) -> None:
        super().__init__()
        first, second, third, fourth = config.mlp_widths
        # The published file's indices: dropout between the linears, and no activation anywhere.
        self.layers = nn.Sequential(
            nn.Linear(config.hidden_size, first),
            nn.Dropout(0.2),
            nn.Linear(first, second),
            nn.Dropout(0.2),
            nn.Linear(second, third),
            nn.Dropout(0.1),
            nn.Linear(third, fourth),
            nn.Linear(fourth, 1),
        )

    def forward(self, features: Tensor) -> Tensor:
        scores: Tensor = self.layers(features)
        return scores


class _Blip(nn.Module):
    def __init__(self, config: ImageRewardConfig) -> None:
        super().__init__()
        self.visual_encoder = _VisionTransformer(config)
        self.text_encoder = _TextEncoder(config)
        # In the file, unused by the reward.
        self.vision_proj = nn.Linear(config.vit_width, config.projection_dim)
        self.text_proj = nn.Linear(config.hidden_size, config.projection_dim)


class _VisionTransformer(nn.Module):
    def __init__(self, config: ImageRewardConfig) -> None:
        super().__init__()
        width, patch = config.vit_width, config.patch_size
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, width, patch, patch)})
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, (config.image_size // patch) ** 2 + 1, width))
        self.blocks = nn.ModuleList(_VisionBlock(config) for _ in range(config.vit_depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, 1 + patches, width), [CLS] first."""
        patches = self.patch_embed["proj"](pixel_values).flatten(2).transpose(1, 2)
        hidden = torch.cat([self.cls_token.expand(len(patches), -1, -1), patches], dim=1) + self.pos_embed
        for block in self.blocks:
            hidden = block(hidden)
        normed: Tensor = self.norm(hidden)
        return normed


class _VisionBlock(nn.Module):
    def __init__(self, config: ImageRewardConfig) -> None:
        super().__init__()
        width = config.vit_width
        self.heads = config.vit_heads
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = nn.ModuleDict({"qkv": nn.Linear(width, 3 * width), "proj": nn.Linear(width, width)})
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.ModuleDict(
            {"fc1": nn.Linear(width, config.vit_mlp_width), "fc2": nn.Linear(config.vit_mlp_width, width)}
        )

    def forward(self, hidden: Tensor) -> Tensor:
        query, key, value = self.attn["qkv"](self.norm1(hidden)).chunk(3, dim=-1)
        hidden = hidden + self.attn["proj"](_attend(query, key, value, self.heads))
        return hidden + self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm2(hidden))))


class _TextEncoder(nn.Module):
    def __init__(self, config: ImageRewardConfig) -> None:
        super().__init__()
        self.embeddings = _TextEmbeddings(config)
        self.encoder = nn.ModuleDict(
            {"layer": nn.ModuleList(_TextLayer(config) for _ in range(config.num_hidden_layers))}
        )

    def forward(self, input_ids: Tensor, attention_mask: Tensor, image_embeds: Tensor) -> Tensor:
        hidden = self.embeddings(input_ids)
        mask = attention_mask.bool()[:, None, None, :]
        for layer in self.encoder["layer"].children():
            hidden = layer(hidden, mask, image_embeds)
        return hidden


class _TextEmbeddings(nn.Module):
    def __init__(self, config: ImageRewardConfig) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=1e-12)
        self.position_ids: Tensor
        self.register_buffer("position_ids", torch.arange(config.max_position_embeddings)[None])

    def forward(self, input_ids: Tensor) -> Tensor:
        positions = self.position_embeddings(self.position_ids[:, : input_ids.shape[1]])
        embedded: Tensor = self.LayerNorm(self.word_embeddings(input_ids) + positions)
        return embedded


class _TextLayer(nn.Module):
    def __init__(self, config: ImageRewardConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.attention = _TextAttention(config, width)
        self.crossattention = _TextAttention(config, config.vit_width)
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(width, config.intermediate_size)})
        self.output = _Residual(config.intermediate_size, width)

    def forward(self, hidden: Tensor, mask: Tensor, image_embeds: Tensor) -> Tensor:
        hidden = self.attention(hidden, hidden, mask)
        hidden = self.crossattention(hidden, image_embeds, None)
        out: Tensor = self.output(F.gelu(self.intermediate["dense"](hidden)), hidden)
        return out


class _TextAttention(nn.Module):
    def __init__(self, config: ImageRewardConfig, key_width: int) -> None:
        super().__init__()
        width = config.hidden_size
        self.heads = config.num_attention_heads
        # "self" is the published name.
        self.self = nn.ModuleDict(
            {"query": nn.Linear(width, width), "key": nn.Linear(key_width, width), "value": nn.Linear(key_width, width)}
        )
        self.output = _Residual(width, width)

    def forward(self, hidden: Tensor, context: Tensor, mask: Tensor | None) -> Tensor:
        query, key, value = self.self["query"](hidden), self.self["key"](context), self.self["value"](context)
        out: Tensor = self.output(_attend(query, key, value, self.heads, mask), hidden)
        return out


class _Residual(nn.Module):
    """BERT's end of a sub-layer: project, add, normalise."""

    def __init__(self, width_in: int, width: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width_in, width)
        self.LayerNorm = nn.LayerNorm(width, eps=1e-12)

    def forward(self, update: Tensor, residual: Tensor) -> Tensor:
        out: Tensor = self.LayerNorm(self.dense(update) + residual)
        return out


def _attend(query: Tensor, key: Tensor, value: Tensor, heads: int, mask: Tensor | None = None) -> Tensor:
    query, key, value = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (query, key, value))
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask).transpose(1, 2).flatten(2)
