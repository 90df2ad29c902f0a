"""Muon: momentum whose matrix-shaped updates are orthogonalised (Jordan et al., 2024), beside AdamW for the rest.

Written out because ``torch.optim.Muon`` takes two-dimensional parameters only, and most of ours are convolutions.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def orthogonalise(matrix: torch.Tensor, iterations: int = 5) -> torch.Tensor:
    """The nearest semi-orthogonal matrix, roughly: Newton-Schulz (quintic) drives all singular values to about 1."""
    a, b, c = _COEFFICIENTS
    wide = matrix.shape[0] <= matrix.shape[1]
    x = matrix if wide else matrix.T
    x = x / (x.norm() + 1e-7)
    for _ in range(iterations):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x if wide else x.T


class Muon(torch.optim.Optimizer):
    """Muon on weights of two and more dimensions, AdamW on vectors and embeddings; one learning rate serves both.

    An orthogonalised update is scaled to the root mean square that AdamW's would have (0.2), so that
    AdamW's learning rates and weight decay carry over.
    """

    def __init__(
        self,
        matrices: Iterable[nn.Parameter],
        vectors: Iterable[nn.Parameter],
        lr: float,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.98),
        weight_decay: float = 0.01,
    ) -> None:
        groups = [{"params": list(matrices), "orthogonal": True}, {"params": list(vectors), "orthogonal": False}]
        defaults = {"lr": lr, "momentum": momentum, "betas": betas, "weight_decay": weight_decay}
        super().__init__([group for group in groups if group["params"]], defaults)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            update = self._muon if group["orthogonal"] else self._adam
            for parameter in group["params"]:
                if (gradient := parameter.grad) is not None:
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    parameter.add_(update(parameter, gradient, group), alpha=-group["lr"])

    def _muon(self, parameter: nn.Parameter, gradient: torch.Tensor, group: dict[str, Any]) -> torch.Tensor:
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        velocity = state["momentum"].lerp_(gradient, 1 - group["momentum"])
        nesterov = gradient.lerp(velocity, group["momentum"])
        flat = nesterov.reshape(len(nesterov), -1)
        return (orthogonalise(flat) * (0.2 * max(flat.shape) ** 0.5)).reshape(parameter.shape)

    def _adam(self, parameter: nn.Parameter, gradient: torch.Tensor, group: dict[str, Any]) -> torch.Tensor:
        state = self.state[parameter]
        if not state:
            state.update(step=torch.zeros(()), mean=torch.zeros_like(parameter), square=torch.zeros_like(parameter))
        beta1, beta2 = group["betas"]
        state["step"] += 1
        count = float(state["step"])
        state["mean"].lerp_(gradient, 1 - beta1)
        state["square"].lerp_(gradient.square(), 1 - beta2)
        return (state["mean"] / (1 - beta1**count)) / ((state["square"] / (1 - beta2**count)).sqrt() + 1e-8)


def muon(model: nn.Module, lr: float, weight_decay: float, beta2: float) -> Muon:
    """Muon for a model: convolutions and linear layers are matrices, embeddings and the rest are not."""
    tables = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    trained = [p for p in model.parameters() if p.requires_grad]
    matrices = [p for p in trained if p.ndim >= 2 and id(p) not in tables]
    vectors = [p for p in trained if p.ndim < 2 or id(p) in tables]
    return Muon(matrices, vectors, lr, betas=(0.9, beta2), weight_decay=weight_decay)
