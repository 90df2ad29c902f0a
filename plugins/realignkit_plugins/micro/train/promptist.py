"""The prompt adapter: a tiny ``GPT2LMHeadModel``, taught as Promptist is: pairs of prompts, then a reward.

Hao et al., *Optimizing Prompts for Text-to-Image Generation*, NeurIPS 2023. The pairs are plain prompts and captions of
the same scene. The reward is what the base model draws of a rewriting, judged by the plain prompt. The paper climbs it
with PPO; here each batch of pictures serves one step, in which PPO's ratio is 1 and its clipping does nothing: what is
left is the policy gradient. The mean of a prompt's rewritings stands for PPO's value network, which a few hundred
pictures could not train, and the divergence from what the pairs taught keeps it near.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy, kl_div
from torch.nn.utils.rnn import pad_sequence
from transformers import GPT2Config, GPT2LMHeadModel, GPT2Tokenizer

from realignkit_plugins.generators.promptist import CUE, PromptistGenerator
from realignkit_plugins.micro.train.data import SCENE_SEEDS
from realignkit_plugins.micro.train.loop import Schedule, console, fit
from realignkit_plugins.micro.train.recipe import Recipe, save
from realignkit_plugins.micro.train.tokenizer import build_gpt2_tokenizer
from realignkit_plugins.micro.world import BACKGROUNDS, caption, phrases, plain, sample_scene
from realignkit_plugins.rewards.image_reward import ImageReward

REWRITINGS = 5
"""Of each prompt, drawn from the same noise."""
DRAWING_STEPS = 12
"""Half of what the embedded model is used with: enough to see what is missing."""
LONGEST = 32
"""Most tokens of a rewriting."""
DEPARTURE_COST = 2.0
"""What a thing left out or added costs, in units of the reward, which varies by about 1 between pictures."""
DIVERGENCE_COST = 0.05
"""What a nat of divergence from what the pairs taught costs, per rewriting."""


class PromptistRecipe(Recipe):
    """Plain prompts in the words of captions; then in those words that draw well."""

    name = "promptist"
    schedule = Schedule(steps=400, batch_size=64, learning_rate=3e-3, warmup=50, ema=0.99)
    rewarded = Schedule(steps=40, batch_size=4, learning_rate=1e-3, warmup=4, ema=0.9)

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.rewarded = self.shortened(self.rewarded)
        self.tokens = build_gpt2_tokenizer([CUE.removesuffix(":")])
        self.learner: GPT2LMHeadModel = build(self.tokens)

    def fit(self) -> None:
        """Twice: the reward goes on from the average of what the pairs taught."""
        super().fit()
        base, reward = self.out / "base", self.out / "image_reward"
        if missing := [str(folder) for folder in (base, reward) if not folder.is_dir()]:
            console.print(f"there is no {' and no '.join(missing)}: it learns from pairs alone")
            return
        from diffusers import StableDiffusionPipeline

        self.taught = deepcopy(self.learner).requires_grad_(False)
        self.pipeline = StableDiffusionPipeline.from_pretrained(base).to(dtype=torch.float32)
        self.pipeline.set_progress_bar_config(disable=True)
        self.judge = ImageReward(model=str(reward), device="cpu")
        fit(self.learner, self.reward_loss, self.rewarded, self.seed, self.work / "promptist_reward")

    def loss(self, step: int, generator: torch.Generator) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Cross-entropy of captions, given the plain prompts of their scenes."""
        rng = np.random.default_rng([SCENE_SEEDS["promptist"], self.seed, step])
        pairs = [pair(rng) for _ in range(self.schedule.batch_size)]
        ids, said = self.read([(self.cued(prompt), self.ended(text)) for prompt, text in pairs])
        return cross_entropy(logits_of(self.learner, ids)[said], ids[:, 1:][said]), {}

    def reward_loss(self, step: int, generator: torch.Generator) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The policy gradient: rewritings more likely by how much better than the prompt's others they are."""
        rng = np.random.default_rng([SCENE_SEEDS["promptist"], self.seed, 1, step])
        rows: list[tuple[list[int], list[int]]] = []
        rewards: list[torch.Tensor] = []
        for _ in range(self.rewarded.batch_size):
            scene = sample_scene(rng, count=int(rng.integers(2, 4)))
            prompt = plain(scene.things)
            cued = self.cued(prompt)
            samples = self.rewrite(cued)
            rows += [(cued, sample) for sample in samples]
            texts = [self.tokens.decode(sample, skip_special_tokens=True).strip() for sample in samples]
            rewards.append(self.rewards(prompt, texts, int(rng.integers(2**31))))
        gains = torch.cat([reward - reward.mean() for reward in rewards])
        ids, said = self.read(rows)
        logits = logits_of(self.learner, ids)
        likelihood = -(cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none") * said).sum(1)
        with torch.no_grad():
            before = logits_of(self.taught, ids)[said].log_softmax(-1)
        divergence = kl_div(before, logits[said].log_softmax(-1), log_target=True, reduction="sum") / len(rows)
        value = -(gains * likelihood).mean() + DIVERGENCE_COST * divergence
        return value, {"reward": torch.cat(rewards).mean(), "divergence": divergence}

    @torch.no_grad()
    def rewrite(self, cued: list[int]) -> list[list[int]]:
        """Samples of the policy: each its tokens, with the one that ends it (if it ends)."""
        end, given = self.tokens.eos_token_id, torch.tensor([cued])
        out = self.learner.generate(
            given,
            attention_mask=torch.ones_like(given),
            do_sample=True,
            top_k=0,
            num_return_sequences=REWRITINGS,
            max_new_tokens=LONGEST,
            eos_token_id=end,
            pad_token_id=end,
        )
        samples = out[:, len(cued) :].tolist()
        return [sample[: sample.index(end) + 1] if end in sample else sample for sample in samples]

    @torch.no_grad()
    def rewards(self, prompt: str, rewritings: Sequence[str], seed: int) -> torch.Tensor:
        """How well pictures of rewritings show the prompt, less what leaving it costs: float (rewritings,)."""
        distinct = list(dict.fromkeys(rewritings))
        pictures = self.pipeline(
            distinct,
            num_inference_steps=DRAWING_STEPS,
            guidance_scale=7.5,
            generator=[torch.Generator().manual_seed(seed) for _ in distinct],
            output_type="pt",
        ).images
        worth = self.judge.reported(pictures, [prompt] * len(distinct))
        worth -= DEPARTURE_COST * torch.tensor([departure(prompt, text) for text in distinct])
        return worth[[distinct.index(text) for text in rewritings]]

    def cued(self, prompt: str) -> list[int]:
        """Tokens of a prompt and of the cue behind it."""
        ids: list[int] = self.tokens(prompt + CUE)["input_ids"]
        return ids

    def ended(self, rewriting: str) -> list[int]:
        """Tokens of a rewriting, and of its end."""
        return [*self.tokens(f" {rewriting}")["input_ids"], self.tokens.eos_token_id]

    def read(self, rows: Sequence[tuple[list[int], list[int]]]) -> tuple[torch.Tensor, torch.Tensor]:
        """One sequence of each (cued prompt, rewriting), padded behind, which a causal network does not see.

        Returns:
            Token ids, int64 (B, L), and which of those behind the first are a rewriting's: bool (B, L - 1).
        """
        end = self.tokens.eos_token_id
        ids = [torch.tensor([*cued, *rewriting]) for cued, rewriting in rows]
        said = [torch.tensor([False] * (len(cued) - 1) + [True] * len(rewriting)) for cued, rewriting in rows]
        return pad_sequence(ids, batch_first=True, padding_value=end), pad_sequence(said, batch_first=True)

    def finish(self, folder: Path) -> None:
        """Save, then print what becomes of unseen prompts, as the plugin rewrites them."""
        save(self.learner, folder, self.tokens)
        adapter = PromptistGenerator(adapter=str(folder), device="cpu")
        rng, count = np.random.default_rng(SCENE_SEEDS["check"]), 200 if self.steps is None else 4
        prompts = [plain(sample_scene(rng, "all").things) for _ in range(count)]
        texts = [adapter.adapt(prompt) for prompt in prompts]
        same = np.mean([prompt == text for prompt, text in zip(prompts, texts, strict=True)])
        kept = np.mean([not departure(prompt, text) for prompt, text in zip(prompts, texts, strict=True)])
        console.print(f"of {count} unseen prompts {kept:.3f} are rewritten with all their things, {same:.3f} stay")


def build(tokens: GPT2Tokenizer) -> GPT2LMHeadModel:
    """A 3-layer GPT-2, 64 wide."""
    sizes = {"n_positions": 64, "n_embd": 64, "n_layer": 3, "n_head": 4}
    special = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), tokens.eos_token_id)
    dropout = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    return GPT2LMHeadModel(GPT2Config(vocab_size=len(tokens), **sizes, **special, **dropout))


def logits_of(network: GPT2LMHeadModel, ids: torch.Tensor) -> torch.Tensor:
    """Logits of every token behind the first: float (B, L - 1, vocabulary), of ids (B, L)."""
    logits: torch.Tensor = network(ids, attention_mask=torch.ones_like(ids)).logits
    return logits[:, :-1]


def pair(rng: np.random.Generator) -> tuple[str, str]:
    """A plain prompt and a caption of the same scene: in another order, with a relation or background as it comes."""
    scene = sample_scene(rng)
    shuffled = tuple(scene.things[i] for i in rng.permutation(len(scene.things)))
    return plain(shuffled), caption(scene, rng)


def departure(prompt: str, rewriting: str) -> int:
    """How many things a rewriting leaves out or adds, wrong and broken ones among them; backgrounds may come."""
    asked, said = (
        Counter(part for part in phrases(text) if part.split()[-1:] not in [[name] for name in BACKGROUNDS])
        for text in (prompt, rewriting)
    )
    return (asked - said).total() + (said - asked).total()
