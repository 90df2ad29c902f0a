"""Modulated attention on a CPU in one pass: similarities are computed once, in blocks, and used while cached."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK = 2**20
"""Similarities in a block: few enough to stay in the cache between passes, enough for products at full speed."""


MANY = 1024
"""Keys from which on it pays to take the rows outside all objects apart: with fewer, moving a row costs as much as
attending."""


def one_pass_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    queries: Tensor,
    keys: Tensor,
    amount: Tensor,
    *,
    rows: Tensor,
    bias: Tensor | None = None,
    hidden: Tensor | None = None,
) -> Tensor:
    """:func:`~realignkit.attention.modulation.fast_attention` without a gradient, for float32 and float64.

    Args:
        query: as there, as are ``key``, ``value``, ``queries``, ``keys``, ``amount``, ``rows`` and ``bias``.
        amount: see there, in ``query``'s dtype.
        hidden: bool, of ``bias``'s shape: keys that a row's minimum and maximum leave out.

    Returns:
        (batch, heads, N, e).
    """
    length, count = query.shape[2], key.shape[2]
    if count >= MANY and len(rows) < length:
        plain = torch.ones(length, dtype=torch.bool, device=query.device)
        plain[rows] = False
        out = query.new_empty((*query.shape[:3], value.shape[-1]))
        # Outside all objects rows are only scaled: plain attention of scaled queries.
        scaled = query[:, :, plain] * (1 - amount[:, None, plain, None])
        mask = None if bias is None else _rows(bias, plain).to(query.dtype)
        out[:, :, plain] = F.scaled_dot_product_attention(scaled, key, value, attn_mask=mask)
        some = None if bias is None else _rows(bias, rows)
        out[:, :, rows] = _blocks(
            query[:, :, rows], key, value, queries[:, rows], keys, amount[:, rows], some,
            None if hidden is None else _rows(hidden, rows),
        )  # fmt: skip
        return out
    return _blocks(query, key, value, queries, keys, amount, bias, hidden)


def _blocks(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    queries: Tensor,
    keys: Tensor,
    amount: Tensor,
    bias: Tensor | None,
    hidden: Tensor | None,
) -> Tensor:
    batch, heads, length, width = query.shape
    count = key.shape[2]

    def each_head(states: Tensor, *shape: int) -> Tensor:
        return states.expand(batch, heads, *shape).flatten(0, 1)

    scaled = (query / math.sqrt(width)).flatten(0, 1)
    transposed, values = key.flatten(0, 1).transpose(-1, -2), value.flatten(0, 1)
    kept = each_head((1 - amount)[:, None, :, None], length, 1)
    lifted = each_head((amount[..., None] * queries)[:, None], length, queries.shape[-1])
    members = each_head(keys.to(query.dtype).transpose(-1, -2)[:, None], keys.shape[-1], count)
    added = None if bias is None else each_head(bias, -1, -1)
    unseen = None if hidden is None else each_head(hidden, -1, -1)
    out = query.new_empty((batch * heads, length, value.shape[-1]))
    # Small layers: several heads at once; large ones: some rows of one.
    together, height = max(1, BLOCK // max(1, length * count)), max(1, BLOCK // count)
    buffer = query.new_empty(min(together, batch * heads) * min(height, length) * count)
    for first in range(0, batch * heads, together):
        group = slice(first, first + together)
        for top in range(0, length, height):
            part = slice(top, top + height)
            some = scaled[group, part]
            sim = buffer[: some.shape[0] * some.shape[1] * count].view(*some.shape[:2], count)
            torch.bmm(some, transposed[group], out=sim)
            if unseen is None:
                spread = sim.amax(-1, keepdim=True) - sim.amin(-1, keepdim=True)
            else:
                dark = _block(unseen, group, part)
                high, low = sim.masked_fill(dark, -math.inf), sim.masked_fill(dark, math.inf)
                spread = high.amax(-1, keepdim=True) - low.amin(-1, keepdim=True)
            sim.mul_(kept[group, part]).baddbmm_(spread * lifted[group, part], members[group])
            if added is not None:
                sim.add_(_block(added, group, part))
            torch.softmax(sim, -1, out=sim)
            torch.bmm(sim, values[group], out=out[group, part])
    return out.view(batch, heads, length, value.shape[-1])


def _rows(mask: Tensor, rows: Tensor) -> Tensor:
    """Some rows of a mask (…, 1 or N, K)."""
    return mask if mask.shape[-2] == 1 else mask[..., rows, :]


def _block(mask: Tensor, group: slice, part: slice) -> Tensor:
    return mask[group] if mask.shape[1] == 1 else mask[group, part]
