"""What the recipes of the embedded rewards share: captions that are wrong in one thing, pictures that are malformed.

A reward is trained *against* (eq. 5 climbs it), so ranking clean pictures is not enough: the generator will find what
the reward has never seen. Hence negatives of three kinds of caption, and of five kinds of picture.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn.functional import grid_sample, interpolate
from transformers import BertTokenizer

from realignkit_plugins.micro.train.augment import augment
from realignkit_plugins.micro.train.data import SCENE_SEEDS, images, scenes, to_tensor
from realignkit_plugins.micro.train.loop import console
from realignkit_plugins.micro.train.patches import Seeing, all_labels
from realignkit_plugins.micro.train.recipe import Recipe, save
from realignkit_plugins.micro.train.tagger import write_preprocessor
from realignkit_plugins.micro.train.words import Words
from realignkit_plugins.micro.world import BACKGROUNDS, COLOURS, EXTRA_NOUNS, NOUNS, Scene, caption
from realignkit_plugins.micro.world.vocabulary import COUNTS, plural

SCENES = 16_000
Mistake = Literal["swapped", "replaced", "missing"]
MISTAKES: tuple[Mistake, ...] = ("swapped", "replaced", "missing")
GENERATED = 768
"""Pictures that the base model leaves unfinished, as examples of its own malformed shapes."""
MAX_LENGTH = 48
VISION = {
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "image_size": 64,
    "patch_size": 8,
    "initializer_range": 0.02,  # BLIP's published default is 1e-10, for weights that are loaded
}
"""The rewards' vision transformers: 4 layers on 8 x 8 patches."""
_GLUE = "a an the and of to left right above below in on with under photo picture one four ,"


@dataclass(frozen=True)
class Batch:
    """Pictures with captions.

    Attributes:
        images: clean ones, softened and tinted a little; float (B, 3, 64, 64) in [0, 1].
        malformed: the same scenes, or the same captions' scenes, spoilt.
        captions: true ones, in one of the world's forms.
        wrong: per kind of mistake, captions that are wrong in one thing.
        patches: what each patch of the clean ones shows; int64 (B, 2, patches).
        scenes: what the clean ones show.
    """

    images: torch.Tensor
    malformed: torch.Tensor
    captions: list[str]
    wrong: dict[Mistake, list[str]]
    patches: torch.Tensor
    scenes: list[Scene]


class Pairs:
    """Batches for one recipe; a step's randomness depends on (seed, step) alone.

    Args:
        name: the recipe's, for scenes of its own.
        work: where rendered scenes are kept.
        base: folder of the base model, for unfinished pictures; without it there are none, which is said.
        seed: of the recipe.
        seen: how many pictures the schedule will show; a short trial needs no more scenes than that.
    """

    def __init__(self, name: str, work: Path, base: Path, seed: int, seen: int = SCENES) -> None:
        count = min(SCENES, seen)
        self.seed, self.count = seed, count
        self.pixels = images(SCENE_SEEDS[name], count, "train", work / "cache")
        self.scenes = scenes(SCENE_SEEDS[name], count)
        self.patches = all_labels(SCENE_SEEDS[name], count, work / "cache")
        self.unfinished = unfinished(
            base, self.scenes, min(GENERATED, count), work / "cache" / f"unfinished-{name}.npy"
        )

    def batch(self, step: int, size: int, generator: torch.Generator) -> Batch:
        """Batch number ``step``."""
        rng = np.random.default_rng([self.seed, step])
        pick = rng.integers(self.count, size=size)
        chosen = [self.scenes[i] for i in pick]
        clean = to_tensor(self.pixels[pick])
        spoilt = malform(clean, clean[torch.from_numpy(rng.permutation(size))], rng)
        if self.unfinished is not None:
            replaced = [k for k, i in enumerate(pick) if i < len(self.unfinished) and rng.random() < 0.7]
            if replaced:
                spoilt[replaced] = to_tensor(self.unfinished[pick[replaced]])
        return Batch(
            augment(clean, generator),
            augment(spoilt, generator),
            [caption(scene, rng) for scene in chosen],
            {kind: [caption(mistaken(scene, kind, rng), rng) for scene in chosen] for kind in MISTAKES},
            torch.from_numpy(self.patches[pick]).long(),
            chosen,
        )


def mistaken(scene: Scene, kind: Mistake, rng: np.random.Generator) -> Scene:
    """A scene that differs in one thing: a caption of it is wrong for the picture of the first.

    - ``swapped``: two things have each other's colour; where there are no two, one has another colour;
    - ``replaced``: one thing is another, in the same colour;
    - ``missing``: there is a further thing, which the picture lacks.
    """
    things = list(scene.things)
    first = int(rng.integers(len(things)))
    thing = things[first]
    absent = str(rng.choice([noun for noun in NOUNS if noun not in scene.tags]))
    if kind == "missing":
        further = replace(thing, noun=absent, colour=str(rng.choice(tuple(COLOURS))))
        return replace(scene, things=(*things, further) if rng.random() < 0.5 else (further, *things))
    if kind == "replaced":
        things[first] = replace(thing, noun=absent)
        return replace(scene, things=tuple(things))
    partners = [i for i, t in enumerate(things) if t.colour != thing.colour and t.noun != thing.noun]
    if partners:
        second = int(rng.choice(partners))
        things[first], things[second] = (
            replace(thing, colour=things[second].colour),
            replace(things[second], colour=thing.colour),
        )
    else:
        # Of two equal things, both: "two red birds" is still wrong for two blue ones, not for a red and a blue one.
        colour = str(rng.choice([c for c in COLOURS if c not in {t.colour for t in things}]))
        same = (thing.noun, thing.colour)
        things = [replace(t, colour=colour) if (t.noun, t.colour) == same else t for t in things]
    return replace(scene, things=tuple(things))


def malform(x: torch.Tensor, others: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Spoil each picture so that its caption no longer holds: blended, warped, blurred, or patched with another.

    Args:
        x: float (B, 3, H, W) in [0, 1].
        others: as many other pictures.
        rng: chooses kind and strength.
    """
    kinds = rng.integers(4, size=len(x))
    spoilt = x.clone()
    for kind, spoil in enumerate((_blend, _warp, _blur, _patch)):
        rows = torch.from_numpy(np.flatnonzero(kinds == kind))
        if len(rows):
            spoilt[rows] = spoil(x[rows], others[rows], rng)
    return spoilt


def _blend(x: torch.Tensor, others: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    weight = torch.from_numpy(rng.uniform(0.4, 0.65, (len(x), 1, 1, 1)).astype(np.float32))
    return torch.lerp(x, others, weight)


def _warp(x: torch.Tensor, others: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    size = x.shape[-1]
    coarse = torch.from_numpy(rng.normal(0, 0.32, (len(x), 2, 7, 7)).astype(np.float32))
    shift = interpolate(coarse, (size, size), mode="bicubic", align_corners=True).permute(0, 2, 3, 1)
    line = torch.linspace(-1, 1, size)
    grid = torch.stack(torch.meshgrid(line, line, indexing="xy"), -1)
    return grid_sample(x, grid + shift, padding_mode="reflection", align_corners=True)


def _blur(x: torch.Tensor, others: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    small = int(rng.integers(5, 10))
    return interpolate(interpolate(x, (small, small), mode="area"), x.shape[-2:], mode="bicubic").clamp(0, 1)


def _patch(x: torch.Tensor, others: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Half of the tiles are another picture's."""
    tiles = torch.from_numpy((rng.random((len(x), 1, 5, 5)) < 0.5).astype(np.float32))
    return torch.lerp(x, others, interpolate(tiles, x.shape[-2:], mode="nearest"))


@torch.no_grad()
def unfinished(base: Path, described: tuple[Scene, ...], count: int, cache: Path) -> npt.NDArray[np.uint8] | None:
    """Pictures for the first ``count`` scenes' captions by the base model in three steps without guidance.

    That is far too little for it: shapes are molten and merged. uint8 (count, H, W, 3), kept in ``cache``; None
    without a base model.
    """
    if cache.exists():
        kept: npt.NDArray[np.uint8] = np.load(cache)
        if len(kept) >= count:
            return kept[:count]
    if not (base / "model_index.json").is_file():
        console.print(f"no base model in {base}: malformed pictures are blends, warps, blurs and patches only")
        return None
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(base).to(dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    rng, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
    parts = []
    for start in range(0, count, 64):
        prompts = [caption(scene, rng) for scene in described[start : min(start + 64, count)]]
        made = pipeline(
            prompts, num_inference_steps=3, guidance_scale=1.0, generator=generator, output_type="np"
        ).images
        parts.append((made * 255).round().astype(np.uint8))
    cache.parent.mkdir(parents=True, exist_ok=True)
    np.save(cache, np.concatenate(parts))
    return np.concatenate(parts)


def bert_words(further: Iterable[str] = ()) -> BertTokenizer:
    """One token per word of the world, and of ``further``, in BERT's format, with BLIP's two further tokens."""
    words = {*COLOURS, *COUNTS.values(), *EXTRA_NOUNS, *BACKGROUNDS, *_GLUE.split(), *further}
    words |= {form for noun in NOUNS for form in (noun, plural(noun))}
    entries = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *sorted(words), "[DEC]", "[ENC]"]
    return BertTokenizer(vocab={word: i for i, word in enumerate(entries)}, model_max_length=MAX_LENGTH)


@torch.no_grad()
def accuracy(reward: Callable[[torch.Tensor, list[str]], Any], count: int = 500) -> dict[str, float]:
    """How often a reward prefers the true caption to one with a mistake, and the picture to a malformed one.

    On ``count`` unseen scenes of all colour-noun pairs with two things of different colours. Chance is 0.5.
    """
    rng = np.random.default_rng(5)
    everything = scenes(SCENE_SEEDS["check"], 4 * count, "all")
    fit = [
        i for i, s in enumerate(everything) if len({t.colour for t in s.things}) > 1 < len({t.noun for t in s.things})
    ]
    pixels = to_tensor(images(SCENE_SEEDS["check"], 4 * count, "all")[fit[:count]])
    chosen = [everything[i] for i in fit[:count]]
    texts = [caption(scene, rng) for scene in chosen]

    def scores(x: torch.Tensor, captions: list[str]) -> torch.Tensor:
        parts = [reward(x[i : i + 50], captions[i : i + 50]) for i in range(0, len(x), 50)]
        return torch.cat(parts)

    true = scores(pixels, texts)
    results: dict[str, float] = {}
    for kind in MISTAKES:
        wrong = [caption(mistaken(scene, kind, rng), rng) for scene in chosen]
        results[kind] = float((true > scores(pixels, wrong)).float().mean())
    spoilt = malform(pixels, pixels.roll(1, 0), rng)
    results["malformed"] = float((true > scores(spoilt, texts)).float().mean())
    return results


class RewardRecipe(Recipe):
    """A reward's: pictures with true and wrong captions, judged by a network whose vision tower reads its patches.

    A child says what is built, what the tower is, what a batch is worth, and which plugins judge what was saved.

    Attributes:
        taught_words: whether every word of a caption is judged too (:class:`Words`).
    """

    taught_words: ClassVar[bool] = False

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.model, self.tokens = self.build(), self.tokenizer()
        self.learner = self.seeing = Seeing(self.model, self.tower, 128)
        if self.taught_words:
            self.words = Words(96)
            self.learner = nn.ModuleList([self.seeing, self.words])
        seen = self.schedule.steps * self.schedule.batch_size
        self.pairs = Pairs(self.name, self.work, self.out / "base", self.seed, seen)

    @abstractmethod
    def build(self) -> Any:
        """A fresh network."""

    def tokenizer(self) -> Any:
        """What reads captions for it."""
        return bert_words()

    def tower(self, pixels: torch.Tensor) -> torch.Tensor:
        """Hidden states (B, 1 + patches, 128) of its own pixel values, the class token first."""
        hidden: torch.Tensor = self.model.vision_model(pixel_values=pixels).last_hidden_state
        return hidden

    def read(self, captions: list[str], **how: Any) -> Any:
        """Token ids and mask of captions."""
        return self.tokens(captions, return_tensors="pt", truncation=True, **{"padding": True, **how})

    def loss(self, step: int, generator: torch.Generator) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Of the step's batch."""
        return self.objective(self.pairs.batch(step, self.schedule.batch_size, generator), step)

    @abstractmethod
    def objective(self, batch: Batch, step: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """What to minimise, and what of it the log shows."""

    @abstractmethod
    def judges(self, folder: Path) -> Mapping[str, Callable[[torch.Tensor, list[str]], Any]]:
        """The rewards that read what was saved, by what the report calls them."""

    def save(self, folder: Path) -> None:
        """The network, its tokenizer, and how pictures become its input."""
        save(self.model, folder, self.tokens)
        write_preprocessor(folder, "ViTImageProcessor")

    def finish(self, folder: Path) -> None:
        """Save, then print :func:`accuracy` as the plugins see it (after a short trial, on fewer scenes)."""
        self.save(folder)
        for name, reward in self.judges(folder).items():
            results = accuracy(reward, min(500, self.pairs.count))
            shown = ", ".join(f"{kind} {value:.3f}" for kind, value in results.items())
            console.print(f"{name}, unseen scenes, true preferred: {shown}")
