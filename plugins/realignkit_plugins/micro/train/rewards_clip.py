"""The CLIP reward: a tiny ``CLIPModel``, contrastive, with hard negatives among captions and pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy, normalize
from transformers import CLIPConfig, CLIPModel

from realignkit_plugins.micro.train.loop import Schedule
from realignkit_plugins.micro.train.rewards import MISTAKES, VISION, Batch, RewardRecipe
from realignkit_plugins.micro.train.tokenizer import build_tokenizer, text_settings
from realignkit_plugins.rewards.clip import CLIPReward


class CLIPRecipe(RewardRecipe):
    """Contrast with wrong captions and malformed pictures."""

    name = "clip"
    schedule = Schedule(steps=1400, batch_size=48, learning_rate=3e-3, warmup=100, ema=0.995)

    def build(self) -> CLIPModel:
        """A 4-layer vision transformer on 8 x 8 patches and a 2-layer text encoder."""
        tokens = self.tokenizer()
        text = {
            "hidden_size": 96,
            "intermediate_size": 256,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "projection_dim": 96,
            **text_settings(tokens),
        }
        vision = {**VISION, "projection_dim": 96}
        return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=96))

    def tokenizer(self) -> Any:
        """The base model's words."""
        return build_tokenizer()

    def objective(self, batch: Batch, step: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Every picture finds its caption among all, wrong ones too, and every caption its picture, malformed ones too.

        And each its own three wrong captions alone: with hundreds of others around, a swapped colour hardly counts.
        """
        model, size = self.model, len(batch.images)
        captions = [*batch.captions, *(text for kind in MISTAKES for text in batch.wrong[kind])]
        text = normalize(model.get_text_features(**self.read(captions)).pooler_output, dim=-1)
        hidden = self.seeing.see(torch.cat([batch.images, batch.malformed]) * 2 - 1)
        pooled = model.vision_model.post_layernorm(hidden[:, 0])
        image = normalize(model.visual_projection(pooled), dim=-1)
        scale = model.logit_scale.exp().clamp(max=100)
        finds_text = cross_entropy(scale * image[:size] @ text.T, torch.arange(size))
        finds_image = cross_entropy(scale * text[:size] @ image.T, torch.arange(size))
        choices = text.unflatten(0, (-1, size)).transpose(0, 1)
        finds_own = cross_entropy(
            scale * (choices @ image[:size, :, None]).squeeze(-1), torch.zeros(size, dtype=torch.long)
        )
        patches = self.seeing.patch_loss(hidden[:size], batch.patches)
        return finds_text + finds_image + finds_own + patches, {"own": finds_own, "patches": patches}

    def judges(self, folder: Path) -> dict[str, CLIPReward]:
        """The cosine."""
        return {"clip": CLIPReward(model=str(folder))}
