r"""Eqs. 7-10 as pure functions of tensors, word for word; the form that is computed where it can be is in :mod:`.fast`.

Shapes: ``...`` is any batch (usually batch x heads), ``N`` queries, ``K`` keys, ``d`` head width, ``n`` objects.

With ``sim = Q K^T / sqrt(d)`` the method attends with ``softmax(sim + S * M)`` (eq. 7), where

    M = lambda_t * R * (rowmax - sim) * (1 - B)  -  lambda_t * (1 - R) * (sim - rowmin) * (1 - B)     (eqs. 8, 10)

and ``lambda_t = w * (t / T)^p``, in the first steps of a run, whose calls a :class:`Schedule` knows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from realignkit.attention.config import ModulationConfig

HIDDEN = -1e3
"""Additive attention-mask entries at or below this hide a key: it takes no part in a row's minimum and maximum."""

DEFAULTS = ModulationConfig()
"""How is modulated where nothing is said: eqs. 7-10 with ``B`` the area of the region."""


@dataclass(frozen=True, eq=False)
class Schedule:
    """The network calls of one sampling run, without those that ``strength`` skips: their steps, and ``t / T`` of each.

    Attributes:
        timesteps: float64 (calls,), what the network is told, in order.
        steps: of each call the sampling step that it belongs to, from 0; solvers of second order call twice a step.
        train_timesteps: ``T_train``.
        logarithmic: whether timesteps are ``ln(sigma) / 4`` (the EDM solvers') instead of [0, ``T_train``].
        start: the noise level that levels are relative to.
    """

    timesteps: Tensor
    steps: tuple[int, ...]
    train_timesteps: int = 1000
    logarithmic: bool = False
    start: float = 1.0

    @classmethod
    def of_timesteps(cls, timesteps: Sequence[float] | Tensor, train_timesteps: int = 1000) -> Schedule:
        """A schedule with one call a step."""
        flat = torch.as_tensor(timesteps, dtype=torch.float64).cpu().flatten()
        logarithmic = len(flat) > 0 and flat.min() < 0 and flat.max() < 2
        return cls(flat, tuple(range(len(flat))), train_timesteps, bool(logarithmic))

    @property
    def count(self) -> int:
        """How many sampling steps there are."""
        return self.steps[-1] + 1

    def locate(self, timestep: float, last: int = -1) -> int:
        """Which call this is, by its timestep; ``last`` is the call before it.

        Nearest, not equal: half precision rounds timesteps. Of equal ones the first that is still to come.
        """
        distance = (self.timesteps - timestep).abs()
        near = (distance == distance.min()).nonzero()[:, 0].tolist()
        return next((call for call in near if call > last), last if last in near else near[0])

    def level(self, timestep: float) -> float:
        """``t / T`` of ``lambda_t``: the noise level in [0, 1], by default that of training.

        Flow-matching models' timesteps are ``T_train`` times the share of noise, sigma, so this is sigma. From
        ``ln(sigma) / 4``, of signal and sigma times as much noise, it is the same share, ``sigma / (1 + sigma)``.
        """
        if self.logarithmic:
            return 1 / (1 + math.exp(-4 * timestep)) / self.start
        return timestep / self.train_timesteps / self.start


def time_weight(timestep: float, weight: float, power: float, train_timesteps: int = 1000) -> float:
    """``lambda_t = w * (t / T_train)^p``: strong while the layout forms, fading out."""
    return weight * math.pow(timestep / train_timesteps, power)


def likelihood_scores(objects: Tensor, scores: Tensor, outside: float = 1.0) -> Tensor:
    """``S`` of eq. 9: the score of the object that a query lies in, 1 outside all objects.

    Args:
        objects: membership ``P_q``, bool (..., N, n).
        scores: ``s_i``, float (..., n).
        outside: the score outside all objects, if not eq. 9's.

    Returns:
        float (..., N). Where objects overlap, the largest of their scores.
    """
    if objects.shape[-1] == 0:
        return torch.full(objects.shape[:-1], outside, dtype=scores.dtype, device=scores.device)
    inside = scores.unsqueeze(-2).expand(objects.shape).masked_fill(~objects, -math.inf).amax(-1)
    return torch.where(objects.any(-1), inside, torch.full_like(inside, outside))


def area_fraction(objects: Tensor) -> Tensor:
    """``B`` of ``size_term="area"``: share of the image that the query's object covers, float (..., N).

    0 outside all objects; areas add up where objects overlap (as in DenseDiffusion).
    """
    membership = objects.float()
    return (membership * membership.mean(-2, keepdim=True)).sum(-1)


def region_matrix(queries: Tensor, keys: Tensor) -> Tensor:
    """``R``: bool (..., N, K), whether query and key belong to a common object.

    Args:
        queries: ``P_q``, bool (..., N, n).
        keys: ``P_k``, bool (..., K, n): masks for self-attention, phrases for cross-attention.
    """
    return (queries.float() @ keys.float().transpose(-1, -2)) > 0


def modulated_similarity(
    sim: Tensor,
    region: Tensor,
    weight: float,
    *,
    score: Tensor | float = 1.0,
    area: Tensor | float = 0.0,
    config: ModulationConfig = DEFAULTS,
    hidden: Tensor | None = None,
) -> Tensor:
    """``sim + S * M``, word for word (eqs. 7, 8 and 10).

    Args:
        sim: ``Q K^T / sqrt(d)``, float (..., N, K).
        region: ``R``, bool, broadcastable to ``sim``.
        weight: ``lambda_t``.
        score: ``S``, broadcastable to ``sim``; in the equations (..., N, 1).
        area: area fraction of the query's segment in [0, 1], broadcastable to (..., N, 1).
        config: whose ``size_term`` says what ``B`` is: that area, the similarity scaled to [0, 1] in each row, or 0;
            ``size_weight`` multiplies it; ``clamp`` keeps ``lambda_t * S * (1 - B)`` in [0, 1].
        hidden: bool, broadcastable to ``sim``: keys that the row's minimum and maximum leave out.

    Returns:
        What the softmax is to be given, of ``sim``'s shape and dtype.
    """
    shown_high = sim if hidden is None else sim.masked_fill(hidden, -math.inf)
    shown_low = sim if hidden is None else sim.masked_fill(hidden, math.inf)
    rowmax, rowmin = shown_high.amax(-1, keepdim=True), shown_low.amin(-1, keepdim=True)
    M_pos, M_neg = rowmax - sim, sim - rowmin
    B: Tensor | float = 0.0
    if config.size_term == "area":
        B = area.to(sim.dtype) if isinstance(area, Tensor) else area
    elif config.size_term == "similarity":
        B = (M_neg / (rowmax - rowmin).clamp_min(torch.finfo(sim.dtype).tiny)).clamp(0, 1)
    B = config.size_weight * B
    R, S = region.to(sim.dtype), score.to(sim.dtype) if isinstance(score, Tensor) else score
    if config.clamp:
        amount = clamped(torch.as_tensor(weight * S * (1 - B), dtype=sim.dtype, device=sim.device))
        return sim + amount * (R * M_pos - (1 - R) * M_neg)
    M = weight * R * M_pos * (1 - B) - weight * (1 - R) * M_neg * (1 - B)
    return sim + S * M


def amounts(weight: float, score: Tensor, area: Tensor, config: ModulationConfig) -> Tensor:
    """``a = lambda_t * S * (1 - B)`` of each query, where ``B`` does not depend on similarities.

    Args:
        weight: ``lambda_t``.
        score: ``S``, float (..., N).
        area: area fraction of each query's segment, float (..., N); ``B`` where ``size_term`` says so, else 0.
        config: see :func:`modulated_similarity`.
    """
    B = config.size_weight * area if config.size_term == "area" else 0.0
    amount = weight * score * (1 - B)
    return clamped(amount) if config.clamp else amount


def clamped(amount: Tensor) -> Tensor:
    """``a = lambda_t * S * (1 - B)`` in [0, 1]: above 1, and below 0 where areas add up, rows leave their range."""
    return amount.clamp(0, 1)


def literal_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    modulated: Callable[..., Tensor],
    bias: Tensor | None = None,
) -> Tensor:
    """Attention with modulated similarities, every queries x keys matrix written out: the oracle, and the general case.

    Args:
        query: (..., N, d); key: (..., K, d); value: (..., K, e). Half precisions are computed in float32.
        modulated: :func:`modulated_similarity` with all but ``sim`` and ``hidden`` given.
        bias: additive attention mask, broadcastable to (..., N, K), added after modulation.

    Returns:
        (..., N, e) in ``query``'s dtype.
    """
    dtype = computing(query.dtype)
    sim = query.to(dtype) @ key.to(dtype).transpose(-1, -2) / math.sqrt(query.shape[-1])
    sim = modulated(sim, hidden=None if bias is None else bias <= HIDDEN)
    if bias is not None:
        sim = sim + bias
    return (sim.softmax(-1) @ value.to(dtype)).to(query.dtype)


def computing(dtype: torch.dtype) -> torch.dtype:
    """The precision to compute similarities in: half precisions' are float32."""
    return torch.promote_types(dtype, torch.float32)
