"""The BLIP reward: a tiny ``BlipForImageTextRetrieval`` with both of its heads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy, logsigmoid, normalize
from transformers import BlipConfig, BlipForImageTextRetrieval

from realignkit_plugins.micro.train.loop import Schedule, fit
from realignkit_plugins.micro.train.patches import Seeing
from realignkit_plugins.micro.train.rewards import MAX_LENGTH, Mistake, Pairs, bert_words, report
from realignkit_plugins.micro.train.tagger import write_preprocessor
from realignkit_plugins.micro.train.words import Words

SCHEDULE = Schedule(steps=1300, batch_size=48, learning_rate=2.5e-3, warmup=100, ema=0.995)
TEMPERATURE = 0.07


def build() -> BlipForImageTextRetrieval:
    """A 4-layer vision transformer on 8 x 8 patches and a 3-layer text encoder that attends to it."""
    tokens = bert_words()
    text = {
        "vocab_size": len(tokens),
        "hidden_size": 96,
        "encoder_hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": MAX_LENGTH,
        "pad_token_id": tokens.pad_token_id,
        "sep_token_id": tokens.sep_token_id,
        "eos_token_id": tokens.sep_token_id,
        "bos_token_id": tokens.convert_tokens_to_ids("[DEC]"),
    }
    vision = {
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "image_size": 64,
        "patch_size": 8,
        "initializer_range": 0.02,  # the published default is 1e-10, for weights that are loaded
    }
    return BlipForImageTextRetrieval(BlipConfig(text_config=text, vision_config=vision, image_text_hidden_size=64))


def train(out: Path, work: Path, seed: int = 0, steps: int | None = None) -> None:
    """Train, measure both heads on unseen scenes, save to ``out/blip``."""
    schedule = SCHEDULE if steps is None else Schedule(**{**vars(SCHEDULE), "steps": steps})
    torch.manual_seed(seed)
    model, tokens = build(), bert_words()
    seeing = Seeing(model, lambda x: model.vision_model(pixel_values=x).last_hidden_state, 128)
    words = Words(96)
    pairs = Pairs("blip", work, out / "base", seed, schedule.steps * schedule.batch_size)

    def read(captions: list[str], seen: torch.Tensor | None = None) -> torch.Tensor:
        encoded: Any = tokens(captions, padding=True, truncation=True, return_tensors="pt")
        return model.text_encoder(
            input_ids=encoded["input_ids"], attention_mask=encoded["attention_mask"], encoder_hidden_states=seen
        ).last_hidden_state

    def loss(step: int, generator: torch.Generator) -> tuple[torch.Tensor, dict[str, float]]:
        batch, size = pairs.batch(step, schedule.batch_size, generator), schedule.batch_size
        seen, malformed = seeing.see(torch.cat([batch.images, batch.malformed]) * 2 - 1).chunk(2)
        second: Mistake = "replaced" if step % 2 else "missing"
        wrong = [*batch.wrong["swapped"], *batch.wrong[second]]
        # Matching: the pair, two wrong captions, another picture's caption, and a malformed picture.
        captions = [*batch.captions, *wrong, *batch.captions[1:], batch.captions[0], *batch.captions]
        hidden = read(captions, torch.cat([seen, seen, seen, seen, malformed]))
        logits = model.itm_head(hidden[:, 0])
        matches = torch.tensor([1, 0, 0, 0, 0]).repeat_interleave(size)
        # Four negatives to a positive: weigh them so that 0.5 stays the middle.
        itm = cross_entropy(logits, matches, torch.tensor([1 / 4, 1.0]))
        # And each pair before its own four spoilt ones: what is alike in all of a picture's captions drops out.
        better, *worse = (logits[:, 1] - logits[:, 0]).chunk(5)
        compared = -torch.stack([logsigmoid(better - each) for each in worse]).mean()
        true = words.loss(hidden, captions, [*batch.scenes * 4, *[None] * size])
        text = normalize(model.text_proj(read([*batch.captions, *wrong])[:, 0]), dim=-1)
        image = normalize(model.vision_proj(torch.cat([seen, malformed])[:, 0]), dim=-1)
        target = torch.arange(size)
        itc = cross_entropy(image[:size] @ text.T / TEMPERATURE, target)
        itc = itc + cross_entropy(text[:size] @ image.T / TEMPERATURE, target)
        # The own wrong captions alone: with a hundred others around, a swapped colour hardly counts.
        own = text.unflatten(0, (-1, size)).transpose(0, 1) @ image[:size, :, None] / TEMPERATURE
        itc = itc + cross_entropy(own.squeeze(-1), torch.zeros(size, dtype=torch.long))
        patches = seeing.patch_loss(seen, batch.patches)
        parts = {"itm": itm, "compared": compared, "itc": itc, "patches": patches, "words": true}
        total = itm + compared + 0.5 * itc + patches + true
        return total, {name: float(part.detach()) for name, part in parts.items()}

    fit(nn.ModuleList([seeing, words]), loss, schedule, seed, work / "blip")
    folder = out / "blip"
    model.half().save_pretrained(folder)
    tokens.save_pretrained(folder)
    write_preprocessor(folder, "ViTImageProcessor")
    from realignkit_plugins.rewards.blip import BLIPReward

    report("blip, itm", BLIPReward(model=str(folder)), pairs)
    report("blip, itc", BLIPReward(model=str(folder), head="itc"), pairs)
