"""A weighted sum is a reward; every reward is a metric; specs name them."""

from __future__ import annotations

import pytest
import torch

from realignkit import contracts
from realignkit.errors import OptionError, PluginError
from realignkit.registry import default_registry
from realignkit.rewards import make_reward, parse_weights
from realignkit_plugins.rewards.metric import RewardMetric
from realignkit_plugins.rewards.weighted import WeightedReward
from tests.plugins.rewards.conftest import pictures, to_pil

PROMPTS = ["a red book", "a blue pen"]


class Brightness(contracts.Reward):
    margin = 2.0

    def __call__(self, images, prompts):
        return images.mean((1, 2, 3))


class Redness(contracts.Reward):
    def __call__(self, images, prompts):
        return images[:, 0].mean((1, 2))


def test_a_sum_its_margin_and_its_gradient():
    reward = WeightedReward.of({"bright": (Brightness(), 2.0), "red": (Redness(), 0.5)})
    images = pictures(2).requires_grad_()
    expected = 2 * images.mean((1, 2, 3)) + 0.5 * images[:, 0].mean((1, 2))
    torch.testing.assert_close(reward(images, PROMPTS), expected)
    (ours,) = torch.autograd.grad(reward(images, PROMPTS).sum(), images)
    (theirs,) = torch.autograd.grad(expected.sum(), images)
    torch.testing.assert_close(ours, theirs)
    assert reward.margin == 2 * 2 + 0.5 * 1
    assert reward.differentiable
    assert set(reward.each(images, PROMPTS)) == {"bright", "red"}


def test_one_part_without_a_gradient_takes_it_from_the_sum():
    blind = Redness()
    blind.differentiable = False
    assert not WeightedReward.of({"bright": (Brightness(), 1.0), "red": (blind, 1.0)}).differentiable


def test_by_name_with_options(checkpoint):
    options = {"clip.model": checkpoint("clip"), "blip.model": checkpoint("blip_itm"), "head": "itc", "dtype": "fp32"}
    reward = make_reward(default_registry(), "clip:1, blip:0.5", options)
    clip = make_reward(default_registry(), "clip", {"model": checkpoint("clip")})
    blip = make_reward(default_registry(), "blip:1", {"model": checkpoint("blip_itm"), "head": "itc"})
    images = pictures(2)
    expected = clip(images, PROMPTS) + 0.5 * blip(images, PROMPTS)
    torch.testing.assert_close(reward(images, PROMPTS), expected)
    torch.testing.assert_close(reward.reported(to_pil(images), PROMPTS), expected)
    assert reward.margin == 1.5


def test_a_models_own_reward_stands_in(checkpoint):
    beside = {"reward:clip": "blip"}
    reward = make_reward(default_registry(), "clip:2", {"clip.model": checkpoint("blip_itm")}, beside)
    assert [name for name, *_ in reward.parts] == ["blip"]
    assert reward.options.options == {"blip": {"model": checkpoint("blip_itm")}}


@pytest.mark.parametrize(
    ("spec", "weights"),
    [
        ("caption", {"caption": 1}),
        ("caption:1,clip:0.5", {"caption": 1, "clip": 0.5}),
        (" clip : 2 , blip", {"clip": 2, "blip": 1}),
    ],
)
def test_specs(spec, weights):
    assert parse_weights(spec) == weights


@pytest.mark.parametrize(
    "spec", ["", "clip,", "clip:", "clip:x", "clip:-1", "clip:0", "clip:nan", "clip:inf", "a,a", ":1"]
)
def test_bad_specs_are_refused(spec):
    with pytest.raises(OptionError, match="is no reward"):
        parse_weights(spec)


def test_unknown_names_and_options_are_refused():
    with pytest.raises(PluginError, match="Did you mean 'clip'"):
        make_reward(default_registry(), "clib")
    with pytest.raises(OptionError, match=r"reward\.modell"):
        make_reward(default_registry(), "clip", {"modell": "x"})
    with pytest.raises(OptionError, match="no parts of this sum"):
        WeightedReward(rewards={"clip": 1}, options={"blip": {}})


def test_as_a_metric_in_parts_and_merged(checkpoint):
    options = {"reward": "clip", "options": {"model": checkpoint("clip")}}
    images, prompts = pictures(5), ["a red book", "a pen", "a", "book", "red"]
    reward = make_reward(default_registry(), "clip", options["options"])
    values = reward(images, prompts).double()
    whole, first, second = (RewardMetric(**options, batch_size=2) for _ in range(3))
    whole.update(to_pil(images), prompts)
    first.update(to_pil(images[:3]), prompts[:3])
    second.update(to_pil(images[3:]), prompts[3:])
    first.merge(second)
    for metric in (whole, first):
        result = metric.compute()
        assert result["clip"] == pytest.approx(float(values.mean()), abs=1e-5)
        assert result["std"] == pytest.approx(float(values.std(correction=0)), abs=1e-4)
        assert result["n"] == 5
    each = RewardMetric(**options, batch_size=2).judge_each(to_pil(images), prompts)
    assert [value["clip"] for value in each] == pytest.approx(values.tolist(), abs=1e-5)


def test_a_metric_of_nothing_and_of_something_else():
    metric = default_registry().create("metric", "clip")
    with pytest.raises(PluginError, match="nothing to compute"):
        metric.compute()
    with pytest.raises(PluginError, match="cannot merge"):
        metric.merge(default_registry().create("metric", "blip"))
    with pytest.raises(OptionError, match="1 images but 2 prompts"):
        metric.update(to_pil(pictures(1)), ["a", "b"])
