"""The exact fast form of modulated attention, for objects that do not overlap: memory O(N), no matrix written out.

Both branches of the equations (:mod:`.modulation`) are affine in ``sim``. With ``a = lambda_t * S * (1 - B)``, which
depends on the query alone, and because a softmax ignores a constant per row,

    softmax(sim + S * M) = softmax((1 - a) * sim + a * (rowmax - rowmin) * R)

and if a query lies in one object at most, ``R = P_q P_k^T`` is a product of one-hot memberships. So this is ordinary
scaled-dot-product attention on slightly widened heads, one pass over blocks of similarities, or a GPU's one kernel.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from realignkit.attention.fused import Packed, fused_attention, is_fused, packed
from realignkit.attention.modulation import HIDDEN, computing

T = TypeVar("T")

LONG = 1024
"""Queries from which on a CPU computes in one pass (1.2 to 1.5 times plain attention, where widened heads take 1.6 to
2); smaller layers take little of the time, and widened heads keep the pictures of small models to the bit."""

CHUNK = {"cpu": 2**22, "cuda": 2**25}
"""Similarities held at once by :func:`row_range`: enough rows for products at full speed, little beside a model."""

BLOCK = 2**19
"""Similarities in a block: few enough to stay in the cache between passes, enough for products at full speed."""

MANY = 1024
"""Keys from which on it pays to take the rows outside all objects apart (with fewer, moving a row costs as much as
attending), and to give each thread blocks of its own."""


@dataclass(frozen=True, eq=False)
class Members:
    """Which objects queries and keys belong to.

    Attributes:
        queries: ``P_q``, bool (batch, N, n).
        keys: ``P_k``, bool (batch, K, n): masks for self-attention, phrases for cross-attention.
        rows: int (m,), the queries that lie in an object, where they are known; only they need a row range.
    """

    queries: Tensor
    keys: Tensor
    rows: Tensor | None = None

    @cached_property
    def packed(self) -> Packed:
        """What a GPU's kernel reads of them."""
        return packed(self.queries, self.keys, (0, self.keys.shape[1]))


@dataclass(frozen=True, eq=False)
class Keys:
    """Keys of one kind, which have row ranges of their own: all of a layer, or the text or image tokens of a joint one.

    Attributes:
        at: their places among the keys.
        members: ``P_k``, bool (batch, keys, n).
        amount: ``a`` with which each query attends to them, float (batch, N).
    """

    at: slice
    members: Tensor
    amount: Tensor


def fast_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    members: Members,
    amount: Tensor,
    bias: Tensor | None = None,
) -> Tensor:
    """Modulated attention, memory O(N), by the cheapest way: one launch on a GPU, one pass on a CPU, or widened heads.

    One pass is for long layers on a CPU that need no gradient: there the row range costs as much as attention itself,
    and one pass has it from the same similarities. So does the GPU's kernel.

    Args:
        query: (batch, heads, N, d); key: (batch, heads, K, d); value: (batch, heads, K, e), any float dtype.
        members: at most one object per query.
        amount: ``a = lambda_t * S * (1 - B)``, float (batch, N); see :func:`clamped`.
        bias: additive attention mask, broadcastable to (batch, heads, N, K).

    Returns:
        (batch, heads, N, e) in ``query``'s dtype.
    """
    learning = torch.is_grad_enabled() and any(each.requires_grad for each in (query, key, value, amount))
    if not learning and is_fused(query, key, value, members.queries.shape[-1]):
        return fused_attention(query, key, value, members.packed, amount[None], bias)
    exact = computing(query.dtype)
    if query.device.type == "cpu" and query.dtype == exact and query.shape[2] >= LONG and not learning:
        return one_pass_attention(query, key, value, members, amount.to(exact), bias)
    return widened_attention(query, key, value, members, amount, bias)


def widened_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    members: Members,
    amount: Tensor,
    bias: Tensor | None = None,
) -> Tensor:
    """:func:`fast_attention` as plain scaled-dot-product attention on widened heads, of the same arguments.

    ``q'' = [(1 - a) q / sqrt(d), a * range * P_q]``, ``k'' = [k, P_k]``, scale 1, width padded to a multiple of 8.
    """
    batch, heads, length, width = query.shape
    dtype, exact = query.dtype, computing(query.dtype)
    amount, rows = amount.to(exact)[:, None, :], members.rows
    if rows is None:
        lift = amount * row_range(query, key, bias)
    else:
        lift = torch.zeros((batch, heads, length), dtype=exact, device=query.device)
        row_bias = None if bias is None else rows_of(bias, rows)
        lift[:, :, rows] = amount[:, :, rows] * row_range(query[:, :, rows], key, row_bias)
    # In half precision the lift is carried by two columns, a rounded value and what rounding it lost.
    parts = [lift.to(dtype)]
    if dtype != exact:
        parts.append((lift - parts[0].to(exact)).to(dtype))

    objects = members.queries.shape[-1]
    columns = width + objects * len(parts)
    padded = -(-max(columns, value.shape[-1]) // 8) * 8
    wide_q = query.new_zeros((batch, heads, length, padded))
    wide_k = key.new_zeros((batch, heads, key.shape[2], padded))
    wide_q[..., :width] = query.to(exact) * ((1 - amount) / math.sqrt(width))[..., None]
    wide_k[..., :width] = key
    member_q, member_k = members.queries.to(dtype)[:, None], members.keys.to(dtype)[:, None]
    for i, part in enumerate(parts):
        start = width + i * objects
        wide_q[..., start : start + objects] = part[..., None] * member_q
        wide_k[..., start : start + objects] = member_k
    # Flash kernels want one width for q, k and v.
    wide_v = F.pad(value, (0, padded - value.shape[-1]))
    mask = None if bias is None else bias.to(dtype)
    out = F.scaled_dot_product_attention(wide_q, wide_k, wide_v, attn_mask=mask, scale=1.0)
    return out[..., : value.shape[-1]]


def row_range(query: Tensor, key: Tensor, bias: Tensor | None = None) -> Tensor:
    """``rowmax - rowmin``, float (batch, heads, N), of the arguments of :func:`row_bounds`."""
    low, high = row_bounds(query, key, bias)
    return high - low


def row_bounds(query: Tensor, key: Tensor, bias: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """``rowmin`` and ``rowmax`` of ``Q K^T / sqrt(d)`` without ever holding that matrix.

    Args:
        query: (batch, heads, N, d); key: (batch, heads, K, d).
        bias: additive attention mask, broadcastable to (batch, heads, N, K); hidden keys do not count.

    Returns:
        Both (batch, heads, N) in float32 (float64 for float64): the range multiplies masks of ones, so its error would
        shift whole regions at once.
    """
    dtype = computing(query.dtype)
    batch, heads, length, width = query.shape
    scaled = (query.to(dtype) / math.sqrt(width)).flatten(0, 1)
    transposed = key.to(dtype).transpose(-1, -2).flatten(0, 1).contiguous()
    low, high = (torch.empty(query.shape[:-1], dtype=dtype, device=query.device) for _ in range(2))
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
            high[:, :, rows], low[:, :, rows] = sim.amax(-1), sim.amin(-1)
        else:
            hidden = (bias if bias.shape[-2] == 1 else bias[..., rows, :]) <= HIDDEN
            high[:, :, rows] = sim.masked_fill(hidden, -math.inf).amax(-1)
            low[:, :, rows] = sim.masked_fill(hidden, math.inf).amin(-1)
    return low, high


def _chunks(length: int, per_row: int, device: str) -> Iterator[slice]:
    step = max(1, CHUNK.get(device, CHUNK["cuda"]) // max(1, per_row))
    for start in range(0, length, step):
        yield slice(start, start + step)


def one_pass_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    members: Members,
    amount: Tensor,
    bias: Tensor | None = None,
) -> Tensor:
    """:func:`fast_attention` on a CPU without a gradient, for float32 and float64, of the same arguments.

    Similarities are computed once, in blocks, and used while they are cached. ``amount``: in ``query``'s dtype.
    """
    rows = members.queries.any(-1).any(0).nonzero()[:, 0] if members.rows is None else members.rows
    length, count = query.shape[2], key.shape[2]
    if count >= MANY and len(rows) < length:
        plain = torch.ones(length, dtype=torch.bool, device=query.device)
        plain[rows] = False
        out = query.new_empty((*query.shape[:3], value.shape[-1]))
        # Outside all objects rows are only scaled: plain attention of scaled queries.
        scaled = query[:, :, plain] * (1 - amount[:, None, plain, None])
        mask = None if bias is None else rows_of(bias, plain).to(query.dtype)
        out[:, :, plain] = F.scaled_dot_product_attention(scaled, key, value, attn_mask=mask)
        some = None if bias is None else rows_of(bias, rows)
        kinds = [Keys(slice(None), members.keys, amount[:, rows])]
        out[:, :, rows] = in_blocks(query[:, :, rows], key, value, members.queries[:, rows], kinds, some)
        return out
    return in_blocks(query, key, value, members.queries, [Keys(slice(None), members.keys, amount)], bias)


def in_blocks(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    members: Tensor,
    kinds: Sequence[Keys],
    bias: Tensor | None = None,
) -> Tensor:
    """Modulated attention, each similarity computed once and used while it is cached.

    Args:
        query: (batch, heads, N, d); key: (batch, heads, K, d); value: (batch, heads, K, e), float32 or float64.
        members: ``P_q``, bool (batch, N, n).
        kinds: disjoint; keys of none of them are attended to as they are.
        bias: additive attention mask, broadcastable to (batch, heads, N, K).

    Returns:
        (batch, heads, N, e).
    """
    batch, heads, length, width = query.shape
    count = key.shape[2]

    def each_head(states: Tensor, *shape: int) -> Tensor:
        return states.expand(batch, heads, *shape).flatten(0, 1)

    scaled = (query / math.sqrt(width)).flatten(0, 1)
    transposed, values = key.flatten(0, 1).transpose(-1, -2), value.flatten(0, 1)
    objects = members.shape[-1]
    # Of one kind alone, a * rowmin is a constant that the softmax ignores.
    alone = len(kinds) == 1 and len(range(*kinds[0].at.indices(count))) == count
    prepared = []
    for kind in kinds:
        kept = each_head((1 - kind.amount)[:, None, :, None], length, 1)
        lifted = each_head((kind.amount[..., None] * members)[:, None], length, objects)
        shared = each_head(kind.members.to(query.dtype).transpose(-1, -2)[:, None], objects, kind.members.shape[1])
        if not alone:
            shared = torch.cat([shared, torch.ones_like(shared[:, :1])], 1)
        prepared.append((kind.at, kept, lifted, shared))
    added = None if bias is None else each_head(bias, -1, -1)
    unseen = None if bias is None else each_head(bias <= HIDDEN, -1, -1)
    out = query.new_empty((batch * heads, length, value.shape[-1]))
    # Small layers: several heads at once; large ones: some rows of one.
    together, height = max(1, BLOCK // max(1, length * count)), max(1, BLOCK // count)

    def compute(blocks: Sequence[tuple[slice, slice]]) -> None:
        buffer = query.new_empty(min(together, batch * heads) * min(height, length) * count)
        for group, part in blocks:
            some = scaled[group, part]
            sim = buffer[: some.shape[0] * some.shape[1] * count].view(*some.shape[:2], count)
            torch.bmm(some, transposed[group], out=sim)
            for at, kept, lifted, shared in prepared:
                some = sim[..., at]
                if unseen is None:
                    high, low = some.amax(-1, keepdim=True), some.amin(-1, keepdim=True)
                else:
                    dark = _block(unseen, group, part)[..., at]
                    high = some.masked_fill(dark, -math.inf).amax(-1, keepdim=True)
                    low = some.masked_fill(dark, math.inf).amin(-1, keepdim=True)
                rise = (high - low) * lifted[group, part]
                if not alone:
                    rise = torch.cat([rise, low * (1 - kept[group, part])], -1)
                some.mul_(kept[group, part]).baddbmm_(rise, shared[group])
            if added is not None:
                sim.add_(_block(added, group, part))
            torch.softmax(sim, -1, out=sim)
            torch.bmm(sim, values[group], out=out[group, part])

    groups = [slice(first, first + together) for first in range(0, batch * heads, together)]
    parts = [slice(top, top + height) for top in range(0, length, height)]
    blocks = [(group, part) for group in groups for part in parts]
    if count >= MANY:
        _in_threads(compute, blocks)
    else:  # too little in a block: threads of Python's would wait for the interpreter instead
        compute(blocks)
    return out.view(batch, heads, length, value.shape[-1])


def _in_threads(compute: Callable[[Sequence[T]], None], items: Sequence[T]) -> None:
    """Compute shares of some items in as many threads as torch has, each of which computes all of its share alone.

    Threads that share an operation wait for each other at its end. A block takes ten short ones, and where other
    programs run, that waiting takes several times the computing.
    """
    threads, inference = torch.get_num_threads(), torch.is_inference_mode_enabled()
    if threads == 1 or len(items) == 1:
        return compute(items)

    def alone(share: Sequence[T]) -> None:
        torch.set_num_threads(1)  # of this thread, and of those that begin before it is taken back
        with torch.inference_mode(inference), torch.no_grad():
            compute(share)

    try:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(alone, (items[start::threads] for start in range(min(threads, len(items))))))
    finally:
        torch.set_num_threads(threads)


def rows_of(mask: Tensor, rows: Tensor) -> Tensor:
    """Some rows of a mask (…, 1 or N, K)."""
    return mask if mask.shape[-2] == 1 else mask[..., rows, :]


def _block(mask: Tensor, group: slice, part: slice) -> Tensor:
    return mask[group] if mask.shape[1] == 1 else mask[group, part]
