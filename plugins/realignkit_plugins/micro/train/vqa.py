"""The question answerer: a tiny ``BlipForQuestionAnswering``, taught the world's own questions.

It learns from renderings and from renderings that the base model has drawn over, whose shapes are as soft and as odd as
its own while what they show is still known; and that nothing is there in pictures that it left unfinished.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import nn
from torch.nn.functional import cross_entropy
from transformers import BlipConfig, BlipForQuestionAnswering

from realignkit_plugins.micro.train.augment import augment
from realignkit_plugins.micro.train.data import SCENE_SEEDS, to_tensor
from realignkit_plugins.micro.train.loop import Schedule, console, fit
from realignkit_plugins.micro.train.patches import Seeing, labels
from realignkit_plugins.micro.train.recipe import Recipe, save
from realignkit_plugins.micro.train.rewards import (
    MAX_LENGTH,
    MISTAKES,
    VISION,
    bert_words,
    malform,
    mistaken,
    unfinished,
)
from realignkit_plugins.micro.train.tagger import write_preprocessor
from realignkit_plugins.micro.train.words import Words
from realignkit_plugins.micro.world import Scene, caption, render
from realignkit_plugins.micro.world.questions import KINDS, Question, about_caption, ask, words
from realignkit_plugins.micro.world.scenes import compose, sample_scene

WIDTH = 128
"""Of the hidden states that questions and pictures have in common."""
REDRAWN = 384
"""Renderings that the base model draws over."""
_SPOILT = 8
"""Of so many pictures one is malformed."""
_OFTEN = ("there", "coloured", "colour", "count", "relation", "where", "there", "colour", "what", "background")
"""Of which kinds short questions are, by how often."""
SHORT = 3
"""Short questions about each picture; one about a caption comes to every second."""


def question_scene(rng: np.random.Generator) -> Scene:
    """A training scene, in which the same thing comes several times more often than in the world's own."""
    drawn = sample_scene(rng)
    if rng.random() < 0.7:
        return drawn
    pairs = [(thing.noun, str(thing.colour)) for thing in drawn.things]
    pairs = [pairs[0]] * (2 + int(rng.random() < 0.5)) if rng.random() < 0.6 else [*pairs[:2], pairs[0]]
    return compose(rng, pairs)


@dataclass(frozen=True)
class Asked:
    """Pictures with questions.

    Attributes:
        images: float (B, 3, 64, 64) in [0, 1], the last of them malformed.
        scenes: what they show; None for a malformed one.
        patches: of the others, what each patch shows; int64 (B - malformed, 2, patches).
        rows: per question, whose picture it is about.
        questions: short ones first, each picture's in turn; then one about a caption for every second picture.
    """

    images: torch.Tensor
    scenes: list[Scene | None]
    patches: torch.Tensor
    rows: list[int]
    questions: list[Question]


class VQARecipe(Recipe):
    """Short answers to questions, word by word."""

    name = "vqa"
    schedule = Schedule(steps=900, batch_size=32, learning_rate=3e-3, warmup=100, ema=0.995)
    further = Schedule(steps=1300, batch_size=32, learning_rate=2.5e-3, warmup=50, ema=0.995)

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.further = self.shortened(self.further)
        self.tokens = bert_words(words())
        self.model = build(self.tokens)
        heed_padding(self.model)
        self.seeing, self.words = Seeing(self.model, self.tower, WIDTH), Words(WIDTH)
        self.learner = nn.ModuleList([self.seeing, self.words])
        count = min(REDRAWN, self.schedule.steps * self.schedule.batch_size)
        rng = np.random.default_rng([SCENE_SEEDS["vqa"], self.seed])
        self.drawn_over = tuple(question_scene(rng) for _ in range(count))
        cache, base = self.work / "cache", self.out / "base"
        self.redrawn = redrawn(base, self.drawn_over, cache / "redrawn.npy")
        self.unfinished = unfinished(base, self.drawn_over, count // 2, cache / "unfinished-vqa.npy")

    def fit(self) -> None:
        """Twice: a second, longer training goes on from the average of the first."""
        super().fit()
        fit(self.learner, self.further_loss, self.further, self.seed, self.work / "vqa_further")

    def further_loss(self, step: int, generator: torch.Generator) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The same of batches that come after the first training's."""
        return self.loss(self.schedule.steps + step, generator)

    def tower(self, pixels: torch.Tensor) -> torch.Tensor:
        """Hidden states (B, 1 + patches, 128)."""
        hidden: torch.Tensor = self.model.vision_model(pixel_values=pixels).last_hidden_state
        return hidden

    def batch(self, step: int, size: int, generator: torch.Generator) -> Asked:
        """Batch number ``step``."""
        rng = np.random.default_rng([SCENE_SEEDS["vqa"], self.seed, 1 + step])
        malformed = size // _SPOILT
        over = 0 if self.redrawn is None else (size - malformed) // 3
        pick = rng.integers(len(self.drawn_over), size=over)
        scenes = [self.drawn_over[i] for i in pick]
        scenes += [question_scene(rng) for _ in range(size - malformed - over)]
        pictures = [to_tensor(np.stack([render(scene).image for scene in scenes[over:]]))]
        if self.redrawn is not None:
            pictures = [to_tensor(self.redrawn[pick]), *pictures]
        clean = torch.cat(pictures)
        spoilt_scenes = [question_scene(rng) for _ in range(malformed)]
        spoilt = malform(to_tensor(np.stack([render(scene).image for scene in spoilt_scenes])), clean[-malformed:], rng)
        if self.unfinished is not None:
            pick = rng.integers(len(self.unfinished), size=malformed)
            spoilt[::2] = to_tensor(self.unfinished[pick])[::2]
            spoilt_scenes[::2] = [self.drawn_over[i] for i in pick[::2]]
        shown: list[Scene | None] = [*scenes, *[None] * malformed]
        short = [questions_about(s, t, SHORT, rng) for s, t in zip(shown, [*scenes, *spoilt_scenes], strict=True)]
        long = [captioned(s, t, rng) for s, t in zip(shown[::2], [*scenes, *spoilt_scenes][::2], strict=True)]
        rows = [row for row, asked in enumerate(short) for _ in asked]
        return Asked(
            augment(torch.cat([clean, spoilt]), generator),
            shown,
            torch.from_numpy(np.stack([labels(scene) for scene in scenes])).long(),
            [*rows, *range(0, size, 2)],
            [*(question for asked in short for question in asked), *long],
        )

    def loss(self, step: int, generator: torch.Generator) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Cross-entropy of the answers, of what the patches show, and of which words of the questions are true."""
        batch = self.batch(step, self.schedule.batch_size, generator)
        seen = self.seeing.see(batch.images * 2 - 1)
        short, total = SHORT * len(batch.images), torch.zeros(())
        parts: dict[str, torch.Tensor] = {}
        # Captions are three times as long: each sort is padded to its own length.
        for name, part in (("short", slice(0, short)), ("captions", slice(short, None))):
            rows, questions = batch.rows[part], batch.questions[part]
            texts = [spaced(question.text) for question in questions]
            read = self.tokens(texts, padding=True, truncation=True, return_tensors="pt")
            with torch.autocast("cpu", torch.bfloat16):
                hidden = self.model.text_encoder(
                    input_ids=read["input_ids"],
                    attention_mask=read["attention_mask"],
                    encoder_hidden_states=seen[rows],
                ).last_hidden_state
                said = self.tokens([question.answer for question in questions], padding=True, return_tensors="pt")
                ids = said["input_ids"]
                ids[:, 0] = self.model.decoder_start_token_id
                logits = self.model.text_decoder(
                    input_ids=ids[:, :-1],
                    encoder_hidden_states=hidden,
                    encoder_attention_mask=read["attention_mask"],
                ).logits
            ignored = ids[:, 1:].masked_fill(ids[:, 1:] == self.tokens.pad_token_id, -100)
            answered = cross_entropy(logits.float().flatten(0, 1), ignored.flatten()) * 2
            true = self.words.loss(hidden.float(), texts, [batch.scenes[row] for row in rows])
            total = total + answered + true
            parts |= {name: answered, f"{name}_words": true}
        patches = self.seeing.patch_loss(seen[: len(batch.patches)], batch.patches)
        return total + patches, {**parts, "patches": patches}

    def finish(self, folder: Path) -> None:
        """Save, then print the share of right answers by kind on unseen scenes, as the plugin gives them."""
        save(self.model, folder, self.tokens)
        write_preprocessor(folder, "BlipImageProcessor")
        for kind, (right, count) in accuracy(str(folder), 300 if self.steps is None else 30).items():
            console.print(f"{kind}: {right / count:.3f} of {count} questions about unseen scenes")


def build(tokens: Any) -> BlipForQuestionAnswering:
    """A 4-layer vision transformer on 8 x 8 patches, and 3 layers each to read questions and to speak."""
    text = {
        "vocab_size": len(tokens),
        "hidden_size": WIDTH,
        "encoder_hidden_size": WIDTH,
        "intermediate_size": VISION["intermediate_size"],
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": MAX_LENGTH,
        "pad_token_id": tokens.pad_token_id,
        "sep_token_id": tokens.sep_token_id,
        "eos_token_id": tokens.sep_token_id,
        "bos_token_id": tokens.convert_tokens_to_ids("[DEC]"),
    }
    return BlipForQuestionAnswering(BlipConfig(text_config=text, vision_config=VISION))


def heed_padding(model: BlipForQuestionAnswering) -> None:
    """Hide the padding of questions from the decoder: transformers' BLIP loses the mask on the way to its attention."""

    def hand_on(module: nn.Module, arguments: Any, given: dict[str, Any]) -> Any:
        return arguments, {**given, "encoder_attention_mask": given["attention_mask"]}

    for layer in model.text_decoder.bert.encoder.layer:
        layer.crossattention.self.register_forward_pre_hook(hand_on, with_kwargs=True)


def spaced(text: str) -> str:
    """A text with blanks between all its tokens, so that they can be counted."""
    return " ".join(re.findall(r"\w+|[^\w\s]", text))


def questions_about(shown: Scene | None, scene: Scene, count: int, rng: np.random.Generator) -> list[Question]:
    """Short questions about a picture; of a malformed one nothing is true that ``scene`` says.

    About one in six asks for an answer in one word, as benchmarks do.
    """
    asked: list[Question] = []
    while len(asked) < count:
        kind = ("there", "coloured")[int(rng.integers(2))] if shown is None else str(rng.choice(_OFTEN))
        question = ask(scene, kind, rng)
        if question is not None:
            asked.append(question if shown else replace(question, answer="no"))
    return [replace(q, text=f"{q.text} answer in one word.") if rng.random() < 0.15 else q for q in asked]


def captioned(shown: Scene | None, scene: Scene, rng: np.random.Generator) -> Question:
    """Whether a picture shows a caption, which half of the time has a mistake."""
    if shown is None:
        return replace(about_caption(scene, scene, rng), answer="no")
    wrong = rng.random() < 0.5
    return about_caption(scene, mistaken(scene, MISTAKES[int(rng.integers(3))], rng) if wrong else scene, rng)


@torch.no_grad()
def redrawn(base: Path, described: Sequence[Scene], cache: Path) -> npt.NDArray[np.uint8] | None:
    """Renderings half drowned in noise, from which the base model draws again: uint8 (scenes, H, W, 3).

    Objects, colours and places stay; shapes and textures become its own. Kept in ``cache``; None without a base model.
    """
    if cache.exists():
        kept: npt.NDArray[np.uint8] = np.load(cache)
        if len(kept) == len(described):
            return kept
    if not (base / "model_index.json").is_file():
        console.print(f"no base model in {base}: it learns from renderings alone")
        return None
    from diffusers import StableDiffusionImg2ImgPipeline

    pipeline = StableDiffusionImg2ImgPipeline.from_pretrained(base, torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    rng, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
    parts = []
    for start in range(0, len(described), 64):
        scenes = described[start : start + 64]
        made = pipeline(
            [caption(scene, rng) for scene in scenes],
            image=[Image.fromarray(render(scene).image) for scene in scenes],
            strength=0.5,
            num_inference_steps=16,
            guidance_scale=1.0,
            generator=generator,
            output_type="np",
        ).images
        parts.append((made * 255).round().astype(np.uint8))
        console.print(f"drawn over {min(start + 64, len(described))} of {len(described)}")
    cache.parent.mkdir(parents=True, exist_ok=True)
    np.save(cache, np.concatenate(parts))
    return np.concatenate(parts)


def accuracy(model: str, count: int = 300) -> dict[str, tuple[int, int]]:
    """Per kind of question, how many answers are right and how many were asked, about ``count`` unseen scenes."""
    from realignkit_plugins.vqa.blip import BlipVQA

    rng = np.random.default_rng(SCENE_SEEDS["check"])
    scenes = [sample_scene(rng, "all") if number % 3 else question_scene(rng) for number in range(count)]
    images = [Image.fromarray(render(scene).image) for scene in scenes]
    asked = [(image, question) for image, scene in zip(images, scenes, strict=True) for question in each(scene, rng)]
    answers = BlipVQA(model=model)([image for image, _ in asked], [question.text for _, question in asked])
    right, total = Counter[str](), Counter[str]()
    for (_, question), answer in zip(asked, answers, strict=True):
        total[question.kind] += 1
        right[question.kind] += answer == question.answer
    return {kind: (right[kind], total[kind]) for kind in KINDS if total[kind]}


def each(scene: Scene, rng: np.random.Generator) -> list[Question]:
    """A question of every kind that can be asked about a scene."""
    asked = [ask(scene, kind, rng) for kind in KINDS[:-1]]
    return [*(question for question in asked if question), captioned(scene, scene, rng)]
