"""The ImageReward: its network, small, trained as the original is: of two pairs, which is better."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn.functional import logsigmoid

from realignkit_plugins.micro.train.loop import Schedule
from realignkit_plugins.micro.train.rewards import MAX_LENGTH, Batch, Mistake, RewardRecipe
from realignkit_plugins.rewards.image_reward import ImageReward
from realignkit_plugins.rewards.image_reward_model import ImageRewardConfig, ImageRewardModel
from realignkit_plugins.rewards.preprocess import CLIP_MEAN, CLIP_STD

READ = 35
"""Tokens that prompts are padded to, as in the published model."""


class ImageRewardRecipe(RewardRecipe):
    """Which of two pairs is better."""

    name = "image_reward"
    schedule = Schedule(steps=900, batch_size=48, learning_rate=2e-3, warmup=100, ema=0.995)
    taught_words = True

    def build(self) -> ImageRewardModel:
        """A 4-layer vision transformer on 8 x 8 patches, a 3-layer text encoder that attends to it, their head."""
        config = ImageRewardConfig(
            image_size=64,
            patch_size=8,
            vit_width=128,
            vit_depth=4,
            vit_heads=4,
            vit_mlp_width=384,
            hidden_size=96,
            num_hidden_layers=3,
            num_attention_heads=4,
            intermediate_size=256,
            max_position_embeddings=MAX_LENGTH,
            vocab_size=len(self.tokenizer()),
            projection_dim=16,
            mean=0.0,
            std=1.0,
        )
        model = ImageRewardModel(config)
        nn.init.normal_(model.blip.visual_encoder.pos_embed, std=0.02)
        for table in (
            model.blip.text_encoder.embeddings.word_embeddings,
            model.blip.text_encoder.embeddings.position_embeddings,
        ):
            nn.init.normal_(table.weight, std=0.02)
        return model

    def tower(self, pixels: torch.Tensor) -> torch.Tensor:
        """See :class:`RewardRecipe`."""
        hidden: torch.Tensor = self.model.blip.visual_encoder(pixels)
        return hidden

    def see(self, images: torch.Tensor) -> torch.Tensor:
        """The tower's hidden states of pictures in [0, 1], as the plugin normalises them."""
        mean, std = (torch.tensor(values)[:, None, None] for values in (CLIP_MEAN, CLIP_STD))
        return self.seeing.see((images - mean) / std)

    def encode(self, seen: torch.Tensor, captions: list[str]) -> torch.Tensor:
        """The text encoder's hidden states, having seen the pictures."""
        read = self.read(captions, padding="max_length", max_length=READ)
        hidden: torch.Tensor = self.model.blip.text_encoder(read["input_ids"], read["attention_mask"], seen)
        return hidden

    def scores(self, hidden: torch.Tensor) -> torch.Tensor:
        """Rewards (B,) that are not yet standardised."""
        rewards: torch.Tensor = self.model.mlp(hidden[:, 0]).squeeze(-1)
        return rewards

    def objective(self, batch: Batch, step: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Bradley-Terry, as the original's pairwise loss; a small weight on squares keeps the zero where it is."""
        second: Mistake = "replaced" if step % 2 else "missing"
        seen, malformed = self.see(torch.cat([batch.images, batch.malformed])).chunk(2)
        captions = [*batch.captions, *batch.wrong["swapped"], *batch.wrong[second], *batch.captions]
        hidden = self.encode(torch.cat([seen, seen, seen, malformed]), captions)
        better, *worse = self.scores(hidden).chunk(4)
        compared = -torch.stack([logsigmoid(better - each) for each in worse]).mean()
        size = 1e-3 * torch.stack([better, *worse]).square().mean()
        patches = self.seeing.patch_loss(seen, batch.patches)
        true = self.words.loss(hidden, captions, [*batch.scenes * 3, *[None] * len(batch.scenes)])
        return compared + size + patches + true, {"compared": compared, "patches": patches, "words": true}

    def save(self, folder: Path) -> None:
        """Standardise, and save as the plugin reads it."""
        batch = self.pairs.batch(self.schedule.steps, 256, torch.Generator().manual_seed(self.seed))
        with torch.no_grad():
            seen = self.see(batch.images)
            both = [self.scores(self.encode(seen, texts)) for texts in (batch.captions, batch.wrong["swapped"])]
        config = replace(self.model.config, mean=float(torch.cat(both).mean()), std=float(torch.cat(both).std()))
        folder.mkdir(parents=True, exist_ok=True)
        state = {k: v.half() if v.is_floating_point() else v for k, v in self.model.state_dict().items()}
        save_file({k: v.contiguous() for k, v in state.items()}, folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps(config.as_dict(), indent=2) + "\n")
        self.tokens.save_pretrained(folder)

    def judges(self, folder: Path) -> dict[str, ImageReward]:
        """The plugin."""
        return {"image_reward": ImageReward(model=str(folder))}
