"""The equations against scalar loops; the fast form against the literal one; identities."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from realignkit.attention import modulation
from realignkit.attention.config import ModulationConfig
from realignkit.attention.modulation import (
    area_fraction,
    clamped,
    fast_attention,
    likelihood_scores,
    literal_attention,
    modulated_similarity,
    region_matrix,
    row_range,
    time_weight,
)
from realignkit.errors import OptionError

# Largest difference allowed between two ways to compute in a dtype: a few units in the last place of the values.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-5, torch.float16: 6e-3, torch.bfloat16: 5e-2}


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
    literal = literal_attention(
        query,
        key,
        value,
        region_matrix(queries, keys)[:, None],
        weight,
        score=score[:, None, :, None],
        area=area[:, None, :, None],
        bias=bias,
        clamp=clamp,
    )
    rows = queries.any(-1).any(0).nonzero()[:, 0] if known_rows else None
    amount = weight * score * (1 - area)
    amount = clamped(amount) if clamp else amount
    fast = fast_attention(query, key, value, queries, keys, amount, bias=bias, rows=rows)
    assert fast.dtype == literal.dtype == query.dtype
    tolerance = TOLERANCE[query.dtype]
    torch.testing.assert_close(fast, literal, rtol=tolerance, atol=tolerance)


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
    exact = fast_attention(query.double(), key.double(), value.double(), queries, queries, amount.double())
    half = fast_attention(query, key, value, queries, queries, amount)
    assert (half.double() - exact).abs().max() < 0.05
    # What one column would do: the same with the lift rounded to bfloat16 first.
    spread = (amount[:, None] * row_range(query, key)).double()
    rounded = spread.to(torch.bfloat16).double()
    assert (spread - rounded).abs().max() > 0.1


@pytest.mark.parametrize("size_term", ["area", "similarity", "none"])
def test_modulated_similarity_is_the_equation(size_term):
    """Eqs. 8 and 10 in plain numbers, entry by entry."""
    torch.manual_seed(3)
    sim, region = torch.randn(5, 7, dtype=torch.float64), torch.rand(5, 7) < 0.4
    score = torch.tensor([2.0, 0.5, 0.0, 1.0, 1.0], dtype=torch.float64)
    area = torch.tensor([0.1, 0.2, 0.9, 0.0, 0.0], dtype=torch.float64)
    weight = 0.7
    out = modulated_similarity(
        sim, region, weight, score=score[:, None], area=area[:, None], size_term=size_term
    ).tolist()
    for q in range(5):
        row = sim[q].tolist()
        low, high = min(row), max(row)
        for k in range(7):
            B = {"area": area[q].item(), "similarity": (row[k] - low) / (high - low), "none": 0.0}[size_term]
            R = float(region[q, k])
            M = weight * R * (high - row[k]) * (1 - B) - weight * (1 - R) * (row[k] - low) * (1 - B)
            assert out[q][k] == pytest.approx(row[k] + score[q].item() * M, abs=1e-12)


@pytest.mark.parametrize("size_term", ["area", "similarity", "none"])
def test_clamped_similarity_is_the_equation_with_a_in_the_unit_interval(size_term):
    torch.manual_seed(4)
    sim, region = torch.randn(5, 7, dtype=torch.float64), torch.rand(5, 7) < 0.4
    score = torch.tensor([2.0, 0.5, 0.0, 1.0, 2.0], dtype=torch.float64)
    area = torch.tensor([0.1, 0.2, 0.9, 0.0, 1.5], dtype=torch.float64)  # areas add up where masks overlap
    weight = 1.3
    suppress = torch.zeros(5, 7, dtype=torch.bool)
    suppress[2, 3:] = True
    options = {"score": score[:, None], "area": area[:, None], "size_term": size_term, "suppress": suppress}
    out = modulated_similarity(sim, region, weight, clamp=True, **options).tolist()
    printed = modulated_similarity(sim, region, weight, **options)
    assert ((printed > sim.amax(-1, keepdim=True) + 1e-9) | (printed < sim.amin(-1, keepdim=True) - 1e-9)).any()
    for q in range(5):
        row = sim[q].tolist()
        low, high = min(row), max(row)
        for k in range(7):
            B = {"area": area[q].item(), "similarity": (row[k] - low) / (high - low), "none": 0.0}[size_term]
            S = 1.0 if suppress[q, k] else score[q].item()
            a = min(max(weight * S * (1 - B), 0.0), 1.0)
            end = high if region[q, k] and not suppress[q, k] else low
            assert out[q][k] == pytest.approx((1 - a) * row[k] + a * end, abs=1e-12)
            assert low - 1e-12 <= out[q][k] <= high + 1e-12


def test_clamping_by_hand():
    """SD-1.5's first step, a certain object of a tenth of the image: a = 1.63, which is too far."""
    sim, region = torch.tensor([[3.0, 1.0, 0.0, -2.0, 2.0]]), torch.tensor([[True, True, True, False, False]])
    weight = time_weight(981, 1.0, 5.0)
    printed = modulated_similarity(sim, region, weight, score=2.0, area=0.1)
    assert printed.max() > 4.9 and printed.min() < -4.5
    bounded = modulated_similarity(sim, region, weight, score=2.0, area=0.1, clamp=True)
    torch.testing.assert_close(bounded, torch.tensor([[3.0, 3.0, 3.0, -2.0, -2.0]]))
    # Where a is at most 1 there is nothing to clamp.
    gentle = modulated_similarity(sim, region, 0.5, score=1.0, area=0.1)
    torch.testing.assert_close(modulated_similarity(sim, region, 0.5, score=1.0, area=0.1, clamp=True), gentle)


def test_suppression_pushes_down_whatever_the_score():
    sim = torch.tensor([[1.0, 2.0, 4.0]])
    suppress = torch.tensor([[False, True, True]])
    out = modulated_similarity(sim, torch.zeros(1, 3, dtype=torch.bool), 0.5, score=0.0, suppress=suppress)
    # Halfway to the row's minimum, 1, where suppressed; untouched elsewhere since S = 0.
    torch.testing.assert_close(out, torch.tensor([[1.0, 1.5, 2.5]]))


def test_weight_one_reaches_the_extremes():
    """With a = 1 every key of the region is at the row's maximum, every other one at its minimum."""
    torch.manual_seed(0)
    sim, region = torch.randn(6, 9), torch.rand(6, 9) < 0.5
    out = modulated_similarity(sim, region, 1.0)
    expected = torch.where(region, sim.amax(-1, keepdim=True), sim.amin(-1, keepdim=True))
    torch.testing.assert_close(out, expected)


@settings(max_examples=30, deadline=None)
@given(problem=problems())
def test_no_weight_is_plain_attention(problem):
    query, key, value, queries, keys, _, _, bias = problem
    plain = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
    zero = torch.zeros(queries.shape[:2])
    fast = fast_attention(query, key, value, queries, keys, zero, bias=bias)
    literal = literal_attention(query, key, value, region_matrix(queries, keys)[:, None], 0.0, bias=bias)
    tolerance = TOLERANCE[query.dtype]
    torch.testing.assert_close(fast, plain, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(literal, plain, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("chunk", [1, 37, 10**9])
@pytest.mark.parametrize("masked", [False, True])
def test_row_range_in_chunks(monkeypatch, chunk, masked):
    monkeypatch.setitem(modulation.CHUNK, "cpu", chunk)  # a tuning constant, not the code under test
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
    whole = fast_attention(query, key, value, queries, keys, amount, bias=bias)
    cut = fast_attention(query, key[:, :, :7], value[:, :, :7], queries, keys[:, :7], amount)
    torch.testing.assert_close(whole, cut)


def test_likelihood_scores():
    objects = torch.tensor([[True, False], [False, True], [True, True], [False, False]])
    scores = torch.tensor([0.5, 2.0])
    assert likelihood_scores(objects, scores).tolist() == [0.5, 2.0, 2.0, 1.0]
    assert likelihood_scores(objects, scores, outside=0.0).tolist() == [0.5, 2.0, 2.0, 0.0]
    assert likelihood_scores(torch.zeros(3, 0, dtype=torch.bool), torch.zeros(0)).tolist() == [1.0] * 3


def test_area_fraction():
    objects = torch.tensor([[True, False], [True, False], [True, True], [False, False]])
    assert area_fraction(objects).tolist() == [0.75, 0.75, 1.0, 0.0]


@given(t=st.integers(0, 999), w=st.floats(0, 3), p=st.integers(0, 8))
def test_time_weight(t, w, p):
    assert time_weight(t, w, p) == pytest.approx(w * math.prod([t / 1000] * p))


@pytest.mark.parametrize(
    "options",
    [
        {"cross_weight": -0.1},
        {"share": 1.5},
        {"strength": 0},
        {"size_term": "volume"},
        {"w": 1.0},
        {"form": "fast", "overlap": "union"},
        {"form": "fast", "size_term": "similarity"},
        {"form": "fast", "suppress_unlikely": True},
    ],
)
def test_bad_options_are_refused(options):
    with pytest.raises(OptionError):
        ModulationConfig(**options)


def test_defaults_are_the_methods():
    config = ModulationConfig()
    assert (config.cross_weight, config.self_weight, config.power, config.share) == (1.0, 0.3, 5.0, 0.3)
    assert (config.size_term, config.overlap, config.form) == ("area", "smaller", "auto")
    assert config.isolate_phrases and not config.suppress_unlikely and config.strength is None
    assert config.time_scale == "start" and not config.clamp  # as measured best, and as printed
