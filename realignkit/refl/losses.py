"""The pieces of eq. 5, as pure functions of tensors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def phi(rewards: Tensor, margin: float) -> Tensor:
    """``relu(margin - R)``, shape of ``rewards``: pulls rewards up to the margin and no further (eq. 5)."""
    return torch.relu(margin - rewards)


def guide(unconditional: Tensor, conditional: Tensor, guidance_scale: float) -> Tensor:
    """Classifier-free guidance: ``eps_u + g * (eps_c - eps_u)``."""
    return unconditional + guidance_scale * (conditional - unconditional)


def predict_x0(latents: Tensor, prediction: Tensor, alpha_bar: Tensor, kind: str) -> Tensor:
    """The clean latents that one prediction jumps to: ``x0' = (x_k - sqrt(1 - abar) eps) / sqrt(abar)``.

    Args:
        latents: ``x_k``, (B, C, h, w).
        prediction: the network's, same shape.
        alpha_bar: ``abar_k``, broadcastable.
        kind: what the network predicts: ``epsilon``, ``v_prediction`` or ``sample``.
    """
    if kind == "sample":
        return prediction
    signal, noise = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
    if kind == "v_prediction":
        return signal * latents - noise * prediction
    return (latents - noise * prediction) / signal


def move_x0(prediction: Tensor, shift: Tensor, alpha_bar: Tensor, kind: str) -> Tensor:
    """The prediction whose jump (:func:`predict_x0`) lands a ``shift`` further, shapes and kinds as there."""
    if kind == "sample":
        return prediction + shift
    signal, noise = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
    return prediction - shift / noise if kind == "v_prediction" else prediction - shift * signal / noise


def add_noise(clean: Tensor, noise: Tensor, alpha_bar: Tensor) -> Tensor:
    """``x_t = sqrt(abar) x_0 + sqrt(1 - abar) eps``."""
    return alpha_bar.sqrt() * clean + (1 - alpha_bar).sqrt() * noise


def denoising_target(clean: Tensor, noise: Tensor, alpha_bar: Tensor, kind: str) -> Tensor:
    """What the network should predict for ``x_t`` (eq. 3), by its kind."""
    if kind == "sample":
        return clean
    if kind == "v_prediction":
        return alpha_bar.sqrt() * noise - (1 - alpha_bar).sqrt() * clean
    return noise


def without_style(gradients: Tensor, latents: Tensor) -> Tensor:
    """What of gradients (B, C, h, w) keeps, to first order, the mean and the spread of each channel of each image.

    Args:
        gradients: with respect to the latents.
        latents: (B, C, h, w), where they were taken.
    """
    around = latents - latents.mean((2, 3), keepdim=True)
    left = gradients - gradients.mean((2, 3), keepdim=True)
    along = (left * around).sum((2, 3), keepdim=True) / around.square().sum((2, 3), keepdim=True).clamp(min=1e-12)
    return left - along * around


def style(latents: Tensor) -> Tensor:
    """What an image's style comes to: (B, 2 C + C (C + 1) / 2) numbers of clean latents (B, C, h, w).

    The channels' means, their covariances (the Gram matrix of Gatys et al., 2016, about the mean) and the mean squared
    difference of neighbours: nearly brightness and colour cast, contrast and saturation, sharpness.
    """
    flat = latents.flatten(2)
    mean = flat.mean(2)
    around = flat - mean.unsqueeze(2)
    rows, columns = torch.triu_indices(flat.shape[1], flat.shape[1], device=flat.device)
    across, down = latents.diff(dim=3).square().mean((2, 3)), latents.diff(dim=2).square().mean((2, 3))
    return torch.cat([mean, (around @ around.mT / flat.shape[2])[:, rows, columns], (across + down) / 2], dim=1)


def style_drift(latents: Tensor, mean: Tensor, spread: Tensor) -> Tensor:
    """How far images' mean :func:`style` is from another mean: squared, in units of its spread, averaged over entries.

    Images are free to differ from each other: the product of two different images' deviations, over all pairs, is an
    unbiased estimate of the squared deviation of the mean, whatever the batch size. So it is below 0 at times.

    Args:
        latents: clean, (B, C, h, w), B at least 2.
        mean: of the style to keep, (2 C + C (C + 1) / 2,).
        spread: its standard deviation over images, same shape.
    """
    apart = (style(latents) - mean) / spread
    count = len(apart)
    return ((apart.sum(0).square() - apart.square().sum(0)) / (count * (count - 1))).mean()


def norm(tensors: Sequence[Tensor]) -> float:
    """L2 norm over all tensors together; 0 of none."""
    if not tensors:
        return 0.0
    return float(torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(t.float()) for t in tensors])))


def reward_weight_for(ratio: float, reward_norm: float, denoising_norm: float) -> float:
    """The weight that makes the reward gradient's norm ``ratio`` times the denoising one's; 0 without a gradient."""
    return ratio * denoising_norm / reward_norm if reward_norm > 0 else 0.0
