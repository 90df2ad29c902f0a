"""Modulated attention on a GPU in one launch: memory O(N), no pass over the similarities that leaves the chip.

It computes what :mod:`.fast` and :mod:`.joint` compute as attention on widened heads, which stays for what needs
gradients, and where Triton, which torch brings along on Linux, cannot compile.
"""

from __future__ import annotations

import functools
import importlib
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

OBJECTS = 31
"""How many objects the bits of a number tell apart."""

ROOMY = {(8, 0), (9, 0), (10, 0), (10, 3)}
"""Compute capabilities of cards that have 160 KB of shared memory or more."""


@dataclass(frozen=True, eq=False)
class Packed:
    """What the kernel reads of a layer's objects; made once for a layout.

    Attributes:
        queries: int32 (batch, N), a bit for each object that a query lies in. keys: int32 (batch, K), likewise.
        bounds: int32 (spans + 1,), where the spans of keys, which cover all of them, begin and end.
        ends: the same numbers.
    """

    queries: Tensor
    keys: Tensor
    bounds: Tensor
    ends: tuple[int, ...]


def packed(queries: Tensor, keys: Tensor, ends: Sequence[int]) -> Packed:
    """Pack memberships, bool (batch, N, n) and (batch, K, n); ``ends``: where spans of keys begin and end."""
    bounds = torch.tensor(list(ends), dtype=torch.int32).to(queries.device)
    return Packed(_bits(queries), _bits(keys), bounds, tuple(ends))


def _bits(members: Tensor) -> Tensor:
    powers = 2 ** torch.arange(members.shape[-1], dtype=torch.int32, device=members.device)
    return (members * powers).sum(-1, dtype=torch.int32).contiguous()


def fused_attention(
    query: Tensor, key: Tensor, value: Tensor, layout: Packed, amounts: Tensor, bias: Tensor | None = None
) -> Tensor:
    """Modulated attention in one launch.

    Args:
        query: (batch, heads, N, d); key: (batch, heads, K, d); value: (batch, heads, K, e), of one dtype that
            :func:`is_fused` takes.
        layout: which objects queries and keys belong to, and the spans of keys that have row ranges of their own.
        amounts: ``a`` with which each query attends to each span, float (spans, batch, N).
        bias: additive attention mask, broadcastable to (batch, heads, N, K).

    Returns:
        (batch, heads, N, e), laid out as (batch, N, heads, e), which is what networks go on with.
    """
    batch, heads, length, width = query.shape
    count, values = value.shape[-2:]
    query, key, value = (each if each.stride(-1) == 1 else each.contiguous() for each in (query, key, value))
    out = query.new_empty((batch, length, heads, values)).transpose(1, 2)
    mask = out if bias is None else bias.expand(batch, heads, length, count)
    block_width, block_values = (max(16, 1 << (each - 1).bit_length()) for each in (width, values))
    block_rows, block_keys, warps, stages = tiles(max(block_width, block_values), query.dtype, query.device)
    _kernel()[(-(-length // block_rows), batch * heads)](
        query,
        key,
        value,
        out,
        mask,
        layout.queries,
        layout.keys,
        amounts.to(torch.float32).contiguous(),
        layout.bounds,
        *(each.stride()[:3] for each in (query, key, value, out)),
        mask.stride(),
        batch,
        heads,
        length,
        count,
        1 / math.sqrt(width),
        SPANS=len(layout.ends) - 1,
        WIDTH=width,
        VALUES=values,
        BLOCK_WIDTH=block_width,
        BLOCK_VALUES=block_values,
        BLOCK_ROWS=block_rows,
        BLOCK_KEYS=block_keys,
        EVEN=not any(end % block_keys for end in layout.ends),
        BIASED=bias is not None,
        PRECISION="ieee" if query.dtype == torch.float32 else "tf32",
        num_warps=warps,
        num_stages=stages,
    )
    return out


def _kernel() -> Any:
    return importlib.import_module("realignkit.attention.kernel").attend


def tiles(width: int, dtype: torch.dtype, device: torch.device) -> tuple[int, int, int, int]:
    """Queries and keys of a tile, warps, and stages of the pipeline that loads keys, for padded heads."""
    if dtype == torch.float32:
        return 32, 32, 4, 1
    if width > 128:
        return 64, 32, 4, 2
    if width <= 64:
        return 128, 64, 4, 3
    roomy = device.type == "cuda" and torch.cuda.get_device_capability(device) in ROOMY
    return 128, 64, 8, 3 if roomy else 2


def is_fused(query: Tensor, key: Tensor, value: Tensor, objects: int) -> bool:
    """Whether :func:`fused_attention`, which has no gradient, computes these; a first use on a device tries it."""
    if query.device.type != "cuda" or objects > OBJECTS or max(query.shape[-1], value.shape[-1]) > 256:
        return False
    return query.dtype == key.dtype == value.dtype and compiles(query.device, query.dtype, query.shape[-1])


@functools.cache
def compiles(device: torch.device, dtype: torch.dtype, width: int) -> bool:
    """Whether the kernel runs on a device, which takes Triton, a C compiler and, in bfloat16, a card that has it."""
    if dtype not in (torch.float16, torch.bfloat16, torch.float32):
        return False
    states = torch.zeros(1, 1, 64, width, dtype=dtype, device=device)
    members = torch.ones(1, 64, 1, dtype=torch.bool, device=device)
    try:
        fused_attention(states, states, states, packed(members, members, (0, 64)), states.new_ones(1, 1, 64))
        torch.cuda.synchronize(device)
    except Exception as error:  # of Triton's own, its compilers' or the driver's
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        logger.warning("modulated attention takes its slower form on %s, as Triton does not run: %s", device, reason)
        return False
    return True
