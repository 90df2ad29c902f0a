"""Rewards small enough to know what they should do."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from realignkit.contracts import Reward

COLOURS = {"red": (1.0, 0.0, 0.0), "yellow": (1.0, 1.0, 0.0)}


def target(prompt: str) -> tuple[float, float, float]:
    return next((rgb for word, rgb in COLOURS.items() if word in prompt), (0.5, 0.5, 0.5))


class Colour(Reward):
    """How near the picture's mean colour is to the one that the prompt names: 1 - squared distance."""

    margin = 1.0

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        wanted = torch.tensor([target(prompt) for prompt in prompts], device=images.device)
        return 1 - (images.mean(dim=(2, 3)) - wanted).square().sum(1)


class Blind(Colour):
    """The same, without a gradient."""

    differentiable = False

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        return super().__call__(images.detach(), prompts)


class Constant(Blind):
    """Says the same of every picture."""

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        return torch.full((len(prompts),), 0.3)


class Noisy(Colour):
    """Draws from torch's global state, as rewards that sample captions do."""

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        return super().__call__(images, prompts) * (1 + 0.1 * torch.rand(len(prompts)))


class Darkness(Reward):
    """Prefers dark pictures: what Colour does not want."""

    differentiable = False

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        return 1 - images.mean(dim=(1, 2, 3))
