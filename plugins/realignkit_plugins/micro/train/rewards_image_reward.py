"""The ImageReward: its network, small, trained as the original is: of two pairs, which is better."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn.functional import logsigmoid

from realignkit_plugins.micro.train.loop import Schedule, fit
from realignkit_plugins.micro.train.patches import Seeing
from realignkit_plugins.micro.train.rewards import MAX_LENGTH, Mistake, Pairs, bert_words, report
from realignkit_plugins.micro.train.words import Words
from realignkit_plugins.rewards.image_reward_model import ImageRewardConfig, ImageRewardModel
from realignkit_plugins.rewards.preprocess import CLIP_MEAN, CLIP_STD

SCHEDULE = Schedule(steps=900, batch_size=48, learning_rate=2e-3, warmup=100, ema=0.995)
READ = 35
"""Tokens that prompts are padded to, as in the published model."""


def build() -> ImageRewardModel:
    """A 4-layer vision transformer on 8 x 8 patches, a 3-layer text encoder that attends to it, the published head."""
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
        vocab_size=len(bert_words()),
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


def train(out: Path, work: Path, seed: int = 0, steps: int | None = None) -> None:
    """Train, standardise, measure on unseen scenes, save to ``out/image_reward``."""
    schedule = SCHEDULE if steps is None else Schedule(**{**vars(SCHEDULE), "steps": steps})
    torch.manual_seed(seed)
    model, tokens = build(), bert_words()
    seeing = Seeing(model, lambda x: model.blip.visual_encoder(x), 128)
    words = Words(96)
    pairs = Pairs("image_reward", work, out / "base", seed, schedule.steps * schedule.batch_size)
    mean, std = (torch.tensor(values)[:, None, None] for values in (CLIP_MEAN, CLIP_STD))

    def read(seen: torch.Tensor, captions: list[str]) -> torch.Tensor:
        encoded: Any = tokens(captions, padding="max_length", truncation=True, max_length=READ, return_tensors="pt")
        return model.blip.text_encoder(encoded["input_ids"], encoded["attention_mask"], seen)

    def scores(hidden: torch.Tensor) -> torch.Tensor:
        return model.mlp(hidden[:, 0]).squeeze(-1)

    def see(images: torch.Tensor) -> torch.Tensor:
        return seeing.see((images - mean) / std)

    def loss(step: int, generator: torch.Generator) -> tuple[torch.Tensor, dict[str, float]]:
        batch = pairs.batch(step, schedule.batch_size, generator)
        second: Mistake = "replaced" if step % 2 else "missing"
        seen, malformed = see(torch.cat([batch.images, batch.malformed])).chunk(2)
        captions = [*batch.captions, *batch.wrong["swapped"], *batch.wrong[second], *batch.captions]
        hidden = read(torch.cat([seen, seen, seen, malformed]), captions)
        better, *worse = scores(hidden).chunk(4)
        # Bradley-Terry, as the original's pairwise loss; the small weight on squares keeps the zero where it is.
        compared = -torch.stack([logsigmoid(better - each) for each in worse]).mean()
        size = 1e-3 * torch.stack([better, *worse]).square().mean()
        patches = seeing.patch_loss(seen, batch.patches)
        true = words.loss(hidden, captions, [*batch.scenes * 3, *[None] * len(batch.scenes)])
        parts = {"compared": compared, "patches": patches, "words": true}
        return compared + size + patches + true, {name: float(part.detach()) for name, part in parts.items()}

    fit(nn.ModuleList([seeing, words]), loss, schedule, seed, work / "image_reward")
    batch = pairs.batch(schedule.steps, 256, torch.Generator().manual_seed(seed))
    with torch.no_grad():
        seen = see(batch.images)
        both = torch.cat([scores(read(seen, texts)) for texts in (batch.captions, batch.wrong["swapped"])])
    config = replace(model.config, mean=float(both.mean()), std=float(both.std()))
    folder = out / "image_reward"
    folder.mkdir(parents=True, exist_ok=True)
    state = {k: v.half() if v.is_floating_point() else v for k, v in model.state_dict().items()}
    save_file({k: v.contiguous() for k, v in state.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config.as_dict(), indent=2) + "\n")
    tokens.save_pretrained(folder)
    from realignkit_plugins.rewards.image_reward import ImageReward

    report("image_reward", ImageReward(model=str(folder)), pairs)
