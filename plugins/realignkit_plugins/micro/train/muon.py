"""Muon: momentum whose matrix-shaped updates are orthogonalised (Jordan et al., 2024), beside AdamW for the rest.

Written out because ``torch.optim.Muon`` takes two-dimensional parameters only, and most of ours are convolutions.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def orthogonalise(matrices: torch.Tensor, iterations: int = 5) -> torch.Tensor:
    """The nearest semi-orthogonal matrices, roughly: Newton-Schulz (quintic) drives all singular values to about 1.

    Args:
        matrices: float (..., rows, columns).
        iterations: of Newton-Schulz.
    """
    a, b, c = _COEFFICIENTS
    wide = matrices.shape[-2] <= matrices.shape[-1]
    x = matrices if wide else matrices.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(iterations):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x if wide else x.mT


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
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if not parameters:
                continue
            updates = (self._muon if group["orthogonal"] else self._adam)(parameters, group)
            torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
            torch._foreach_add_(parameters, updates, alpha=-group["lr"])

    def _muon(self, parameters: list[nn.Parameter], group: dict[str, Any]) -> list[torch.Tensor]:
        gradients = [_gradient(parameter) for parameter in parameters]
        velocities = self._moments(parameters, "momentum")
        torch._foreach_lerp_(velocities, gradients, 1 - group["momentum"])
        nesterov = torch._foreach_lerp(gradients, velocities, group["momentum"])
        # Those of one shape together: on a GPU, a hundred small products cost a hundred times as much as a large one.
        alike = defaultdict(list)
        for i, matrix in enumerate(nesterov):
            alike[matrix.flatten(1).shape].append(i)
        updates = list(nesterov)
        for shape, places in alike.items():
            stacked = torch.stack([nesterov[i].flatten(1) for i in places])
            for i, update in zip(places, orthogonalise(stacked) * (0.2 * max(shape) ** 0.5), strict=True):
                updates[i] = update.reshape(parameters[i].shape)
        return updates

    def _adam(self, parameters: list[nn.Parameter], group: dict[str, Any]) -> list[torch.Tensor]:
        gradients = [_gradient(parameter) for parameter in parameters]
        means, squares = self._moments(parameters, "mean"), self._moments(parameters, "square")
        counts = []
        for parameter in parameters:
            step = self.state[parameter].setdefault("step", torch.zeros(()))  # on the CPU, wherever the rest is
            step += 1
            counts.append(float(step))
        beta1, beta2 = group["betas"]
        torch._foreach_lerp_(means, gradients, 1 - beta1)
        torch._foreach_lerp_(squares, torch._foreach_mul(gradients, gradients), 1 - beta2)
        roots = torch._foreach_sqrt(torch._foreach_div(squares, [1 - beta2**count for count in counts]))
        torch._foreach_add_(roots, 1e-8)
        return list(torch._foreach_div(torch._foreach_div(means, [1 - beta1**count for count in counts]), roots))

    def _moments(self, parameters: list[nn.Parameter], name: str) -> list[torch.Tensor]:
        for parameter in parameters:
            if name not in self.state[parameter]:
                self.state[parameter][name] = torch.zeros_like(parameter)
        return [self.state[parameter][name] for parameter in parameters]


def _gradient(parameter: nn.Parameter) -> torch.Tensor:
    assert parameter.grad is not None
    return parameter.grad


def muon(model: nn.Module, lr: float, weight_decay: float, beta2: float) -> Muon:
    """Muon for a model: convolutions and linear layers are matrices, embeddings and the rest are not."""
    tables = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    trained = [p for p in model.parameters() if p.requires_grad]
    matrices = [p for p in trained if p.ndim >= 2 and id(p) not in tables]
    vectors = [p for p in trained if p.ndim < 2 or id(p) in tables]
    return Muon(matrices, vectors, lr, betas=(0.9, beta2), weight_decay=weight_decay)
