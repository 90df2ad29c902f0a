"""Where one prediction of a denoising network leads, and how noisy the latents are that it has read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

FLOW = "flow_prediction"
"""What a network of flow matching predicts, by diffusers' name: the velocity ``eps - x_0``."""


@dataclass(frozen=True, eq=False)
class Level:
    """How noisy latents are: ``x_t = signal * x_0 + noise * eps``.

    Attributes:
        signal: ``sqrt(abar)`` of a diffusion, ``1 - sigma`` of flow matching; broadcastable.
        noise: ``sqrt(1 - abar)``, ``sigma``.
    """

    signal: Tensor
    noise: Tensor

    @classmethod
    def of_diffusion(cls, alpha_bar: Tensor) -> Level:
        """On a diffusion's path, where variances add up to 1."""
        return cls(alpha_bar.sqrt(), (1 - alpha_bar).sqrt())

    @classmethod
    def of_flow(cls, sigma: Tensor) -> Level:
        """On the straight path of flow matching (Lipman et al., 2023; Esser et al., 2024)."""
        return cls(1 - sigma, sigma)


def predict_x0(latents: Tensor, prediction: Tensor, level: Level, kind: str) -> Tensor:
    """The clean latents that one prediction jumps to: ``x0' = (x_k - sqrt(1 - abar) eps) / sqrt(abar)``.

    From a velocity: ``x0' = x_k - sigma v``.

    Args:
        latents: ``x_k``, (B, C, h, w).
        prediction: the network's, same shape.
        level: of ``x_k``.
        kind: what the network predicts: ``epsilon``, ``v_prediction``, ``sample`` or :data:`FLOW`.
    """
    if kind == "sample":
        return prediction
    if kind == FLOW:
        return latents - level.noise * prediction
    if kind == "v_prediction":
        return level.signal * latents - level.noise * prediction
    return (latents - level.noise * prediction) / level.signal


def x0_slope(level: Level, kind: str) -> Tensor:
    """How far the clean latents move with a prediction, ``|d x0' / d prediction|``: shaped as the level.

    Args:
        level: of what the network has read.
        kind: as for :func:`predict_x0`.
    """
    import torch

    if kind == "sample":
        return torch.ones_like(level.noise)
    return level.noise if kind in (FLOW, "v_prediction") else level.noise / level.signal
