r"""Eqs. 7-10 as pure functions of tensors: the literal form, and an exact form that costs little more than plain
attention.

Shapes: ``...`` is any batch (usually batch x heads), ``N`` queries, ``K`` keys, ``d`` head width, ``n`` objects.

With ``sim = Q K^T / sqrt(d)`` the method attends with ``softmax(sim + S * M)`` (eq. 7), where

    M = lambda_t * R * (rowmax - sim) * (1 - B)  -  lambda_t * (1 - R) * (sim - rowmin) * (1 - B)     (eqs. 8, 10)

Both branches are affine in ``sim``. With ``a = lambda_t * S * (1 - B)``, which depends on the query alone, and
because a softmax ignores a constant per row,

    softmax(sim + S * M) = softmax((1 - a) * sim + a * (rowmax - rowmin) * R)

and if a query lies in one object at most, ``R = P_q P_k^T`` is a product of one-hot memberships. So
:func:`fast_attention` is ordinary scaled-dot-product attention on slightly widened heads.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from realignkit.attention.config import ModulationConfig, SizeTerm
from realignkit.attention.fast import one_pass_attention

__all__ = [
    "ModulationConfig",
    "area_fraction",
    "clamped",
    "fast_attention",
    "likelihood_scores",
    "literal_attention",
    "modulated_similarity",
    "region_matrix",
    "row_range",
    "time_weight",
]

HIDDEN = -1e3
"""Additive attention-mask entries at or below this hide a key: it takes no part in a row's minimum and maximum."""

LONG = 1024
"""Queries from which on a CPU computes in one pass (1.2 to 1.5 times plain attention, where widened heads take 1.6 to
2); smaller layers take little of the time, and widened heads keep the pictures of small models to the bit."""

CHUNK = {"cpu": 2**22, "cuda": 2**25}
"""Similarities held at once by :func:`row_range`: enough rows for products at full speed, little beside a model."""


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
    size_term: SizeTerm = "area",
    size_weight: float = 1.0,
    suppress: Tensor | None = None,
    hidden: Tensor | None = None,
    clamp: bool = False,
) -> Tensor:
    """``sim + S * M``, word for word (eqs. 7, 8 and 10).

    Args:
        sim: ``Q K^T / sqrt(d)``, float (..., N, K).
        region: ``R``, bool, broadcastable to ``sim``.
        weight: ``lambda_t``.
        score: ``S``, broadcastable to (..., N, 1).
        area: area fraction of the query's segment in [0, 1], broadcastable to (..., N, 1).
        size_term: what ``B`` is: that area, the similarity scaled to [0, 1] in each row, or 0.
        size_weight: what ``B`` is multiplied by.
        suppress: bool, broadcastable to ``sim``: pairs that get ``-lambda_t * M_neg * (1 - B)`` whatever ``S`` is.
        hidden: bool, broadcastable to ``sim``: keys that the row's minimum and maximum leave out.
        clamp: keep ``lambda_t * S * (1 - B)`` in [0, 1], so that no similarity leaves the range of its row.

    Returns:
        What the softmax is to be given, of ``sim``'s shape and dtype.
    """
    shown_high = sim if hidden is None else sim.masked_fill(hidden, -math.inf)
    shown_low = sim if hidden is None else sim.masked_fill(hidden, math.inf)
    rowmax, rowmin = shown_high.amax(-1, keepdim=True), shown_low.amin(-1, keepdim=True)
    M_pos, M_neg = rowmax - sim, sim - rowmin
    B: Tensor | float = 0.0
    if size_term == "area":
        B = area.to(sim.dtype) if isinstance(area, Tensor) else area
    elif size_term == "similarity":
        B = (M_neg / (rowmax - rowmin).clamp_min(torch.finfo(sim.dtype).tiny)).clamp(0, 1)
    B = size_weight * B
    R, S = region.to(sim.dtype), score.to(sim.dtype) if isinstance(score, Tensor) else score
    if clamp:
        rest = torch.as_tensor(1 - B, dtype=sim.dtype, device=sim.device)
        change = clamped(weight * S * rest) * (R * M_pos - (1 - R) * M_neg)
        down = -clamped(weight * rest) * M_neg
    else:
        M = weight * R * M_pos * (1 - B) - weight * (1 - R) * M_neg * (1 - B)
        change, down = S * M, -weight * M_neg * (1 - B)
    return sim + (change if suppress is None else torch.where(suppress, down, change))


def clamped(amount: Tensor) -> Tensor:
    """``a = lambda_t * S * (1 - B)`` in [0, 1]: above 1, and below 0 where areas add up, rows leave their range."""
    return amount.clamp(0, 1)


def literal_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    region: Tensor,
    weight: float,
    *,
    score: Tensor | float = 1.0,
    area: Tensor | float = 0.0,
    size_term: SizeTerm = "area",
    size_weight: float = 1.0,
    suppress: Tensor | None = None,
    bias: Tensor | None = None,
    clamp: bool = False,
) -> Tensor:
    """Modulated attention with every queries x keys matrix written out: the oracle, and the general case.

    Args:
        query: (..., N, d); key: (..., K, d); value: (..., K, e). Half precisions are computed in float32.
        region: see :func:`modulated_similarity`, as are ``weight``, ``score``, ``area``, ``size_term``, ``suppress``.
        bias: additive attention mask, broadcastable to (..., N, K), added after modulation.
        clamp: see :func:`modulated_similarity`.

    Returns:
        (..., N, e) in ``query``'s dtype.
    """
    dtype = _computing(query.dtype)
    sim = query.to(dtype) @ key.to(dtype).transpose(-1, -2) / math.sqrt(query.shape[-1])
    sim = modulated_similarity(
        sim,
        region,
        weight,
        score=score,
        area=area,
        size_term=size_term,
        size_weight=size_weight,
        suppress=suppress,
        hidden=None if bias is None else bias <= HIDDEN,
        clamp=clamp,
    )
    if bias is not None:
        sim = sim + bias
    return (sim.softmax(-1) @ value.to(dtype)).to(query.dtype)


def row_range(query: Tensor, key: Tensor, bias: Tensor | None = None) -> Tensor:
    """``rowmax - rowmin`` of ``Q K^T / sqrt(d)`` without ever holding that matrix.

    Args:
        query: (batch, heads, N, d); key: (batch, heads, K, d).
        bias: additive attention mask, broadcastable to (batch, heads, N, K); hidden keys do not count.

    Returns:
        (batch, heads, N) in float32 (float64 for float64): the range multiplies masks of ones, so its error would
        shift whole regions at once.
    """
    dtype = _computing(query.dtype)
    batch, heads, length, width = query.shape
    scaled = (query.to(dtype) / math.sqrt(width)).flatten(0, 1)
    transposed = key.to(dtype).transpose(-1, -2).flatten(0, 1).contiguous()
    out = torch.empty(query.shape[:-1], dtype=dtype, device=query.device)
    # One buffer for all chunks: on a CPU, fresh pages for each cost more than what is computed in them.
    buffer = None
    for rows in _chunks(length, batch * heads * key.shape[2], query.device.type):
        some = scaled[:, rows]
        if torch.is_grad_enabled() and (query.requires_grad or key.requires_grad):
            flat = some @ transposed
        else:
            count = some.shape[0] * some.shape[1] * key.shape[2]
            buffer = some.new_empty(count) if buffer is None else buffer
            flat = torch.bmm(some, transposed, out=buffer[:count].view(*some.shape[:2], key.shape[2]))
        sim = flat.view(batch, heads, *flat.shape[1:])
        if bias is None:
            # amax and amin, not aminmax: the two vectorised passes beat the fused one.
            out[:, :, rows] = sim.amax(-1) - sim.amin(-1)
        else:
            hidden = (bias if bias.shape[-2] == 1 else bias[..., rows, :]) <= HIDDEN
            high, low = sim.masked_fill(hidden, -math.inf).amax(-1), sim.masked_fill(hidden, math.inf).amin(-1)
            out[:, :, rows] = high - low
    return out


def fast_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    queries: Tensor,
    keys: Tensor,
    amount: Tensor,
    *,
    bias: Tensor | None = None,
    rows: Tensor | None = None,
) -> Tensor:
    """Modulated attention as plain scaled-dot-product attention on widened heads: same result, memory O(N).

    Long layers on a CPU that need no gradient are computed by :func:`one_pass_attention` instead: there the row range
    costs as much as attention itself, and one pass has it from the same similarities.

    ``q'' = [(1 - a) q / sqrt(d), a * range * P_q]``, ``k'' = [k, P_k]``, scale 1, width padded to a multiple of 8.

    Args:
        query: (batch, heads, N, d); key: (batch, heads, K, d); value: (batch, heads, K, e), any float dtype.
        queries: ``P_q``, bool (batch, N, n), at most one object per query.
        keys: ``P_k``, bool (batch, K, n).
        amount: ``a = lambda_t * S * (1 - B)``, float (batch, N); see :func:`clamped`.
        bias: additive attention mask, broadcastable to (batch, heads, N, K).
        rows: int (m,), the queries that lie in an object, where the caller knows them; only they need a row range.

    Returns:
        (batch, heads, N, e) in ``query``'s dtype.
    """
    batch, heads, length, width = query.shape
    dtype, exact = query.dtype, _computing(query.dtype)
    learning = torch.is_grad_enabled() and any(each.requires_grad for each in (query, key, value, amount))
    if query.device.type == "cpu" and dtype == exact and length >= LONG and not learning:
        inside = queries.any(-1).any(0).nonzero()[:, 0] if rows is None else rows
        hidden = None if bias is None else bias <= HIDDEN
        amount = amount.to(exact)
        return one_pass_attention(query, key, value, queries, keys, amount, rows=inside, bias=bias, hidden=hidden)
    amount = amount.to(exact)[:, None, :]
    if rows is None:
        lift = amount * row_range(query, key, bias)
    else:
        lift = torch.zeros((batch, heads, length), dtype=exact, device=query.device)
        row_bias = bias if bias is None or bias.shape[-2] == 1 else bias[..., rows, :]
        lift[:, :, rows] = amount[:, :, rows] * row_range(query[:, :, rows], key, row_bias)
    # In half precision the lift is carried by two columns, a rounded value and what rounding it lost.
    parts = [lift.to(dtype)]
    if dtype != exact:
        parts.append((lift - parts[0].to(exact)).to(dtype))

    objects = queries.shape[-1]
    columns = width + objects * len(parts)
    padded = -(-max(columns, value.shape[-1]) // 8) * 8
    wide_q = query.new_zeros((batch, heads, length, padded))
    wide_k = key.new_zeros((batch, heads, key.shape[2], padded))
    wide_q[..., :width] = query.to(exact) * ((1 - amount) / math.sqrt(width))[..., None]
    wide_k[..., :width] = key
    member_q, member_k = queries.to(dtype)[:, None], keys.to(dtype)[:, None]
    for i, part in enumerate(parts):
        start = width + i * objects
        wide_q[..., start : start + objects] = part[..., None] * member_q
        wide_k[..., start : start + objects] = member_k
    # Flash kernels want one width for q, k and v.
    wide_v = F.pad(value, (0, padded - value.shape[-1]))
    mask = None if bias is None else bias.to(dtype)
    out = F.scaled_dot_product_attention(wide_q, wide_k, wide_v, attn_mask=mask, scale=1.0)
    return out[..., : value.shape[-1]]


def _computing(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _chunks(length: int, per_row: int, device: str) -> Iterator[slice]:
    step = max(1, CHUNK.get(device, CHUNK["cuda"]) // max(1, per_row))
    for start in range(0, length, step):
        yield slice(start, start + step)
