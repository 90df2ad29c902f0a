"""Dense supervision for the rewards' vision transformers: every patch says which object it shows, in which colour.

Contrast between captions alone has to discover objects and colours from one bit per picture, which takes these small
networks tens of thousands of pictures before anything moves. The world knows what every pixel shows; told that, the
towers see within a few hundred steps, and the captions only have to teach how to read. The head is dropped afterwards.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from realignkit_plugins.micro.train.data import scenes, spread
from realignkit_plugins.micro.world import COLOURS, NOUNS, Scene, render

PATCH = 8
NOTHING = 0
"""The label of a patch that shows no object; objects and colours count from 1."""
_SHARE = 0.3
"""An object must cover as much of a patch to name it."""
_NOUNS = {noun: i for i, noun in enumerate(NOUNS, 1)}
_COLOURS = {colour: i for i, colour in enumerate(COLOURS, 1)}


def labels(scene: Scene) -> npt.NDArray[np.uint8]:
    """What each patch of a scene's picture shows: uint8 (2, patches), object and colour, row by row."""
    masks = render(scene).masks[: len(scene.things)]
    side = masks.shape[-1] // PATCH
    shares = masks.reshape(len(masks), side, PATCH, side, PATCH).mean((2, 4)).reshape(len(masks), -1)
    most, covered = shares.argmax(0), shares.max(0) >= _SHARE
    nouns = np.array([_NOUNS[thing.noun] for thing in scene.things])
    colours = np.array([_COLOURS[str(thing.colour)] for thing in scene.things])
    return np.stack([np.where(covered, each[most], NOTHING) for each in (nouns, colours)]).astype(np.uint8)


def all_labels(seed: int, count: int, cache: Path) -> npt.NDArray[np.uint8]:
    """:func:`labels` of the first ``count`` training scenes, uint8 (count, 2, patches); kept in ``cache``."""
    path = cache / f"patches-{seed}-{count}.npy"
    if path.exists():
        kept: npt.NDArray[np.uint8] = np.load(path)
        return kept
    made = np.stack(spread(labels, scenes(seed, count)))
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, made)
    return made


class PatchHead(nn.Module):
    """The head that reads patches.

    Args:
        width: of the hidden states.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.nouns, self.colours = nn.Linear(width, len(NOUNS) + 1), nn.Linear(width, len(COLOURS) + 1)

    def patch_loss(self, patches: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Cross-entropy of what the patches say.

        Args:
            patches: hidden states, float (B, patches, width).
            labels: int64 (B, 2, patches), as :func:`labels`.
        """
        patches = patches.flatten(0, 1)
        return cross_entropy(self.nouns(patches), labels[:, 0].flatten()) + cross_entropy(
            self.colours(patches), labels[:, 1].flatten()
        )


class Seeing(PatchHead):
    """A reward's network beside the head that reads its patches; trained together, of which the network is kept.

    Args:
        model: the network.
        tower: pixels (B, 3, H, W) to hidden states (B, 1 + patches, width), the class token first.
        width: of the hidden states.
    """

    def __init__(self, model: nn.Module, tower: Callable[[torch.Tensor], torch.Tensor], width: int) -> None:
        super().__init__(width)
        self.model, self._tower = model, tower

    def see(self, pixels: torch.Tensor) -> torch.Tensor:
        """The tower's hidden states in float32, computed in bfloat16: twice as fast on a CPU that knows it."""
        with torch.autocast("cpu", torch.bfloat16):
            hidden = self._tower(pixels)
        return hidden.float()

    def patch_loss(self, patches: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """As of the head alone; the class token, which comes first, says nothing."""
        return super().patch_loss(patches[:, 1:], labels)
