"""What an attention layer of diffusers computes from: queries and keys as its plain processors make them."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor


class AttentionInputs(NamedTuple):
    """What an attention layer computes from.

    Attributes:
        query: (batch, heads, N, d).
        key: (batch, heads, K, d).
        context: (batch, K, C), what values are made from.
        bias: additive attention mask (batch, heads, 1 or N, K), or None.
        size: (h, w) of the N queries, where the layer is given a picture.
    """

    query: Tensor
    key: Tensor
    context: Tensor
    bias: Tensor | None
    size: tuple[int, int] | None


def attention_inputs(
    attn: Any,
    hidden_states: Tensor,
    encoder_hidden_states: Tensor | None = None,
    attention_mask: Tensor | None = None,
    temb: Tensor | None = None,
) -> AttentionInputs:
    """Queries and keys as diffusers' plain processors make them of what they are called with."""
    if attn.spatial_norm is not None:
        hidden_states = attn.spatial_norm(hidden_states, temb)
    size = None
    if hidden_states.ndim == 4:
        size = (hidden_states.shape[2], hidden_states.shape[3])
        hidden_states = hidden_states.flatten(2).transpose(1, 2)
    batch = hidden_states.shape[0]
    if attn.group_norm is not None:
        hidden_states = attn.group_norm(hidden_states.transpose(1, 2)).transpose(1, 2)
    context = hidden_states
    if encoder_hidden_states is not None:
        norm = attn.norm_encoder_hidden_states if attn.norm_cross else (lambda states: states)
        context = norm(encoder_hidden_states)
    bias = attention_mask
    if bias is not None:
        bias = attn.prepare_attention_mask(bias, context.shape[1], batch)
        bias = bias.view(batch, attn.heads, -1, bias.shape[-1])
    query, key = (
        states.unflatten(-1, (attn.heads, -1)).transpose(1, 2)
        for states in (attn.to_q(hidden_states), attn.to_k(context))
    )
    if attn.norm_q is not None:
        query = attn.norm_q(query)
    if attn.norm_k is not None:
        key = attn.norm_k(key)
    return AttentionInputs(query, key, context, bias, size)
