"""Reward-guided sampling of a realigner: the reward's part in it, and what it costs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from realignkit.calls import rewards_of
from realignkit.errors import ModelError, OptionError
from realignkit.named import Named
from realignkit.pipelines.reward_guidance import GuidedSampling, guiding

if TYPE_CHECKING:
    from torch import Tensor


@contextmanager
def guided(
    reward: Named | None, margin: float | None, pipeline: Callable[[], Any], prompts: Sequence[str], **options: Any
) -> Iterator[GuidedSampling | None]:
    """Guide what a realigner's pipeline draws of some prompts by its ``guide_by``; None where it has none.

    Args:
        reward: ``guide_by``.
        margin: of phi; None: the reward's own.
        pipeline: makes the pipeline.
        prompts: that it draws.
        options: ``strength``, ``share`` and ``guidance_scale`` of :func:`guiding`.
    """
    if reward is None:
        yield None
        return
    following = partial(gradient, reward, reward.margin if margin is None else margin)
    with guiding(pipeline(), prompts, following, **options) as sampling:
        yield sampling


def check_differentiable(reward: Named) -> None:
    """Refuse a reward that says that it has no gradient.

    Raises:
        OptionError: it does.
    """
    if not getattr(reward.plugin, "differentiable", True):
        raise OptionError(
            f"{reward.whose} has no gradient, which guide_by (--guide-by) follows: choose among candidates by it "
            f"instead, with select_by (--select-by)."
        )


def gradient(reward: Named, margin: float, images: Tensor, prompts: Sequence[str]) -> Tensor:
    """The gradient of a reward in images, float32 (B, 3, H, W); 0 for images that have reached the margin.

    A reward that draws from torch's global state always draws the same.

    Args:
        reward: a differentiable one.
        margin: of phi (eq. 5).
        images: (B, 3, H, W) in [0, 1].
        prompts: one per image.

    Raises:
        PluginError: the reward failed, broke its contract, or has no gradient that leads back to the images.
        ModelError: a reward, or its gradient, is NaN or infinite.
    """
    import torch

    seen = images.detach().float().requires_grad_()
    devices = [images.device] if images.device.type == "cuda" else []
    with torch.enable_grad(), torch.random.fork_rng(devices=devices):
        torch.manual_seed(0)
        rewards = rewards_of(reward.by("guiding"), seen, prompts, gradient=True)
        phi = (margin - rewards).relu().sum()
        (descent,) = torch.autograd.grad(phi, seen, allow_unused=True)
    if descent is None:
        raise reward.breach("it says that it is differentiable, but its rewards do not lead back to the images")
    if not torch.isfinite(descent).all():
        raise ModelError(f"the gradient of {reward.whose} is NaN or infinite. Run it in float32, or take another.")
    return -descent


def note_guidance(
    noted: list[GuidedSampling], timings: dict[str, float], step: str, guidance: Sequence[GuidedSampling | None]
) -> None:
    """Note what guided a step, an entry for each of its images; its seconds are a step of their own, ``guide``."""
    for sampling in guidance:
        if sampling is not None:
            noted.append(sampling)
            seconds = min(sampling.seconds / len(sampling.prompts), timings[step])
            timings[step] -= seconds
            timings["guide"] = timings.get("guide", 0.0) + seconds


def guidance_note(name: str, guidance: Sequence[GuidedSampling]) -> str:
    """What guided the sampling of an image's pictures, and what that took, in words."""
    guided_passes, passes = (sum(getattr(each, count) for each in guidance) for count in ("guided", "passes"))
    return (
        f"sampling was guided by {name} in {guided_passes} of {passes} passes of the network; each of these took one "
        f"backward pass too, and one forward and backward pass of the image decoder and of the reward"
    )
