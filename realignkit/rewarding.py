"""Calls to rewards, each result held against the contract in :mod:`realignkit.contracts`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from realignkit.calls import blame, breach
from realignkit.contracts import Options, Reward
from realignkit.errors import ModelError, OptionError
from realignkit.images import to_rgb
from realignkit.machine import full_precision, suited_threads

if TYPE_CHECKING:
    from PIL.Image import Image


def settings_of(reward: object) -> dict[str, Any] | None:
    """What beside its name decides what a reward says: its options as JSON, but for where it runs; None without any."""

    def kept(values: dict[str, Any]) -> dict[str, Any]:
        chosen = {name: value for name, value in values.items() if name not in ("device", "dtype")}
        return {name: kept(value) if isinstance(value, dict) else value for name, value in chosen.items()}

    options = getattr(reward, "options", None)
    return kept(options.model_dump(mode="json")) if isinstance(options, Options) else None


def rewards_of(
    reward: Reward | Callable[[Tensor, Sequence[str]], Tensor],
    name: str,
    images: Tensor,
    prompts: Sequence[str],
    *,
    gradient: bool = False,
) -> Tensor:
    """Rewards, float32 (B,), of images (B, 3, H, W) in [0, 1].

    Args:
        reward: the plugin.
        name: what to call it in messages.
        images: on any device.
        prompts: one per image.
        gradient: whether the rewards must lead back to the images.

    Raises:
        PluginError: the reward failed, or did not give one number per image, or no gradient where one is needed.
        ModelError: a reward is NaN or infinite.
    """
    with blame("reward", name), suited_threads(reward):
        given: Any = reward(images, list(prompts))
    if not isinstance(given, Tensor):
        raise breach("reward", name, f"it gave a {type(given).__name__}, not a tensor")
    if given.shape != (len(prompts),):
        raise breach("reward", name, f"{len(prompts)} images got rewards of shape {tuple(given.shape)}")
    found: Tensor = given.float()
    bad = int((~torch.isfinite(found)).sum())
    if bad:
        raise ModelError(
            f"reward '{name}' computed NaN or infinity for {bad} of {len(prompts)} images, the first for "
            f"'{prompts[int((~torch.isfinite(found)).nonzero()[0])]}'. Run the reward in float32, or take another."
        )
    if gradient and not found.requires_grad:
        raise breach("reward", name, "it says that it is differentiable, but its rewards have no gradient")
    return found


def to_tensor(images: Sequence[Image]) -> Tensor:
    """RGB images of one size as float32 (B, 3, H, W) in [0, 1], as rewards take them.

    Raises:
        OptionError: they are of several sizes.
    """
    if len({image.size for image in images}) > 1:
        raise OptionError("images of different sizes cannot share a batch. Use batch_size=1.")
    arrays = [np.asarray(to_rgb(image), dtype=np.float32) / 255 for image in images]
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous()


def rate(
    reward: Reward, name: str, images: Sequence[Image], prompts: Sequence[str], device: Any = "cpu"
) -> list[float]:
    """The rewards of PIL images as they are reported, without gradient.

    A reward with a method ``reported(images, prompts)`` says itself what that is: eq. 4's greedy caption, say, where
    an estimator is what it trains with.

    Raises:
        PluginError, ModelError: as for :func:`rewards_of`.
    """
    return _ask(reward, name, images, prompts, device, ("reported",))


def rank(reward: Reward, name: str, images: Sequence[Image], prompts: Sequence[str]) -> list[float]:
    """Numbers by which to choose among images of the same prompt, higher is better, without gradient.

    A reward with a method ``ranked(images, prompts)`` says itself what they are: a number made of words, say, is the
    same for many images. They need not be comparable between prompts. Without it they are those of :func:`rate`.

    Raises:
        PluginError, ModelError: as for :func:`rewards_of`.
    """
    return _ask(reward, name, images, prompts, "cpu", ("ranked", "reported"))


@torch.no_grad()
def _ask(
    reward: Reward,
    name: str,
    images: Sequence[Image],
    prompts: Sequence[str],
    device: Any,
    methods: Sequence[str],
) -> list[float]:
    if not images:
        return []
    method: Any = next((getattr(reward, each) for each in methods if hasattr(reward, each)), None)
    with full_precision(), suited_threads(reward):
        if method is None:
            return [float(value) for value in rewards_of(reward, name, to_tensor(images).to(device), prompts)]

        def answer(_: Tensor, texts: Sequence[str]) -> Tensor:
            values: Tensor = method([image.copy() for image in images], list(texts))
            return values

        return [float(value) for value in rewards_of(answer, name, torch.empty(0), prompts)]
