"""The equations against scalar loops; the fast form against the literal one; identities."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from realignkit.attention.config import ModulationConfig
from realignkit.attention.modulation import (
    area_fraction,
    likelihood_scores,
    modulated_similarity,
    time_weight,
)
from realignkit.errors import OptionError


@pytest.mark.parametrize("size_term", ["area", "similarity", "none"])
def test_modulated_similarity_is_the_equation(size_term):
    """Eqs. 8 and 10 in plain numbers, entry by entry."""
    torch.manual_seed(3)
    sim, region = torch.randn(5, 7, dtype=torch.float64), torch.rand(5, 7) < 0.4
    score = torch.tensor([2.0, 0.5, 0.0, 1.0, 1.0], dtype=torch.float64)
    area = torch.tensor([0.1, 0.2, 0.9, 0.0, 0.0], dtype=torch.float64)
    weight = 0.7
    out = modulated_similarity(
        sim, region, weight, score=score[:, None], area=area[:, None], config=ModulationConfig(size_term=size_term)
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
    # Where it is suppressed, as if it lay in no common object with a score of 1.
    region, scores = region & ~suppress, torch.where(suppress, 1.0, score[:, None])
    config = ModulationConfig(size_term=size_term)
    printed = modulated_similarity(sim, region, weight, score=scores, area=area[:, None], config=config)
    config = ModulationConfig(size_term=size_term, clamp=True)
    out = modulated_similarity(sim, region, weight, score=scores, area=area[:, None], config=config).tolist()
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
    bounded = modulated_similarity(sim, region, weight, score=2.0, area=0.1, config=ModulationConfig(clamp=True))
    torch.testing.assert_close(bounded, torch.tensor([[3.0, 3.0, 3.0, -2.0, -2.0]]))
    # Where a is at most 1 there is nothing to clamp.
    gentle = modulated_similarity(sim, region, 0.5, score=1.0, area=0.1)
    bounded = modulated_similarity(sim, region, 0.5, score=1.0, area=0.1, config=ModulationConfig(clamp=True))
    torch.testing.assert_close(bounded, gentle)


def test_a_score_for_each_pair():
    """What suppresses unlikely objects: a score of 1 for their tokens, whatever the query's."""
    sim, score = torch.tensor([[1.0, 2.0, 4.0]]), torch.tensor([[0.0, 1.0, 1.0]])
    out = modulated_similarity(sim, torch.zeros(1, 3, dtype=torch.bool), 0.5, score=score)
    # Halfway to the row's minimum, 1, where S = 1; untouched elsewhere.
    torch.testing.assert_close(out, torch.tensor([[1.0, 1.5, 2.5]]))


def test_weight_one_reaches_the_extremes():
    """With a = 1 every key of the region is at the row's maximum, every other one at its minimum."""
    torch.manual_seed(0)
    sim, region = torch.randn(6, 9), torch.rand(6, 9) < 0.5
    out = modulated_similarity(sim, region, 1.0)
    expected = torch.where(region, sim.amax(-1, keepdim=True), sim.amin(-1, keepdim=True))
    torch.testing.assert_close(out, expected)


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
