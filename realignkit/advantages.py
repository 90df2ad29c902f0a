"""What rewards say of a model's own pictures, compared within groups of pictures, and taken together (GDPO)."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


_ROUNDING = 1e-6
"""Of numbers of about 1, what may be float32's rounding."""


def alike(values: Tensor) -> bool:
    """Whether values (B,), on the CPU, differ by rounding alone, if they differ at all."""
    return not float(values.std(correction=0)) > _ROUNDING * float(values.abs().max())


def standardised(values: Tensor, groups: Sequence[Hashable]) -> Tensor:
    """Values (B,) with mean 0 and standard deviation 1 over each group; 0 in groups whose values are all alike.

    Args:
        values: float (B,), on the CPU.
        groups: of each value what it shares with those that it is compared with, such as the prompt.
    """
    import torch

    standard = torch.zeros_like(values)
    for group in dict.fromkeys(groups):
        members = torch.tensor([other == group for other in groups])
        if not alike(among := values[members]):
            standard[members] = (among - among.mean()) / among.std(correction=0)
    return standard


def advantages(rewards: Mapping[str, Tensor], weights: Mapping[str, float], groups: Sequence[Hashable]) -> Tensor:
    """How much better each picture is than the others of its group, by all rewards: ``sum_k w_k A_k`` (B,).

    ``A_k = (R_k - mean) / std`` over the group, of each reward by itself (GDPO; Liu et al., 2026, arXiv:2601.05242).
    So weights compare whatever the scales of the rewards, and a reward in which a group's pictures do not differ takes
    nothing from the others there, as it would in a sum that is standardised afterwards. With one reward of weight 1 it
    is the advantage of GRPO (Shao et al., 2024). GDPO's last step, which divides by the batch's standard deviation, is
    left out: a picture's advantage is that of its group, whatever else is in the batch.

    Args:
        rewards: name -> float (B,), on the CPU, higher is better.
        weights: by the same names.
        groups: see :func:`standardised`.
    """
    import torch

    parts = [weights[name] * standardised(values.float(), groups) for name, values in rewards.items()]
    total = torch.stack(parts).sum(0)
    total[total.abs() < _ROUNDING * sum(map(abs, weights.values()))] = 0  # rewards that contradict each other
    return total
