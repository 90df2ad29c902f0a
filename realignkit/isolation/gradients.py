"""A reward in another environment as an operation of torch: its gradient is computed there, and comes back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch.autograd.function import once_differentiable

if TYPE_CHECKING:
    from torch import Tensor

    from realignkit.isolation.process import Process

_SEEDS = 2**31


class _Remote(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor, process: Process, prompts: Sequence[str], gradient: bool, by: str) -> Tensor:
        seed = int(torch.randint(_SEEDS, ()))
        pixels = images.detach().float().cpu().numpy()
        said = process.ask("rate", images=pixels, prompts=list(prompts), seed=seed, gradient=gradient, by=by)
        ctx.process, ctx.way, ctx.like = process, said["way"], images
        return torch.from_numpy(said["rewards"]).to(images.device)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, None, None, None, None]:
        if ctx.way < 0:  # the program's rewards have no gradient
            return torch.zeros_like(ctx.like), None, None, None, None
        said = ctx.process.ask("back", way=ctx.way, gradient=gradient.float().cpu().numpy())
        return torch.from_numpy(said).to(ctx.like), None, None, None, None


def rate(
    process: Process, images: Tensor, prompts: Sequence[str], differentiable: bool, by: str = "__call__"
) -> Tensor:
    """Rewards, float32 (B,), of a program; see :class:`realignkit.isolation.IsolatedReward`.

    ``by``: the program's method, called with a tensor and the prompts.
    """
    gradient = differentiable and images.requires_grad and torch.is_grad_enabled()
    rewards: Tensor = _Remote.apply(images, process, prompts, gradient, by)  # type: ignore[no-untyped-call]
    return rewards
