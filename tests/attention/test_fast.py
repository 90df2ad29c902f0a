"""Modulated attention in one pass on a CPU: equal to the literal form, in blocks of any size, and when it is taken."""

from __future__ import annotations

from unittest.mock import patch

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from realignkit.attention import fast, modulation
from realignkit.attention.modulation import fast_attention, literal_attention, region_matrix


def layer(batch: int, heads: int, length: int, tokens: int, objects: int, dtype: torch.dtype, rng: torch.Generator):
    """Queries, keys, values, memberships of both (some rows in no object) and amounts."""
    query = torch.randn(batch, heads, length, 5, generator=rng, dtype=dtype)
    key, value = (torch.randn(batch, heads, tokens, 5, generator=rng, dtype=dtype) for _ in range(2))
    owner = torch.randint(0, objects + 1, (batch, length), generator=rng)
    queries = F.one_hot(owner, objects + 1)[..., :objects].bool()
    keys = torch.rand(batch, tokens, objects, generator=rng) < 0.3
    return query, key, value, queries, keys, torch.rand(batch, length, generator=rng, dtype=dtype)


def masks(batch: int, heads: int, length: int, tokens: int, rng: torch.Generator) -> dict[str, torch.Tensor | None]:
    """Additive masks of every shape that layers give: none, hidden tokens, and numbers that differ row by row."""
    hidden = torch.rand(batch, 1, 1, tokens, generator=rng) < 0.4
    hidden[..., 0] = False
    return {
        "none": None,
        "hidden": hidden * -1e4,
        "rows": torch.randn(batch, heads, length, tokens, generator=rng),
        "shared": torch.randn(1, 1, length, tokens, generator=rng) + hidden * -1e4,
    }


@settings(max_examples=150, deadline=None)
@given(
    sizes=st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 40), st.integers(1, 30), st.integers(1, 3)),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    mask=st.sampled_from(["none", "hidden", "rows", "shared"]),
    block=st.sampled_from([1, 50, 300, 2**20]),
    many=st.sampled_from([0, 2**20]),
    seed=st.integers(0, 10**6),
    known_rows=st.booleans(),
)
def test_equals_literal(sizes, dtype, mask, block, many, seed, known_rows):
    rng = torch.Generator().manual_seed(seed)
    query, key, value, queries, keys, amount = layer(*sizes, dtype, rng)
    bias = masks(*sizes[:4], rng)[mask]
    # literal_attention with weight 1 has a = S.
    literal = literal_attention(
        query, key, value, region_matrix(queries, keys)[:, None], 1.0, score=amount[:, None, :, None], bias=bias
    )
    rows = queries.any(-1).any(0).nonzero()[:, 0] if known_rows else None
    with (
        patch.object(modulation, "LONG", 0),
        patch.object(modulation, "one_pass_attention", wraps=fast.one_pass_attention) as taken,
        patch.object(fast, "BLOCK", block),
        patch.object(fast, "MANY", many),
    ):
        found = fast_attention(query, key, value, queries, keys, amount, bias=bias, rows=rows)
    assert taken.called
    assert found.dtype == dtype
    tolerance = {torch.float32: 2e-5, torch.float64: 1e-12}[dtype]
    torch.testing.assert_close(found, literal.to(dtype), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("tokens", [77, 1024])
def test_equals_widened_heads_on_a_long_layer(tokens):
    rng = torch.Generator().manual_seed(0)
    arguments = layer(2, 2, 1024, tokens, 3, torch.float32, rng)
    found = fast_attention(*arguments)
    with patch.object(modulation, "LONG", 2**20):
        widened = fast_attention(*arguments)
    torch.testing.assert_close(found, widened, rtol=2e-5, atol=2e-5)
    assert not torch.equal(found, widened)  # it was another way


@pytest.mark.parametrize(
    ("length", "dtype", "learns", "taken"),
    [
        (1024, torch.float32, False, True),
        (1023, torch.float32, False, False),
        (1024, torch.bfloat16, False, False),
        (1024, torch.float32, True, False),
    ],
)
def test_when_it_is_taken(length, dtype, learns, taken):
    query, key, value, queries, keys, amount = layer(1, 1, length, 4, 1, torch.float32, torch.Generator())
    query, key, value = query.to(dtype), key.to(dtype), value.to(dtype).requires_grad_(learns)
    with patch.object(modulation, "one_pass_attention", wraps=fast.one_pass_attention) as used:
        found = fast_attention(query, key, value, queries, keys, amount)
    assert used.called is taken
    assert found.requires_grad is learns
    with torch.no_grad(), patch.object(modulation, "one_pass_attention", wraps=fast.one_pass_attention) as used:
        fast_attention(query, key, value, queries, keys, amount)
    assert used.called is (length >= 1024 and dtype == torch.float32)


def test_no_row_in_an_object():
    query, key, value, queries, keys, _ = layer(1, 2, 1024, 1024, 1, torch.float32, torch.Generator())
    nowhere, nothing = torch.zeros_like(queries), torch.zeros(1, 1024)
    found = fast_attention(query, key, value, nowhere, keys, nothing)
    torch.testing.assert_close(found, F.scaled_dot_product_attention(query, key, value), rtol=2e-5, atol=2e-5)
