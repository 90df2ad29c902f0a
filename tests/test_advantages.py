"""Advantages against the plainest arithmetic, group by group."""

from __future__ import annotations

import statistics

import pytest
import torch

from realignkit.advantages import advantages, alike, standardised


def by_hand(rewards, weights, groups):
    """The same, a picture and a reward at a time."""
    totals = []
    for place, group in enumerate(groups):
        total = 0.0
        for name, values in rewards.items():
            among = [value for value, other in zip(values, groups, strict=True) if other == group]
            spread = statistics.pstdev(among)
            total += weights[name] * ((values[place] - statistics.fmean(among)) / spread if spread else 0.0)
        totals.append(total)
    return totals


def test_each_reward_is_standardised_in_its_group_then_weighed_and_summed():
    torch.manual_seed(0)
    groups = ["a cat", "a dog", "a cat", "a cat", "a dog", "a pen", "a dog", "a pen"]
    rewards = {"caption": torch.randn(8) * 0.01 - 3, "clip": torch.randn(8) * 50 + 7, "vqascore": torch.rand(8)}
    weights = {"caption": 1.0, "clip": 0.5, "vqascore": 2.0}
    expected = by_hand({name: values.tolist() for name, values in rewards.items()}, weights, groups)
    assert advantages(rewards, weights, groups).tolist() == pytest.approx(expected, abs=1e-3)


def test_scale_and_offset_of_a_reward_mean_nothing():
    torch.manual_seed(1)
    values, other, groups = torch.randn(6), torch.randn(6), [1, 1, 1, 2, 2, 2]
    weights = {"a": 1.0, "b": 3.0}
    one = advantages({"a": values, "b": other}, weights, groups)
    torch.testing.assert_close(one, advantages({"a": 1e3 * values + 5, "b": other}, weights, groups), atol=1e-3, rtol=0)


def test_a_reward_that_sees_no_difference_in_a_group_leaves_it_to_the_others():
    groups = ["a"] * 4
    right = torch.tensor([0.0, 1.0, 0.0, 1.0])
    both = advantages({"right": right, "safe": torch.full((4,), 0.7)}, {"right": 1.0, "safe": 5.0}, groups)
    assert both.tolist() == [-1.0, 1.0, -1.0, 1.0]
    assert advantages({"safe": torch.full((4,), 0.7)}, {"safe": 1.0}, groups).tolist() == [0.0] * 4


def test_other_groups_change_nothing():
    torch.manual_seed(2)
    values = torch.randn(6)
    alone = standardised(values[:3], ["a"] * 3)
    assert torch.equal(standardised(values, ["a"] * 3 + ["b"] * 3)[:3], alone)
    mixed = standardised(values[[0, 3, 1, 4, 2, 5]], ["a", "b"] * 3)
    assert torch.equal(mixed[::2], alone)
    assert standardised(values[:1], ["a"]).tolist() == [0.0]  # nothing to compare with


def test_what_differs_by_rounding_alone_is_alike():
    assert alike(torch.full((6,), 0.3)) and alike(torch.zeros(2)) and alike(torch.tensor([0.3, 0.3 + 3e-8]))
    assert not alike(torch.tensor([0.3, 0.3001])) and not alike(torch.tensor([0.0, 1e-9]))


def test_rewards_that_contradict_each_other_leave_nothing_of_rounding():
    one = torch.tensor([0.3, 0.1, 0.2, 0.7, 0.9, 0.4])
    both = advantages({"a": one, "b": 3.7 - 0.3 * one}, {"a": 0.7, "b": 0.7}, ["p", "p", "q", "q", "r", "r"])
    assert both.tolist() == [0.0] * 6
