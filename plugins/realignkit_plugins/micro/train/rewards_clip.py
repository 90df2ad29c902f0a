"""The CLIP reward: a tiny ``CLIPModel``, contrastive, with hard negatives among captions and pictures."""

from __future__ import annotations

from pathlib import Path

import torch
from torch.nn.functional import cross_entropy, normalize
from transformers import CLIPConfig, CLIPModel

from realignkit_plugins.micro.train import tokenizer as words
from realignkit_plugins.micro.train.loop import Schedule, fit
from realignkit_plugins.micro.train.patches import Seeing
from realignkit_plugins.micro.train.rewards import MISTAKES, Pairs, report
from realignkit_plugins.micro.train.tagger import write_preprocessor

SCHEDULE = Schedule(steps=1400, batch_size=48, learning_rate=3e-3, warmup=100, ema=0.995)


def build() -> CLIPModel:
    """A 4-layer vision transformer on 8 x 8 patches and a 2-layer text encoder."""
    tokens = words.build()
    shared = {"num_attention_heads": 4, "projection_dim": 96}
    text = {
        "vocab_size": len(tokens),
        "hidden_size": 96,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "max_position_embeddings": words.MAX_LENGTH,
        "bos_token_id": tokens.bos_token_id,
        "eos_token_id": tokens.eos_token_id,
        "pad_token_id": tokens.pad_token_id,
    }
    vision = {
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_hidden_layers": 4,
        "image_size": 64,
        "patch_size": 8,
    }
    return CLIPModel(CLIPConfig(text_config={**text, **shared}, vision_config={**vision, **shared}, projection_dim=96))


def train(out: Path, work: Path, seed: int = 0, steps: int | None = None) -> None:
    """Train, measure on unseen scenes, save to ``out/clip``."""
    schedule = SCHEDULE if steps is None else Schedule(**{**vars(SCHEDULE), "steps": steps})
    torch.manual_seed(seed)
    model, tokens = build(), words.build()
    seeing = Seeing(model, lambda x: model.vision_model(pixel_values=x).last_hidden_state, 128)
    pairs = Pairs("clip", work, out / "base", seed, schedule.steps * schedule.batch_size)

    def loss(step: int, generator: torch.Generator) -> tuple[torch.Tensor, dict[str, float]]:
        batch = pairs.batch(step, schedule.batch_size, generator)
        captions = [*batch.captions, *(text for kind in MISTAKES for text in batch.wrong[kind])]
        read = tokens(captions, padding=True, truncation=True, return_tensors="pt")
        text = normalize(model.get_text_features(**read).pooler_output, dim=-1)
        pictures = torch.cat([batch.images, batch.malformed]) * 2 - 1
        hidden = seeing.see(pictures)
        pooled = model.vision_model.post_layernorm(hidden[:, 0])
        image = normalize(model.visual_projection(pooled), dim=-1)
        scale = model.logit_scale.exp().clamp(max=100)
        size = schedule.batch_size
        # Every picture finds its caption among all captions and all wrong ones, and every caption its picture among all
        # pictures and all malformed ones.
        finds_text = cross_entropy(scale * image[:size] @ text.T, torch.arange(size))
        finds_image = cross_entropy(scale * text[:size] @ image.T, torch.arange(size))
        # The own three wrong captions alone: with hundreds of others around, a swapped colour hardly counts.
        own = text.unflatten(0, (-1, size)).transpose(0, 1)
        finds_own = cross_entropy(
            scale * (own @ image[:size, :, None]).squeeze(-1), torch.zeros(size, dtype=torch.long)
        )
        patches = seeing.patch_loss(hidden[:size], batch.patches)
        parts = {"own": float(finds_own.detach()), "patches": float(patches.detach())}
        return finds_text + finds_image + finds_own + patches, parts

    fit(seeing, loss, schedule, seed, work / "clip")
    folder = out / "clip"
    model.half().save_pretrained(folder)
    tokens.save_pretrained(folder)
    write_preprocessor(folder, "ViTImageProcessor")
    from realignkit_plugins.rewards.clip import CLIPReward

    report("clip", CLIPReward(model=str(folder)), pairs)
