"""The tagger: a small multi-label ResNet that names objects, extras and backgrounds."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import binary_cross_entropy_with_logits
from transformers import ResNetConfig, ResNetForImageClassification

from realignkit_plugins.micro.train.augment import augment
from realignkit_plugins.micro.train.data import SCENE_SEEDS, images, scenes, to_tensor
from realignkit_plugins.micro.train.loop import Schedule, console
from realignkit_plugins.micro.train.recipe import Recipe, save
from realignkit_plugins.micro.world import TAGS

SCENES = 16_000
MEAN = STD = [0.5, 0.5, 0.5]


def build() -> ResNetForImageClassification:
    """Basic blocks, 64 x 64 down to 4 x 4."""
    labels = dict(enumerate(TAGS))
    return ResNetForImageClassification(
        ResNetConfig(
            embedding_size=32,
            hidden_sizes=[32, 64, 128, 192],
            depths=[1, 1, 2, 1],
            layer_type="basic",
            id2label=labels,
            label2id={name: index for index, name in labels.items()},
            problem_type="multi_label_classification",
        )
    )


def targets(seed: int, count: int) -> torch.Tensor:
    """Which tags each scene deserves, float (count, tags)."""
    rows = [[tag in scene.tags for tag in TAGS] for scene in scenes(seed, count)]
    return torch.from_numpy(np.array(rows, np.float32))


def write_preprocessor(folder: Path, name: str) -> None:
    """Say how pictures become the model's input, in the file that ``transformers`` looks for."""
    config = {
        "image_processor_type": name,
        "do_resize": True,
        "size": {"height": 64, "width": 64},
        "resample": 2,
        "do_center_crop": False,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": MEAN,
        "image_std": STD,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(config, indent=2) + "\n")


class TaggerRecipe(Recipe):
    """Which tags a picture deserves, each on its own."""

    name = "tagger"
    schedule = Schedule(steps=1500, batch_size=48, learning_rate=4e-3, warmup=100, ema=0.995)

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.model = self.learner = build()
        self.pixels = images(SCENE_SEEDS["tagger"], SCENES, "train", self.work / "cache")
        self.truth = targets(SCENE_SEEDS["tagger"], SCENES)

    def loss(self, step: int, generator: torch.Generator) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Binary cross-entropy."""
        pick = torch.randint(SCENES, (self.schedule.batch_size,), generator=generator)
        x = augment(to_tensor(self.pixels[pick.numpy()]), generator)
        return binary_cross_entropy_with_logits(self.model(x * 2 - 1).logits, self.truth[pick]) * 10, {}

    def finish(self, folder: Path) -> None:
        """Say precision and recall on unseen scenes; save."""
        report_tags(lambda x: self.model(x * 2 - 1).logits)
        save(self.model, folder)
        write_preprocessor(folder, "ViTImageProcessor")


@torch.no_grad()
def report_tags(logits: Callable[[torch.Tensor], torch.Tensor], count: int = 1000) -> None:
    """Print precision and recall, of tags at a probability of 0.5, over scenes that no model was trained on.

    ``logits``: of pictures float (B, 3, H, W) in [0, 1], (B, tags).
    """
    check = to_tensor(images(SCENE_SEEDS["check"], count))
    guess = torch.cat([logits(part) for part in check.split(100)]) > 0
    wanted = targets(SCENE_SEEDS["check"], count).bool()
    right = float((guess & wanted).sum())
    precision, recall = right / max(float(guess.sum()), 1.0), right / float(wanted.sum())
    console.print(f"unseen scenes: precision {precision:.3f}, recall {recall:.3f}")
