"""Scenes as training batches."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from realignkit_plugins.micro.world import Scene, Split, render, scene

SCENE_SEEDS = {
    **{"vae": 11, "base": 12, "tagger": 13, "segmenter": 14, "oracle": 15, "check": 16},
    **{"clip": 21, "blip": 22, "captioner": 23, "image_reward": 24},
    **{"ram": 13, "tag2text": 13, "vqa": 25, "promptist": 26, "vae_256": 27},
}
"""Each role has scenes of its own, so that none is judged by one that learned from the same pictures; the taggers,
which have the same role, share theirs."""


@lru_cache(maxsize=4)
def images(seed: int, count: int, split: Split = "train", cache: Path | None = None) -> npt.NDArray[np.uint8]:
    """``count`` rendered scenes, uint8 (count, H, W, 3); kept in ``cache`` when given."""
    path = cache / f"images-{seed}-{split}-{count}.npy" if cache else None
    if path and path.exists():
        loaded: npt.NDArray[np.uint8] = np.load(path)
        return loaded
    rendered = np.stack([render(s).image for s in scenes(seed, count, split)])
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, rendered)
    return rendered


@lru_cache(maxsize=4)
def scenes(seed: int, count: int, split: Split = "train") -> tuple[Scene, ...]:
    """The first ``count`` scenes of a sequence."""
    return tuple(scene(seed, index, split) for index in range(count))


def to_tensor(pixels: npt.NDArray[np.uint8]) -> torch.Tensor:
    """uint8 (B, H, W, 3) to float (B, 3, H, W) in [0, 1]."""
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float().div_(255)
