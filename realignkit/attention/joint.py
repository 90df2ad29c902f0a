"""Joint attention: text and image tokens in one sequence, under modulation. Plain functions of tensors.

A row of the joint sequence has two kinds of keys, text and image, and eqs. 8 and 10 hold for each by itself: with a
``lambda_t`` of its own, and the row's minimum and maximum over the keys of that kind. One softmax runs over both. So

    sim' = (1 - a) * sim + a * rowmin + a * (rowmax - rowmin) * R        with a, rowmin and rowmax of the key's kind

where ``a * rowmin`` is no constant of the row any more. Among the rows of one object everything but the range is the
same: ``1 - a`` can multiply the keys, and what is left is ordinary attention on heads with a few more columns.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from realignkit.attention.fast import Keys, in_blocks, row_bounds, rows_of
from realignkit.attention.fused import Packed, fused_attention, is_fused, packed
from realignkit.attention.modulation import HIDDEN, computing


@dataclass(frozen=True, eq=False)
class JointMembers:
    """Which objects the tokens of a joint sequence belong to, and how strongly each attends by that.

    Attributes:
        queries: ``P_q``, bool (batch, N, n).
        kinds: the keys, text and image; with at most one object in common with any query.
    """

    queries: Tensor
    kinds: tuple[Keys, ...]

    @cached_property
    def rows(self) -> Tensor:
        """Int (m,): the queries that are modulated in any sample."""
        touched = torch.stack([kind.amount != 0 for kind in self.kinds]).any(0)
        return touched.any(0).nonzero()[:, 0]

    @cached_property
    def spans(self) -> tuple[Packed, Tensor]:
        """What a GPU's kernel reads of them: all keys in spans of one kind or none, with amounts (spans, batch, N)."""
        length, keys = self.queries.shape[1], torch.zeros_like(self.queries)
        nothing = torch.zeros_like(self.kinds[0].amount)
        ends, amounts = [0], []
        for kind in sorted(self.kinds, key=lambda kind: kind.at.start):
            keys[:, kind.at] = kind.members
            for end, amount in ((kind.at.start, nothing), (kind.at.stop, kind.amount)):
                if end > ends[-1]:
                    ends.append(end)
                    amounts.append(amount)
        if length > ends[-1]:
            ends.append(length)
            amounts.append(nothing)
        return packed(self.queries, keys, ends), torch.stack(amounts)

    @cached_property
    def groups(self) -> list[list[Tensor]]:
        """For each sample the queries that have all amounts and objects in common, each group int (m,)."""
        same = torch.cat([self.queries, *(kind.amount[..., None] for kind in self.kinds)], -1)
        out = []
        for sample in same:
            _, group, counts = sample.unique(dim=0, return_inverse=True, return_counts=True)
            out.append(list(group.argsort(stable=True).split(counts.tolist())))
        return out


def joint_attention(
    query: Tensor, key: Tensor, value: Tensor, members: JointMembers, bias: Tensor | None = None
) -> Tensor:
    """Modulated joint attention, memory O(N): in one pass on a CPU, one launch on a GPU, else on widened heads.

    Args:
        query: (batch, heads, N, d); key: (batch, heads, N, d); value: (batch, heads, N, e), any float dtype.
        members: of every token.
        bias: additive attention mask, broadcastable to (batch, heads, N, N).

    Returns:
        (batch, heads, N, e) in ``query``'s dtype.
    """
    learning = torch.is_grad_enabled() and any(each.requires_grad for each in (query, key, value))
    if not learning and is_fused(query, key, value, members.queries.shape[-1]):
        return fused_attention(query, key, value, *members.spans, bias)
    if query.device.type != "cpu" or query.dtype != computing(query.dtype) or learning:
        return widened_joint_attention(query, key, value, members, bias)
    rows = members.rows
    plain = torch.ones(query.shape[2], dtype=torch.bool, device=query.device)
    plain[rows] = False
    out = query.new_empty((*query.shape[:3], value.shape[-1]))
    mask = None if bias is None else rows_of(bias, plain).to(query.dtype)
    out[:, :, plain] = F.scaled_dot_product_attention(query[:, :, plain], key, value, attn_mask=mask)
    kinds = [Keys(kind.at, kind.members, kind.amount[:, rows].to(query.dtype)) for kind in members.kinds]
    some = None if bias is None else rows_of(bias, rows)
    out[:, :, rows] = in_blocks(query[:, :, rows], key, value, members.queries[:, rows], kinds, some)
    return out


def widened_joint_attention(
    query: Tensor, key: Tensor, value: Tensor, members: JointMembers, bias: Tensor | None = None
) -> Tensor:
    """:func:`joint_attention` as plain attention on widened heads, of the same arguments."""
    samples = range(len(query))
    return torch.cat([_in_groups(query, key, value, members, sample, bias) for sample in samples])


def _in_groups(
    query: Tensor, key: Tensor, value: Tensor, members: JointMembers, sample: int, bias: Tensor | None
) -> Tensor:
    """One sample, (1, heads, N, e): a call of attention for each group of rows."""
    query, key, value = (states[sample : sample + 1] for states in (query, key, value))
    bias = bias if bias is None or len(bias) == 1 else bias[sample : sample + 1]
    groups = members.groups[sample]
    parts = []
    for rows in groups:
        some, mask = query[:, :, rows], None if bias is None else rows_of(bias, rows)
        wide_q, wide_k = _widened(some, key, members, (sample, rows[:1]), mask)
        wide_v = F.pad(value, (0, max(0, wide_k.shape[-1] - value.shape[-1])))
        mask = None if mask is None else mask.to(query.dtype)
        parts.append(F.scaled_dot_product_attention(wide_q, wide_k, wide_v, attn_mask=mask, scale=1.0))
    order = torch.cat(groups).argsort()
    return torch.cat(parts, 2)[:, :, order, : value.shape[-1]]


def _widened(
    query: Tensor, key: Tensor, members: JointMembers, place: tuple[int, Tensor], bias: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Queries and keys of attention with scale 1 for the rows of a group, ``place`` being its sample and first row."""
    sample, first = place
    dtype, exact = query.dtype, computing(query.dtype)
    kept = torch.ones(key.shape[2], dtype=exact, device=key.device)
    columns: list[tuple[Tensor, Tensor]] = []
    for kind in members.kinds:
        amount = kind.amount[sample, first].to(exact)
        low, high = row_bounds(query, key[:, :, kind.at], None if bias is None else bias[..., kind.at])
        kept[kind.at] = 1 - amount
        ones = torch.zeros_like(kept)
        ones[kind.at] = 1
        common = torch.zeros_like(kept)
        common[kind.at] = (kind.members[sample] & members.queries[sample, first]).any(-1).to(exact)
        columns += [(amount * low, ones), (amount * (high - low), common)]
    if dtype != exact:  # in half precision two columns carry each: a rounded value, and what rounding it lost
        columns += [(rise - rise.to(dtype).to(exact), where) for rise, where in columns]
    rises = torch.stack([rise for rise, _ in columns], -1).to(dtype)
    wheres = torch.stack([where for _, where in columns], -1).to(dtype).expand(*key.shape[:3], -1)
    wide_q = torch.cat([(query.to(exact) / math.sqrt(query.shape[-1])).to(dtype), rises], -1)
    wide_k = torch.cat([(key.to(exact) * kept[:, None]).to(dtype), wheres], -1)
    padding = (0, -wide_q.shape[-1] % 8)
    return F.pad(wide_q, padding), F.pad(wide_k, padding)


Equation = Callable[..., Tensor]
"""What ``modulated_similarity`` makes of similarities and ``hidden``, all else being given."""


def literal_joint_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    blocks: Sequence[tuple[slice, slice, Equation]],
    bias: Tensor | None = None,
) -> Tensor:
    """Joint attention with the whole matrix of similarities written out: the oracle, and the general case.

    Args:
        query: (..., N, d); key: (..., N, d); value: (..., N, e). Half precisions are computed in float32.
        blocks: rows, keys, and the equation of the block that they make; what lies in none of them stays as it is.
        bias: additive attention mask, broadcastable to (..., N, N), added after modulation.

    Returns:
        (..., N, e) in ``query``'s dtype.
    """
    dtype = computing(query.dtype)
    sim = query.to(dtype) @ key.to(dtype).transpose(-1, -2) / math.sqrt(query.shape[-1])
    hidden = None if bias is None else (bias <= HIDDEN).expand(*bias.shape[:-2], query.shape[-2], -1)
    out = sim.clone()
    for rows, keys, modulated in blocks:
        out[..., rows, keys] = modulated(
            sim[..., rows, keys], hidden=None if hidden is None else hidden[..., rows, keys]
        )
    if bias is not None:
        out = out + bias
    return (out.softmax(-1) @ value.to(dtype)).to(query.dtype)
