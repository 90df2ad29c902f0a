"""The caption reward's text encoder (``f_enc``): BLIP-2's text branch, taught which captions mean the same."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, normalize
from transformers import Blip2Config, Blip2TextModelWithProjection

from realignkit_plugins.micro.train.data import SCENE_SEEDS, scenes
from realignkit_plugins.micro.train.loop import Schedule, console
from realignkit_plugins.micro.train.recipe import Recipe, save
from realignkit_plugins.micro.train.rewards import MAX_LENGTH, MISTAKES, SCENES, bert_words, mistaken
from realignkit_plugins.micro.world import COLOURS, NOUNS, Scene, caption

WRONG_COLOUR = 0.3
"""What an object in the wrong colour is worth, compared with the right one."""
_PAIRS = {pair: i for i, pair in enumerate(itertools.product(NOUNS, COLOURS))}


def build() -> Blip2TextModelWithProjection:
    """A 3-layer Q-Former read as a text encoder."""
    tokens = bert_words()
    q_former = {
        "vocab_size": len(tokens),
        "hidden_size": 96,
        "encoder_hidden_size": 96,
        "intermediate_size": 256,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": MAX_LENGTH,
        "pad_token_id": tokens.pad_token_id,
        "cross_attention_frequency": 4,
        "use_qformer_text_input": True,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }
    # The vision and language parts are not this model's; small, so that its configuration says nothing untrue of them.
    other = {"vision_config": {"image_size": 64, "patch_size": 8}, "text_config": {"model_type": "opt"}}
    return Blip2TextModelWithProjection(Blip2Config(qformer_config=q_former, image_text_hidden_size=64, **other))


def _held(scene: Scene) -> torch.Tensor:
    """Which of all pairs a scene has, float (pairs,)."""
    held = torch.zeros(len(_PAIRS))
    held[[_PAIRS[thing.noun, str(thing.colour)] for thing in scene.things]] = 1
    return held


def similarity(first: Scene, second: Scene) -> float:
    """How much of two scenes is the same, in [0, 1]: objects one by one, a wrong colour counting little."""
    left = [(thing.noun, thing.colour) for thing in second.things]
    total = 0.0
    waiting: list[str] = []
    for thing in first.things:
        if (thing.noun, thing.colour) in left:
            left.remove((thing.noun, thing.colour))
            total += 1
        else:
            waiting.append(thing.noun)
    nouns: Sequence[str] = [noun for noun, _ in left]
    total += WRONG_COLOUR * sum(min(waiting.count(noun), nouns.count(noun)) for noun in set(waiting))
    return total / max(len(first.things), len(second.things))


def _variant(scene: Scene, rng: np.random.Generator) -> Scene:
    if rng.random() < 0.5:
        scene = mistaken(scene, MISTAKES[int(rng.integers(len(MISTAKES)))], rng)
    return _shuffled(scene, rng)


def _shuffled(scene: Scene, rng: np.random.Generator) -> Scene:
    """The same things, named in another order."""
    return replace(scene, things=tuple(scene.things[i] for i in rng.permutation(len(scene.things))))


class TextEncoderRecipe(Recipe):
    """Which captions mean the same, on text alone."""

    name = "caption_text_encoder"
    schedule = Schedule(steps=2000, batch_size=48, learning_rate=3e-3, warmup=100, ema=0.995)

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.model, self.tokens = build(), bert_words()
        count = min(SCENES, self.schedule.steps * self.schedule.batch_size)  # a short trial sees no more
        self.described = scenes(SCENE_SEEDS["captioner"], count)
        self.named = nn.Linear(self.model.config.image_text_hidden_size, len(_PAIRS))
        nn.init.constant_(self.named.bias, -4.0)  # a scene has two of 275
        self.learner = nn.ModuleList([self.model, self.named])

    def features(self, texts: list[str]) -> torch.Tensor:
        """Unit vectors (B, D)."""
        read: Any = self.tokens(texts, padding=True, truncation=True, return_tensors="pt")
        embedded = self.model(input_ids=read["input_ids"], attention_mask=read["attention_mask"]).text_embeds[:, 0]
        return normalize(embedded, dim=-1)

    def loss(self, step: int, generator: torch.Generator) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Cosines against :func:`similarity`, and which pairs of colour and noun a caption has."""
        rng = np.random.default_rng([self.seed, step])
        asked = [self.described[i] for i in rng.integers(len(self.described), size=self.schedule.batch_size)]
        # Half of the captions are of the scene in other words, half are of one with a mistake.
        said = [_variant(scene, rng) for scene in asked]
        meant = self.features([caption(scene, rng) for scene in asked])
        other = self.features([caption(scene, rng) for scene in said])
        target = torch.tensor([[similarity(a, b) for b in said] for a in asked])
        error = (meant @ other.T - target).square()
        paired = error.diagonal().mean()
        # Similarities alone leave a bag of words: which colour is whose must be in the embedding.
        pairs = binary_cross_entropy_with_logits(
            self.named(8 * torch.cat([meant, other])), torch.stack([_held(scene) for scene in [*asked, *said]])
        ) * (len(_PAIRS) / 10)
        return paired + error.mean() + pairs, {"paired": paired, "pairs": pairs}

    @torch.no_grad()
    def finish(self, folder: Path) -> None:
        """Say how often other words are nearer than a mistake, on unseen captions; save."""
        rng = np.random.default_rng(9)
        check = scenes(SCENE_SEEDS["check"], 500, "all")
        plain = self.features([caption(scene, rng) for scene in check])
        same = (plain * self.features([caption(_shuffled(scene, rng), rng) for scene in check])).sum(-1)
        for kind in MISTAKES:
            wrong = (plain * self.features([caption(mistaken(scene, kind, rng), rng) for scene in check])).sum(-1)
            console.print(f"other words beat '{kind}' on {float((same > wrong).float().mean()):.3f} of unseen captions")
        save(self.model, folder, self.tokens)
