"""What happens to the pictures that taggers and segmenters learn from, so that generated ones do not surprise them."""

from __future__ import annotations

import torch
from torch.nn.functional import interpolate


def augment(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Soften, jitter colours and contrast, add coarse noise; images (B, 3, H, W) in [0, 1] stay in place and range."""
    batch = len(x)
    soft = interpolate(interpolate(x, scale_factor=0.5, mode="area"), scale_factor=2.0, mode="bicubic")
    amount = torch.rand((batch, 1, 1, 1), generator=generator).sub(0.3).clamp(min=0)
    x = torch.lerp(x, soft, amount)
    coarse = torch.randn((batch, 3, 16, 16), generator=generator)
    strength = 0.05 * torch.rand((batch, 1, 1, 1), generator=generator)
    x = x + strength * interpolate(coarse, size=x.shape[-2:], mode="bilinear")
    contrast = 0.9 + 0.2 * torch.rand((batch, 1, 1, 1), generator=generator)
    tint = 0.05 * torch.randn((batch, 3, 1, 1), generator=generator)
    return ((x - 0.5) * contrast + 0.5 + tint).clamp(0, 1)
