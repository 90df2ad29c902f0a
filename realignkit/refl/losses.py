"""The pieces of eq. 5, as pure functions of tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from realignkit.pipelines.prediction import FLOW as FLOW
from realignkit.pipelines.prediction import Level as Level
from realignkit.pipelines.prediction import predict_x0 as predict_x0
from realignkit.pipelines.prediction import x0_slope as x0_slope

if TYPE_CHECKING:
    from torch import Tensor


def phi(rewards: Tensor, margin: float) -> Tensor:
    """``relu(margin - R)``, shape of ``rewards``: pulls rewards up to the margin and no further (eq. 5)."""
    return (margin - rewards).relu()


def guide(unconditional: Tensor, conditional: Tensor, guidance_scale: float) -> Tensor:
    """Classifier-free guidance: ``eps_u + g * (eps_c - eps_u)``."""
    return unconditional + guidance_scale * (conditional - unconditional)


def add_noise(clean: Tensor, noise: Tensor, level: Level) -> Tensor:
    """``x_t = signal * x_0 + noise * eps``: eq. 3's, or a point on the straight path of flow matching."""
    return level.signal * clean + level.noise * noise


def denoising_target(clean: Tensor, noise: Tensor, level: Level, kind: str) -> Tensor:
    """What the network should predict for ``x_t`` (eq. 3), by its kind."""
    if kind == "sample":
        return clean
    if kind == FLOW:
        return noise - clean
    if kind == "v_prediction":
        return level.signal * noise - level.noise * clean
    return noise


def dpo(margins: Tensor, beta: float, label_smoothing: float = 0.0) -> Tensor:
    """``-log sigmoid(beta m)``, of which a share is taken the other way round (cDPO; Mitchell, 2023).

    Args:
        margins: how much more the error has grown on the worse picture than on the better one, any shape.
        beta: Wallace et al.'s (2023) ``beta T``, for mean squared errors.
        label_smoothing: the share, in [0, 0.5).
    """
    from torch.nn.functional import logsigmoid

    logits = beta * margins
    return -(1 - label_smoothing) * logsigmoid(logits) - label_smoothing * logsigmoid(-logits)


def ipo(margins: Tensor, beta: float) -> Tensor:
    """``(beta m - 1/2)^2``: IPO (Azar et al., 2023), times ``beta^2``, which makes it as long as DPO's."""
    return (beta * margins - 0.5).square()


def nft(now: Tensor, old: Tensor, target: Tensor, goodness: Tensor, beta: float) -> Tensor:
    """DiffusionNFT's loss, (B,): the good half learns the prediction, the bad half its mirror image at the old one's.

    Args:
        now: predictions (B, ...), with gradient.
        old: the old policy's.
        target: of both.
        goodness: (B,) in [0, 1].
        beta: how far it is mirrored; the loss is divided by it, which keeps gradients as long.
    """
    inner = tuple(range(1, now.dim()))

    def error(prediction: Tensor) -> Tensor:
        difference = prediction - target
        return (difference.square() / difference.detach().abs().mean(inner, keepdim=True).clamp_min(1e-5)).mean(inner)

    good, bad = old + beta * (now - old), old - beta * (now - old)
    return (goodness * error(good) + (1 - goodness) * error(bad)) / beta


def norm(tensors: Sequence[Tensor]) -> float:
    """L2 norm over all tensors together; 0 of none."""
    import torch

    if not tensors:
        return 0.0
    return float(torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(t.float()) for t in tensors])))


def reward_weight_for(ratio: float, reward_norm: float, denoising_norm: float) -> float:
    """The weight that makes the reward gradient's norm ``ratio`` times the denoising one's; 0 without a gradient."""
    return ratio * denoising_norm / reward_norm if reward_norm > 0 else 0.0
