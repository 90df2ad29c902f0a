"""The judge: finds coloured objects in an image, and says whether a prompt's are all there.

It measures; it never helps. Architecture, training scenes, augmentation and noise are its own, and nothing that it
judges (rewards, taggers, segmenters) shares weights or data with it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

from realignkit.errors import ImageError, ModelError
from realignkit.images import to_rgb
from realignkit.machine import full_precision
from realignkit_plugins.micro import checkpoints
from realignkit_plugins.micro.world.scenes import IMAGE_SIZE
from realignkit_plugins.micro.world.vocabulary import COLOURS, COUNTS, NOUNS, plural

STRIDE = 4
_DEEPEST = 2 * STRIDE
"""Pixels between two cells of the deepest layer: a picture's sides are multiples of it."""
THRESHOLD = 0.2
"""Chosen by agreement with 120 pictures labelled by looking; none are held out (docs/micro.md)."""
_SINGULAR = {form: noun for noun in NOUNS for form in (noun, plural(noun))}
_NUMBER = {"a": 1, "an": 1, "one": 1, **{word: number for number, word in COUNTS.items()}}


@dataclass(frozen=True)
class Detection:
    """An object that the oracle sees: what, in which colour, how sure (noun probability times colour's), where.

    ``x`` and ``y`` are pixels of the picture as the oracle sees it, 64 pixels large.
    """

    noun: str
    colour: str
    confidence: float
    x: float
    y: float


class Oracle(nn.Module):
    """A fully convolutional detector: per cell of 4 x 4 pixels, is a noun's centre here, and what colour is it?"""

    def __init__(self, width: int = 32, depth: int = 4) -> None:
        super().__init__()
        self.settings = {"width": width, "depth": depth}
        self.stem = nn.Sequential(
            nn.Conv2d(3, width, 7, 2, 3), nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, width, 3, 2, 1)
        )
        self.down = nn.Sequential(nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, 2 * width, 3, 2, 1))
        self.deep = nn.Sequential(*(_Block(2 * width, dilation=1 + i % 2) for i in range(depth)))
        self.up = nn.ConvTranspose2d(2 * width, width, 4, 2, 1)
        self.join = nn.Sequential(
            nn.BatchNorm2d(2 * width), nn.ReLU(), nn.Conv2d(2 * width, 2 * width, 3, 1, 1), nn.ReLU()
        )
        self.centres = nn.Conv2d(2 * width, len(NOUNS), 1)
        self.colours = nn.Conv2d(2 * width, len(COLOURS), 1)
        # Nearly every cell is empty: start from there.
        self.centres.bias.data.fill_(-4.0)  # type: ignore[union-attr]

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Images (B, 3, H, W) in [0, 1] to centre logits (B, nouns, H/4, W/4), colour logits (B, colours, H/4, W/4)."""
        features = self._features(images)
        return self.centres(features), self.colours(features)

    def _features(self, images: torch.Tensor) -> torch.Tensor:
        fine = self.stem(images * 2 - 1)
        features: torch.Tensor = self.join(torch.cat([fine, self.up(self.deep(self.down(fine)))], dim=1))
        return features

    @torch.inference_mode()
    @full_precision()
    def features(self, images: Sequence[Image.Image]) -> np.ndarray:
        """What both heads look at, averaged over the picture: float32 (B, 2 * width) of images (RGB, one size)."""
        parts = [
            self._features(_pixels(images[start : start + 64])).mean((2, 3)) for start in range(0, len(images), 64)
        ]
        return torch.cat(parts).numpy() if parts else np.zeros((0, 2 * self.settings["width"]), np.float32)

    @torch.inference_mode()
    @full_precision()
    def detect(self, images: Sequence[Image.Image], threshold: float = THRESHOLD) -> list[tuple[Detection, ...]]:
        """What is in each image (RGB), most confident first."""
        detections: list[tuple[Detection, ...]] = []
        for start in range(0, len(images), 64):
            centres, colours = self(_pixels(images[start : start + 64]))
            detections += [_peaks(c, k, threshold) for c, k in zip(centres.sigmoid(), colours.softmax(1), strict=True)]
        return detections

    def save(self, folder: Path) -> None:
        """Write ``model.safetensors`` (fp16) and ``config.json``."""
        folder.mkdir(parents=True, exist_ok=True)
        weights = {k: v.half() if v.is_floating_point() else v for k, v in self.state_dict().items()}
        save_file({k: v.contiguous() for k, v in weights.items()}, folder / "model.safetensors")
        config = {"model_type": "micro-oracle", **self.settings, "nouns": NOUNS, "colours": tuple(COLOURS)}
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")

    @classmethod
    def load(cls, folder: Path | None = None) -> Oracle:
        """The embedded oracle, or one saved elsewhere.

        Raises:
            ModelError: the checkpoint is missing or was trained on another vocabulary.
        """
        folder = folder or checkpoints.path("oracle")
        config = json.loads((folder / "config.json").read_text())
        if tuple(config["nouns"]) != NOUNS or tuple(config["colours"]) != tuple(COLOURS):
            raise ModelError(f"the oracle in {folder} knows another vocabulary. Retrain it.")
        model = cls(config["width"], config["depth"])
        model.load_state_dict(
            {k: v.float() if v.is_floating_point() else v for k, v in load_file(folder / "model.safetensors").items()}
        )
        return model.eval()


class _Block(nn.Module):
    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, 1, dilation, dilation),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, 1, 1),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = x + self.layers(x)
        return out


def _pixels(images: Sequence[Image.Image]) -> torch.Tensor:
    pixels = np.stack([np.asarray(_seen(to_rgb(image))) for image in images])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255


def _seen(image: Image.Image) -> Image.Image:
    # What it was trained on is 64 pixels large: larger pictures are averaged over squares of 2 x 2, 3 x 3 … pixels.
    factor = min(image.size) // IMAGE_SIZE
    seen = image.reduce(factor) if factor > 1 else image
    if any(side % _DEEPEST for side in seen.size):
        raise ImageError(
            f"a picture of {image.width} x {image.height} pixels is none of the embedded world, whose objects the "
            f"oracle finds by their size: {IMAGE_SIZE} x {IMAGE_SIZE}, or a multiple of it, as 256 x 256. Leave it "
            f"out, or choose another metric."
        )
    return seen


def _peaks(centres: torch.Tensor, colours: torch.Tensor, threshold: float) -> tuple[Detection, ...]:
    # A centre is a local maximum over its neighbourhood and over nouns: one place holds one object.
    strongest = centres.amax(0)
    peak = (nn.functional.max_pool2d(strongest[None], 5, 1, 2)[0] == strongest) & (strongest > threshold)
    detections = []
    for y, x in peak.nonzero().tolist():
        noun, colour = int(centres[:, y, x].argmax()), int(colours[:, y, x].argmax())
        confidence = float(centres[noun, y, x])
        detections.append(
            Detection(NOUNS[noun], tuple(COLOURS)[colour], confidence, (x + 0.5) * STRIDE, (y + 0.5) * STRIDE)
        )
    return tuple(sorted(detections, key=lambda d: -d.confidence))


@lru_cache(maxsize=8192)
def expected(prompt: str) -> tuple[tuple[str, str, int], ...]:
    """(noun, colour, how many) for every object that a prompt of this world's form names.

    Raises:
        ValueError: the prompt names no coloured noun of this world.
    """
    wanted = Counter[tuple[str, str]]()
    text = prompt.lower().replace(",", " ")
    for number, colour, noun in _triples(text.split()):
        wanted[_SINGULAR[noun], colour] += _NUMBER[number]
    if not wanted:
        raise ValueError(f"no object of this world in {prompt!r}")
    return tuple((noun, colour, count) for (noun, colour), count in wanted.items())


def _triples(words: list[str]) -> list[tuple[str, str, str]]:
    triples = zip(words, words[1:], words[2:], strict=False)
    return [t for t in triples if t[0] in _NUMBER and t[1] in COLOURS and t[2] in _SINGULAR]


def in_vocabulary(prompt: str) -> bool:
    """Whether a prompt consists of coloured nouns of this world joined by "and" or commas (CC-500's form)."""
    words = prompt.lower().strip().rstrip(".").replace(",", " ").split()
    return bool(words) and 3 * len(_triples(words)) == sum(word != "and" for word in words)


def fully_right(prompt: str, detections: Sequence[Detection]) -> bool:
    """Whether every object of the prompt is there, in its colour, as often as it says."""
    seen = Counter((d.noun, d.colour) for d in detections)
    return all(seen[noun, colour] >= count for noun, colour, count in expected(prompt))


def share_right(prompt: str, detections: Sequence[Detection]) -> float:
    """Share of the prompt's objects that are there in their colour, in [0, 1]."""
    seen = Counter((d.noun, d.colour) for d in detections)
    wanted = expected(prompt)
    return sum(min(seen[noun, colour], count) for noun, colour, count in wanted) / sum(c for *_, c in wanted)
