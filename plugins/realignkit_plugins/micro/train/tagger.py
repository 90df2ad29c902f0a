"""The tagger: a small multi-label ResNet that names objects, extras and backgrounds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import binary_cross_entropy_with_logits
from transformers import ResNetConfig, ResNetForImageClassification

from realignkit_plugins.micro.train.augment import augment
from realignkit_plugins.micro.train.data import SCENE_SEEDS, images, scenes, to_tensor
from realignkit_plugins.micro.train.loop import Schedule, console, fit
from realignkit_plugins.micro.world import TAGS

SCHEDULE = Schedule(steps=1500, batch_size=48, learning_rate=4e-3, warmup=100, ema=0.995)
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


def train(out: Path, work: Path, seed: int = 0, steps: int | None = None) -> None:
    """Train, measure precision and recall on unseen scenes, save to ``out/tagger``."""
    schedule = SCHEDULE if steps is None else Schedule(**{**vars(SCHEDULE), "steps": steps})
    torch.manual_seed(seed)
    model = build()
    pixels = images(SCENE_SEEDS["tagger"], SCENES, "train", work / "cache")
    truth = targets(SCENE_SEEDS["tagger"], SCENES)

    def loss(step: int, generator: torch.Generator) -> tuple[torch.Tensor, dict[str, float]]:
        pick = torch.randint(SCENES, (schedule.batch_size,), generator=generator)
        x = augment(to_tensor(pixels[pick.numpy()]), generator)
        return binary_cross_entropy_with_logits(model(x * 2 - 1).logits, truth[pick]) * 10, {}

    fit(model, loss, schedule, seed, work / "tagger")
    with torch.no_grad():
        check = to_tensor(images(SCENE_SEEDS["check"], 1000)) * 2 - 1
        guess = torch.cat([model(part).logits.sigmoid() for part in check.split(100)]) > 0.5
    wanted = targets(SCENE_SEEDS["check"], 1000).bool()
    right = (guess & wanted).sum()
    console.print(f"unseen scenes: precision {right / guess.sum():.3f}, recall {right / wanted.sum():.3f}")
    model.half().save_pretrained(out / "tagger")
    write_preprocessor(out / "tagger", "ViTImageProcessor")


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
