"""The fast form against the literal one: in widened heads, in one pass over blocks, and which is taken."""

from __future__ import annotations

import threading
from functools import partial
from unittest.mock import patch

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from realignkit.attention import fast
from realignkit.attention.config import ModulationConfig
from realignkit.attention.fast import Members, fast_attention, row_range
from realignkit.attention.modulation import (
    area_fraction,
    clamped,
    likelihood_scores,
    literal_attention,
    modulated_similarity,
    region_matrix,
)

# Largest difference allowed between two ways to compute in a dtype: a few units in the last place of the values.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-5, torch.float16: 6e-3, torch.bfloat16: 5e-2}


def literally(query, key, value, members, bias=None, **options) -> torch.Tensor:
    """The literal form; ``options``: see ``modulated_similarity``."""
    region = region_matrix(members.queries, members.keys)[:, None]
    return literal_attention(query, key, value, partial(modulated_similarity, region=region, **options), bias)


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
    literal = literally(query, key, value, Members(queries, keys), bias, weight=1.0, score=amount[:, None, :, None])
    rows = queries.any(-1).any(0).nonzero()[:, 0] if known_rows else None
    with (
        patch.object(fast, "LONG", 0),
        patch.object(fast, "one_pass_attention", wraps=fast.one_pass_attention) as taken,
        patch.object(fast, "BLOCK", block),
        patch.object(fast, "MANY", many),
    ):
        found = fast_attention(query, key, value, Members(queries, keys, rows), amount, bias)
    assert taken.called
    assert found.dtype == dtype
    tolerance = {torch.float32: 2e-5, torch.float64: 1e-12}[dtype]
    torch.testing.assert_close(found, literal.to(dtype), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("tokens", [77, 1024])
def test_equals_widened_heads_on_a_long_layer(tokens):
    rng = torch.Generator().manual_seed(0)
    query, key, value, queries, keys, amount = layer(2, 2, 1024, tokens, 3, torch.float32, rng)
    arguments = (query, key, value, Members(queries, keys), amount)
    found = fast_attention(*arguments)
    with patch.object(fast, "LONG", 2**20):
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
    with patch.object(fast, "one_pass_attention", wraps=fast.one_pass_attention) as used:
        found = fast_attention(query, key, value, Members(queries, keys), amount)
    assert used.called is taken
    assert found.requires_grad is learns
    with torch.no_grad(), patch.object(fast, "one_pass_attention", wraps=fast.one_pass_attention) as used:
        fast_attention(query, key, value, Members(queries, keys), amount)
    assert used.called is (length >= 1024 and dtype == torch.float32)


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad, torch.enable_grad])
@pytest.mark.parametrize("tokens", [77, 1100])
def test_each_thread_computes_blocks_of_its_own(tokens, mode, two_threads):
    """With many keys as many threads as torch has compute alone, and have ended after; with few the caller does all."""
    rng = torch.Generator().manual_seed(0)
    query, key, value, queries, keys, amount = layer(2, 2, 1024, tokens, 3, torch.float32, rng)
    bias = masks(2, 2, 1024, tokens, rng)["rows"]
    softmax, seen = torch.softmax, set()

    def watched(*arguments, **named):
        seen.add((threading.current_thread(), torch.get_num_threads()))
        return softmax(*arguments, **named)

    with mode():
        for some in (None, bias):
            arguments = (query, key, value, Members(queries, keys), amount, some)
            with patch.object(fast, "BLOCK", 2**17), patch.object(torch, "softmax", watched):
                found = fast_attention(*arguments)
            assert torch.get_num_threads() == 2
            torch.set_num_threads(1)
            wanted = fast_attention(*arguments)
            torch.set_num_threads(2)
            torch.testing.assert_close(found, wanted, rtol=2e-6, atol=2e-6)
    threads = {thread for thread, _ in seen} - {threading.main_thread()}
    assert (len(threads) >= 2) if tokens >= fast.MANY else not threads
    assert {number for thread, number in seen if thread in threads} <= {1}
    assert not any(thread.is_alive() for thread in threads)


def test_what_a_thread_raises_is_raised_and_the_threads_are_as_before(two_threads):
    query, key, value, queries, keys, amount = layer(1, 4, 1024, 1100, 3, torch.float32, torch.Generator())
    with patch.object(torch, "softmax", side_effect=MemoryError("full")), pytest.raises(MemoryError, match="full"):
        fast_attention(query, key, value, Members(queries, keys), amount)
    assert torch.get_num_threads() == 2


def test_no_row_in_an_object():
    query, key, value, queries, keys, _ = layer(1, 2, 1024, 1024, 1, torch.float32, torch.Generator())
    nowhere, nothing = torch.zeros_like(queries), torch.zeros(1, 1024)
    found = fast_attention(query, key, value, Members(nowhere, keys), nothing)
    torch.testing.assert_close(found, F.scaled_dot_product_attention(query, key, value), rtol=2e-5, atol=2e-5)


@st.composite
def problems(draw):
    """Random queries, keys, values, memberships (one object per query), scores, weight, mask, dtype."""
    batch, heads, width = draw(st.integers(1, 2)), draw(st.integers(1, 3)), draw(st.integers(1, 20))
    length, tokens, objects = draw(st.integers(1, 40)), draw(st.integers(1, 30)), draw(st.integers(1, 4))
    dtype = draw(st.sampled_from(list(TOLERANCE)))
    rng = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    own = draw(st.booleans())
    tokens = length if own else tokens
    spread = draw(st.sampled_from([0.1, 1.0, 3.0]))
    query = (torch.randn(batch, heads, length, width, generator=rng) * spread).to(dtype)
    key, value = (torch.randn(batch, heads, tokens, width, generator=rng).to(dtype) for _ in range(2))
    # Object number `objects` means "in none".
    owner = torch.randint(0, objects + 1, (batch, length), generator=rng)
    queries = F.one_hot(owner, objects + 1)[..., :objects].bool()
    keys = queries if own else torch.rand(batch, tokens, objects, generator=rng) < 0.3
    scores = torch.tensor([0.0, 0.5, 1.0, 2.0])[torch.randint(0, 4, (batch, objects), generator=rng)]
    bias = None
    if draw(st.booleans()):
        hidden = torch.rand(batch, 1, 1, tokens, generator=rng) < 0.4
        hidden[..., 0] = False
        bias = (hidden * -1e4).to(dtype)
    return query, key, value, queries, keys, scores, draw(st.floats(0, 1.2)), bias


@settings(max_examples=120, deadline=None)
@given(problem=problems(), known_rows=st.booleans(), clamp=st.booleans())
def test_fast_equals_literal(problem, known_rows, clamp):
    query, key, value, queries, keys, scores, weight, bias = problem
    score, area = likelihood_scores(queries, scores).double(), area_fraction(queries).double()
    literal = literally(
        query,
        key,
        value,
        Members(queries, keys),
        bias,
        weight=weight,
        score=score[:, None, :, None],
        area=area[:, None, :, None],
        config=ModulationConfig(clamp=clamp),
    )
    rows = queries.any(-1).any(0).nonzero()[:, 0] if known_rows else None
    amount = weight * score * (1 - area)
    amount = clamped(amount) if clamp else amount
    found = fast_attention(query, key, value, Members(queries, keys, rows), amount, bias)
    assert found.dtype == literal.dtype == query.dtype
    tolerance = TOLERANCE[query.dtype]
    torch.testing.assert_close(found, literal, rtol=tolerance, atol=tolerance)


def test_range_term_stays_accurate_in_half_precision():
    """A large row range: rounding it to one half-precision number would shift regions by tenths."""
    torch.manual_seed(0)
    query, key = 12 * torch.randn(1, 1, 64, 16), torch.randn(1, 1, 64, 16)
    value = torch.randn(1, 1, 64, 16)
    queries = (torch.arange(64) % 2 == 0)[None, :, None]
    amount = torch.full((1, 64), 0.93)
    # Inputs that half precision holds exactly, so that only our own rounding remains.
    query, key, value = (x.to(torch.bfloat16) for x in (query, key, value))
    assert row_range(query, key).max() > 60
    exact = fast_attention(query.double(), key.double(), value.double(), Members(queries, queries), amount.double())
    half = fast_attention(query, key, value, Members(queries, queries), amount)
    assert (half.double() - exact).abs().max() < 0.05
    # What one column would do: the same with the lift rounded to bfloat16 first.
    spread = (amount[:, None] * row_range(query, key)).double()
    rounded = spread.to(torch.bfloat16).double()
    assert (spread - rounded).abs().max() > 0.1


@settings(max_examples=30, deadline=None)
@given(problem=problems())
def test_no_weight_is_plain_attention(problem):
    query, key, value, queries, keys, _, _, bias = problem
    plain = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
    zero = torch.zeros(queries.shape[:2])
    found = fast_attention(query, key, value, Members(queries, keys), zero, bias)
    literal = literally(query, key, value, Members(queries, keys), bias, weight=0.0)
    tolerance = TOLERANCE[query.dtype]
    torch.testing.assert_close(found, plain, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(literal, plain, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("chunk", [1, 37, 10**9])
@pytest.mark.parametrize("masked", [False, True])
def test_row_range_in_chunks(monkeypatch, chunk, masked):
    monkeypatch.setitem(fast.CHUNK, "cpu", chunk)  # a tuning constant, not the code under test
    torch.manual_seed(1)
    query, key = torch.randn(2, 3, 17, 4), torch.randn(2, 3, 11, 4)
    bias = None
    sim = query @ key.transpose(-1, -2) / 2
    if masked:
        bias = torch.zeros(2, 1, 17, 11).masked_fill(torch.rand(2, 1, 17, 11) < 0.3, -1e4)
        expected = torch.tensor(
            [
                [
                    [
                        max(s for s, b in zip(row, shade, strict=True) if b == 0)
                        - min(s for s, b in zip(row, shade, strict=True) if b == 0)
                        for row, shade in zip(head, bias[i, 0].tolist(), strict=True)
                    ]
                    for head in sample
                ]
                for i, sample in enumerate(sim.tolist())
            ]
        )
    else:
        expected = sim.amax(-1) - sim.amin(-1)
    torch.testing.assert_close(row_range(query, key, bias), expected)


def test_hidden_keys_change_nothing():
    """Attention with keys hidden equals attention without those keys, ranges included."""
    torch.manual_seed(2)
    query, key, value = torch.randn(1, 2, 9, 8), torch.randn(1, 2, 12, 8), torch.randn(1, 2, 12, 8)
    key[:, :, 7:] *= 10  # would dominate every range
    queries, keys = torch.rand(1, 9, 1) < 0.5, torch.rand(1, 12, 1) < 0.5
    amount = torch.full((1, 9), 0.6)
    bias = torch.zeros(1, 1, 1, 12)
    bias[..., 7:] = -1e4
    whole = fast_attention(query, key, value, Members(queries, keys), amount, bias)
    cut = fast_attention(query, key[:, :, :7], value[:, :, :7], Members(queries, keys[:, :7]), amount)
    torch.testing.assert_close(whole, cut)
