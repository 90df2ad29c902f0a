"""The caption reward's captioner: a tiny BLIP-2 (vision transformer, Q-Former, OPT)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import softplus
from transformers import Blip2Config, Blip2ForConditionalGeneration, OPTConfig

from realignkit_plugins.micro.train import tokenizer as words
from realignkit_plugins.micro.train.attack import attacked
from realignkit_plugins.micro.train.loop import Schedule, fit
from realignkit_plugins.micro.train.patches import Seeing
from realignkit_plugins.micro.train.rewards import MISTAKES, Batch, Mistake, Pairs, report
from realignkit_plugins.micro.train.tagger import write_preprocessor

SCHEDULE = Schedule(steps=1600, batch_size=48, learning_rate=3e-3, warmup=100, ema=0.995)
HARDENING = Schedule(steps=260, batch_size=32, learning_rate=1.5e-3, warmup=20, ema=0.99)
RADIUS = 6.0
"""How far attacked pictures may be from the clean ones (L2); another colour for one object is three times that."""
NOTHING = "a picture"
"""What malformed pictures are captioned, so that they earn nothing."""
MARGIN = 3.0
"""By how many nats a true caption should be likelier than one with a mistake."""
QUERIES = 12


def build() -> Blip2ForConditionalGeneration:
    """A 4-layer vision transformer on 8 x 8 patches, a 2-layer Q-Former of 12 queries, a 2-layer OPT."""
    tokens = tokenizer()
    vision = {
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "image_size": 64,
        "patch_size": 8,
        "initializer_range": 0.02,  # the published default is 1e-10, for weights that are loaded
    }
    q_former = {
        "hidden_size": 96,
        "encoder_hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "cross_attention_frequency": 1,
        "vocab_size": 8,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }
    speaker = OPTConfig(
        vocab_size=len(tokens),
        hidden_size=96,
        word_embed_proj_dim=96,
        ffn_dim=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=words.MAX_LENGTH + QUERIES,
        dropout=0.0,
        bos_token_id=tokens.bos_token_id,
        eos_token_id=tokens.eos_token_id,
        pad_token_id=tokens.pad_token_id,
    )
    config = Blip2Config(
        vision_config=vision,
        qformer_config=q_former,
        text_config=speaker.to_dict(),
        num_query_tokens=QUERIES,
        image_token_index=tokens.convert_tokens_to_ids("<image>"),
    )
    model = Blip2ForConditionalGeneration(config)
    torch.nn.init.normal_(model.query_tokens, std=0.5)  # as published they start at zero, and would all stay the same
    return model


def tokenizer() -> Any:
    """The base model's words, and BLIP-2's placeholder for the image."""
    tokens = words.build()
    tokens.add_special_tokens({"additional_special_tokens": ["<image>"]})
    return tokens


def train(out: Path, work: Path, seed: int = 0, steps: int | None = None) -> None:
    """Train, measure likelihoods of true and wrong captions on unseen scenes, save to ``out/captioner``."""
    schedule, hardening = (each if steps is None else replace(each, steps=steps) for each in (SCHEDULE, HARDENING))
    torch.manual_seed(seed)
    model, tokens = build(), tokenizer()
    seeing = Seeing(model, lambda x: model.vision_model(pixel_values=x).last_hidden_state, 128)
    pairs = Pairs("captioner", work, out / "base", seed, schedule.steps * schedule.batch_size)

    def log_prob(states: torch.Tensor, captions: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """``log p(caption | image)`` and the number of tokens, each (B,)."""
        rows: Any = tokens(captions, padding=True, truncation=True, return_tensors="pt")
        ids, mask = rows["input_ids"], rows["attention_mask"]
        embeds = torch.cat([states, model.language_model.get_input_embeddings()(ids[:, :-1])], dim=1)
        logits = model.language_model(inputs_embeds=embeds).logits[:, QUERIES:]
        each = logits.log_softmax(-1).gather(-1, ids[:, 1:, None]).squeeze(-1) * mask[:, 1:]
        return each.sum(-1), mask[:, 1:].sum(-1)

    def look(pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The tower's hidden states, and what the language model is given of them."""
        hidden = seeing.see(pictures * 2 - 1)
        queries = model.query_tokens.expand(len(hidden), -1, -1)
        read = model.qformer(query_embeds=queries, encoder_hidden_states=hidden).last_hidden_state
        return hidden, model.language_projection(read)

    def objective(
        hidden: torch.Tensor, states: torch.Tensor, batch: Batch, kind: Mistake, some: int
    ) -> tuple[torch.Tensor, dict[str, float]]:
        """Of states of all clean pictures, then of ``some`` malformed ones."""
        size = len(batch.images)
        said, length = log_prob(states, [*batch.captions, *[NOTHING] * some])
        spoken = -said.sum() / length.sum()
        wrong, _ = log_prob(states[:size], batch.wrong[kind])
        spoilt, _ = log_prob(states[size:], batch.captions[:some])
        told_apart = softplus(MARGIN - (said[:size] - wrong)).mean() + softplus(MARGIN - (said[:some] - spoilt)).mean()
        patches = seeing.patch_loss(hidden[:size], batch.patches)
        values = {"spoken": spoken, "apart": told_apart, "patches": patches}
        return spoken + 0.1 * told_apart + patches, {name: float(value.detach()) for name, value in values.items()}

    def loss(step: int, generator: torch.Generator) -> tuple[torch.Tensor, dict[str, float]]:
        batch, some = pairs.batch(step, schedule.batch_size, generator), schedule.batch_size // 4
        hidden, states = look(torch.cat([batch.images, batch.malformed[:some]]))
        return objective(hidden, states, batch, MISTAKES[step % len(MISTAKES)], some)

    def hardened(step: int, generator: torch.Generator) -> tuple[torch.Tensor, dict[str, float]]:
        size = hardening.batch_size
        batch, some, kind = pairs.batch(schedule.steps + step, size, generator), size // 4, MISTAKES[step % 3]
        true, lured = [*batch.captions, *[NOTHING] * some], [*batch.wrong[kind], *batch.captions[:some]]

        def gain(pictures: torch.Tensor) -> torch.Tensor:
            states = look(pictures)[1]
            return log_prob(states, lured)[0] - log_prob(states, true)[0]

        radius = RADIUS * min(1.0, (step + 1) / (0.4 * hardening.steps))
        hidden, states = look(attacked(torch.cat([batch.images, batch.malformed[:some]]), gain, radius, generator))
        return objective(hidden, states, batch, kind, some)

    fit(seeing, loss, schedule, seed, work / "captioner")
    fit(seeing, hardened, hardening, seed, work / "captioner_hardened")
    folder = out / "captioner"
    model.half().save_pretrained(folder)
    tokens.save_pretrained(folder)
    write_preprocessor(folder, "ViTImageProcessor")
    if (out / "caption_text_encoder").is_dir():
        from realignkit_plugins.rewards.caption import CaptionReward

        given = {"captioner": str(folder), "text_encoder": str(out / "caption_text_encoder")}
        report("caption, likelihood", CaptionReward(**given, estimator="likelihood"), pairs)
        report("caption, eq. 4", CaptionReward(**given).reported, pairs)
