"""Modulated attention as one kernel of Triton's, for :mod:`.fused`; this module alone needs Triton.

A program computes a tile of queries of one head. It goes by the keys of each span twice: for the least and the largest
similarity of each row, where the row needs them, and then as flash attention does, with

    (1 - a) * sim + a * rowmin + a * (rowmax - rowmin) * R + bias

in the place of ``sim``. All of it is in units of ``log2(e)``, for powers of two are what a GPU has.
"""

from __future__ import annotations

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
HIDDEN = tl.constexpr(-1e3)


@triton.jit
def _tile(states, places, end, stride, dims, WIDTH: tl.constexpr, WHOLE: tl.constexpr):
    """States (places, dims) of one head; beyond ``end`` and ``WIDTH`` they are 0."""
    pointers = states + places.to(tl.int64)[:, None] * stride + dims[None, :]
    if WHOLE:
        return tl.load(pointers)
    return tl.load(pointers, mask=(places < end)[:, None] & (dims < WIDTH)[None, :], other=0.0)


@triton.jit
def attend(
    query,  # (batch, heads, length, WIDTH), as key and value by strides of all axes but the last, whose stride is 1
    key,
    value,
    out,
    bias,  # additive, by strides of all axes; not read unless BIASED
    query_bits,  # int32 (batch, length): a bit for each object
    key_bits,  # int32 (batch, count)
    amounts,  # a, float32 (SPANS, batch, length)
    bounds,  # int32 (SPANS + 1,): where the spans of keys begin and end
    query_strides,
    key_strides,
    value_strides,
    out_strides,
    bias_strides,
    batch,
    heads,
    length,
    count,
    scale,
    SPANS: tl.constexpr,
    WIDTH: tl.constexpr,
    VALUES: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
    BLOCK_VALUES: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_KEYS: tl.constexpr,
    EVEN: tl.constexpr,  # whether all spans are whole blocks
    BIASED: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """A tile of queries of one head; ``program_id``: which tile, and which head of the batch."""
    sample, head = tl.program_id(1) // heads, tl.program_id(1) % heads
    place = sample.to(tl.int64)
    rows = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    inside = rows < length
    dims, value_dims = tl.arange(0, BLOCK_WIDTH), tl.arange(0, BLOCK_VALUES)
    WHOLE_KEYS: tl.constexpr = EVEN and WIDTH == BLOCK_WIDTH
    WHOLE_VALUES: tl.constexpr = EVEN and VALUES == BLOCK_VALUES
    query += place * query_strides[0] + head * query_strides[1]
    key += place * key_strides[0] + head * key_strides[1]
    value += place * value_strides[0] + head * value_strides[1]
    key_bits += place * count
    q = _tile(query, rows, length, query_strides[2], dims, WIDTH, False)
    own = tl.load(query_bits + place * length + rows, mask=inside, other=0)
    if BIASED:
        bias += place * bias_strides[0] + head * bias_strides[1]
        bias_rows = bias + rows.to(tl.int64) * bias_strides[2]

    top = tl.full([BLOCK_ROWS], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_ROWS], tl.float32)
    mixed = tl.zeros([BLOCK_ROWS, BLOCK_VALUES], tl.float32)
    for span in range(SPANS):
        begin = tl.load(bounds + span)
        end = tl.load(bounds + span + 1)
        amount = tl.load(amounts + (span * batch + place) * length + rows, mask=inside, other=0.0)
        needed = amount
        if SPANS == 1:  # a * rowmin is a constant of the row, so that rows outside all objects are only scaled
            needed = tl.where(own != 0, amount, 0.0)
        low = tl.zeros([BLOCK_ROWS], tl.float32)
        high = tl.zeros([BLOCK_ROWS], tl.float32)
        if tl.max(tl.abs(needed), 0) > 0:
            low += float("inf")
            high += float("-inf")
            for start in range(begin, end, BLOCK_KEYS):
                columns = start + tl.arange(0, BLOCK_KEYS)
                k = _tile(key, columns, end, key_strides[2], dims, WIDTH, WHOLE_KEYS)
                sim = tl.dot(q, tl.trans(k), input_precision=PRECISION)
                above = sim
                below = sim
                if not EVEN:
                    seen = (columns < end)[None, :]
                    above = tl.where(seen, above, float("-inf"))
                    below = tl.where(seen, below, float("inf"))
                if BIASED:
                    here = bias_rows[:, None] + columns.to(tl.int64)[None, :] * bias_strides[3]
                    mask = inside[:, None] & (columns < end)[None, :]
                    shown = tl.load(here, mask=mask, other=0.0).to(tl.float32) > HIDDEN
                    above = tl.where(shown, above, float("-inf"))
                    below = tl.where(shown, below, float("inf"))
                high = tl.maximum(high, tl.max(above, 1))
                low = tl.minimum(low, tl.min(below, 1))
            some = low <= high  # not where all keys of the span are hidden
            low = tl.where(some, low, 0.0) * scale * LOG2E
            high = tl.where(some, high, 0.0) * scale * LOG2E
        kept = (1 - amount) * scale * LOG2E
        outside = amount * low
        common = outside + amount * (high - low)
        for start in range(begin, end, BLOCK_KEYS):
            columns = start + tl.arange(0, BLOCK_KEYS)
            k = _tile(key, columns, end, key_strides[2], dims, WIDTH, WHOLE_KEYS)
            sim = tl.dot(q, tl.trans(k), input_precision=PRECISION)
            bits = tl.load(key_bits + columns, mask=columns < end, other=0)
            shared = (own[:, None] & bits[None, :]) != 0
            sim = sim * kept[:, None] + tl.where(shared, common[:, None], outside[:, None])
            if BIASED:
                here = bias_rows[:, None] + columns.to(tl.int64)[None, :] * bias_strides[3]
                mask = inside[:, None] & (columns < end)[None, :]
                sim += tl.load(here, mask=mask, other=0.0).to(tl.float32) * LOG2E
            if not EVEN:
                sim = tl.where((columns < end)[None, :], sim, float("-inf"))
            best = tl.maximum(top, tl.max(sim, 1))
            shift = tl.where(best == float("-inf"), 0.0, best)  # a bias may hide all keys so far
            weights = tl.exp2(sim - shift[:, None])
            faded = tl.exp2(top - shift)
            total = total * faded + tl.sum(weights, 1)
            v = _tile(value, columns, end, value_strides[2], value_dims, VALUES, WHOLE_VALUES)
            mixed = tl.dot(weights.to(v.dtype), v, mixed * faded[:, None], input_precision=PRECISION)
            top = best
    mixed = mixed / total[:, None]
    out += place * out_strides[0] + head * out_strides[1]
    pointers = out + rows.to(tl.int64)[:, None] * out_strides[2] + value_dims[None, :]
    tl.store(pointers, mixed.to(out.dtype.element_ty), mask=inside[:, None] & (value_dims < VALUES)[None, :])
