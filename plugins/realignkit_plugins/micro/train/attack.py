"""Pictures changed a little, against the network that judges them, so that it learns not to be fooled.

ReFL climbs a reward's gradient with respect to the picture. A reward may rank pictures nearly perfectly and still have
a gradient that leads nowhere: the first captioner here agreed with the oracle (AUC 0.95), yet ascent on the latents of
40 wrong pictures took its likelihood to that of right ones while the oracle still called 39 wrong. Training on
such pictures (Madry et al., 2018) makes the gradient mean what people see.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

STEPS = 2


def attacked(
    images: torch.Tensor,
    gain: Callable[[torch.Tensor], torch.Tensor],
    radius: float,
    generator: torch.Generator,
    steps: int = STEPS,
) -> torch.Tensor:
    """Pictures within a distance that raise what should not rise: projected gradient ascent from a random start.

    Args:
        images: float (B, 3, H, W) in [0, 1].
        gain: what the attack raises, (B,), each row depending on its own picture alone.
        radius: the largest L2 distance, in units of the picture's range; each picture gets one in [0, radius].
        generator: of the random start and the distances.
        steps: of ascent.
    """
    shape = (len(images), 1, 1, 1)
    limit = radius * torch.rand(shape, generator=generator)
    change = _of_length(torch.randn(images.shape, generator=generator), limit / 4)
    for _ in range(steps):
        change.requires_grad_()
        (gradient,) = torch.autograd.grad(gain((images + change).clamp(0, 1)).sum(), change)
        change = change.detach() + _of_length(gradient, 1.5 * limit / steps)
        length = change.flatten(1).norm(dim=1).view(shape)
        change = change * (limit / length.clamp(min=1e-12)).clamp(max=1)
    return (images + change).clamp(0, 1)


def _of_length(x: torch.Tensor, length: torch.Tensor) -> torch.Tensor:
    return x / x.flatten(1).norm(dim=1).view(-1, 1, 1, 1).clamp(min=1e-12) * length
