"""The oracle's recipe: its own scenes, degraded, and cut-and-paste monsters that must not count as objects."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch.nn.functional import avg_pool2d, cross_entropy, interpolate

from realignkit_plugins.micro.oracle import STRIDE, Oracle, fully_right
from realignkit_plugins.micro.train.data import SCENE_SEEDS, images, scenes, to_tensor
from realignkit_plugins.micro.train.loop import Schedule, console
from realignkit_plugins.micro.train.recipe import Recipe
from realignkit_plugins.micro.world import COLOURS, NOUNS, Scene, caption

SCENES = 20_000
_COLOURS = tuple(COLOURS)


class OracleRecipe(Recipe):
    """Where the centre of each object is, and its colour."""

    name = "oracle"
    schedule = Schedule(steps=1800, batch_size=32, learning_rate=4e-3, warmup=100, ema=0.995)

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.model = self.learner = Oracle()
        self.pixels = images(SCENE_SEEDS["oracle"], SCENES, "all", self.work / "cache")
        self.truths = scenes(SCENE_SEEDS["oracle"], SCENES, "all")

    def loss(self, step: int, generator: torch.Generator) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """CornerNet's focal loss of the centres, in which cells near one count less; cross-entropy of the colours."""
        rng = np.random.default_rng([self.seed, step])
        pick = rng.integers(SCENES, size=self.schedule.batch_size)
        batch, targets = _batch(self.pixels, self.truths, pick, rng)
        centres, colours = self.model(degrade(to_tensor(batch), generator))
        heat, colour = (torch.from_numpy(t) for t in targets)
        probability = centres.sigmoid().clamp(1e-5, 1 - 1e-5)
        positive = heat == 1
        hit = -(1 - probability[positive]).square() * probability[positive].log()
        miss = -((1 - heat).pow(4) * probability.square() * (1 - probability).log())[~positive]
        heatmap_loss = (hit.sum() + miss.sum()) / positive.sum().clamp(min=1)
        hue = cross_entropy(colours, colour, ignore_index=-1)
        return heatmap_loss + hue, {"centres": heatmap_loss, "colours": hue}

    def finish(self, folder: Path) -> None:
        """Say how often it is right about unseen scenes of all pairs; save."""
        check, rendered = scenes(SCENE_SEEDS["check"], 2000, "all"), images(SCENE_SEEDS["check"], 2000, "all")
        verdicts = self.model.detect([Image.fromarray(image) for image in rendered])
        rng = np.random.default_rng(0)
        right = [fully_right(caption(s, rng), found) for s, found in zip(check, verdicts, strict=True)]
        console.print(f"fully right on 2000 unseen renderings: {np.mean(right):.3f}")
        self.model.save(folder)


def _batch(
    pixels: npt.NDArray[np.uint8], truths: tuple[Scene, ...], pick: npt.NDArray[np.int64], rng: np.random.Generator
) -> tuple[npt.NDArray[np.uint8], tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]]:
    """Images and their targets: centre heat (B, nouns, h, w) in [0, 1], colour index (B, h, w), -1 where none."""
    batch = pixels[pick].copy()
    size = batch.shape[1] // STRIDE
    heat = np.zeros((len(pick), len(NOUNS), size, size), np.float32)
    colour = np.full((len(pick), size, size), -1, np.int64)
    rows, columns = np.mgrid[:size, :size]
    for i, index in enumerate(pick):
        for thing in truths[index].things:
            left, top, right, bottom = thing.box
            if rng.random() < 0.15:
                _spoil(batch[i], thing.box, pixels[rng.integers(len(pixels))], rng)
                continue
            x, y = (int(c / STRIDE) for c in thing.centre)
            spread = max(right - left, bottom - top) / STRIDE / 5
            blob = np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / (2 * spread**2)).astype(np.float32)
            channel = heat[i, NOUNS.index(thing.noun)]
            np.maximum(channel, blob, out=channel)
            channel[y, x] = 1.0
            near = np.abs(rows - y) + np.abs(columns - x) <= 1
            colour[i][near] = _COLOURS.index(thing.colour)  # type: ignore[arg-type]
    return batch, (heat, colour)


def _spoil(
    image: npt.NDArray[np.uint8], box: tuple[int, int, int, int], other: npt.NDArray[np.uint8], rng: np.random.Generator
) -> None:
    """Make an object unrecognisable, in place: half of it becomes something else, or is smeared, or shuffled."""
    left, top, right, bottom = box
    patch = image[top:bottom, left:right]
    kind = rng.integers(3)
    if kind == 0:
        x = int(rng.integers(0, max(1, 64 - patch.shape[1])))
        y = int(rng.integers(0, max(1, 64 - patch.shape[0])))
        donor = other[y : y + patch.shape[0], x : x + patch.shape[1]]
        half = patch.shape[int(rng.integers(2))] // 2
        if rng.random() < 0.5:
            patch[:half] = donor[:half]
        else:
            patch[:, :half] = donor[:, :half]
    elif kind == 1:
        rows = np.clip(np.arange(len(patch)) + rng.integers(-7, 8, len(patch)), 0, len(patch) - 1)
        patch[:] = patch[rows]
    else:
        middle = patch.mean(axis=(0, 1), keepdims=True)
        patch[:] = (0.35 * patch + 0.65 * middle).astype(np.uint8)


def degrade(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Blur, noise, colour and brightness shifts of random strength, image by image; (B, 3, H, W) in [0, 1]."""
    shape = (len(x), 1, 1, 1)
    blurred = interpolate(avg_pool2d(x, 2), scale_factor=2, mode="bilinear")
    mix = (torch.rand(shape, generator=generator) * 1.5 - 0.5).clamp(0, 1)
    x = x + mix * (blurred - x)
    x = x + torch.randn(x.shape, generator=generator) * 0.06 * torch.rand(shape, generator=generator).square()
    low = torch.randn((len(x), 3, 8, 8), generator=generator) * 0.06 * torch.rand(shape, generator=generator)
    x = x + interpolate(low, size=x.shape[-2:], mode="bilinear")
    gain = 1 + 0.16 * (torch.rand(shape, generator=generator) - 0.5)
    return (x * gain + 0.08 * (torch.rand(shape, generator=generator) - 0.5)).clamp(0, 1)
