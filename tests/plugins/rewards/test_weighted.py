"""A weighted sum is a reward; every reward is a metric; specs name them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from realignkit import contracts
from realignkit.errors import ModelError, OptionError, PluginError
from realignkit.named import Named
from realignkit.registry import default_registry
from realignkit.resolve import make_reward, parse_weights
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
    companions = {"reward:clip": "blip"}
    reward = make_reward(default_registry(), "clip:2", {"clip.model": checkpoint("blip_itm")}, companions)
    assert [part.name for part, _ in reward.parts] == ["blip"]
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


def test_sums_of_other_options_are_not_merged():
    full, half = (RewardMetric(reward="clip", options={"dtype": dtype}) for dtype in ("fp32", "bf16"))
    with pytest.raises(PluginError, match="Use equal options"):
        full.merge(half)


def test_a_part_that_works_in_place_changes_nothing_for_the_next():
    class Eraser(contracts.Reward):
        def __call__(self, images, prompts):
            return images.mul_(0).sum((1, 2, 3))

    images = pictures(2)
    each = WeightedReward.of({"eraser": (Eraser(), 1.0), "bright": (Brightness(), 1.0)}).each(images, PROMPTS)
    assert (each["bright"] > 0).all() and (images > 0).any()


def test_a_metric_of_nothing_and_of_something_else():
    metric = default_registry().create("metric", "clip")
    with pytest.raises(PluginError, match="nothing to compute"):
        metric.compute()
    with pytest.raises(PluginError, match="cannot merge"):
        metric.merge(default_registry().create("metric", "blip"))
    with pytest.raises(OptionError, match="1 images but 2 prompts"):
        metric.update(to_pil(pictures(1)), ["a", "b"])


# --- ranking --------------------------------------------------------------------------------------------------------


class Said(contracts.Reward):
    """Numbers by the images' grey: one to train with, one to report, one to rank by; the last two where given."""

    def __init__(self, reported=None, ranked=None):
        super().__init__()
        for name, scale in (("reported", reported), ("ranked", ranked)):
            if scale is not None:
                setattr(
                    self, name, lambda images, prompts, scale=scale: torch.tensor([scale * g for g in greys(images)])
                )

    def __call__(self, images, prompts):
        return images.mean((1, 2, 3))


def greys(images):
    return [float(np.asarray(image.convert("L"), dtype=np.float32).mean() / 255) for image in images]


def test_a_sum_ranks_as_its_parts_do_whatever_way_that_is():
    from realignkit.calls import rank, rate
    from realignkit.images import to_tensor

    images, prompts = to_pil(pictures(4)), ["a red book"] * 4
    grey = torch.tensor(greys(images))
    parts = {"ranked": Said(2.0, -3.0), "reported": Said(5.0), "plain": Said()}
    weights = {"ranked": 1.0, "reported": 0.5, "plain": 2.0}
    reward = WeightedReward.of({name: (part, weights[name]) for name, part in parts.items()})
    means = to_tensor(images).mean((1, 2, 3))
    torch.testing.assert_close(
        torch.tensor(rank(Named("reward", "sum", reward), images, prompts)), -3 * grey + 2.5 * grey + 2 * means
    )
    torch.testing.assert_close(
        torch.tensor(rate(Named("reward", "sum", reward), images, prompts)), 2 * grey + 2.5 * grey + 2 * means
    )
    for name, part in parts.items():
        alone = WeightedReward.of({name: (part, 7.0)})
        expected = torch.tensor(rank(Named("reward", name, part), images, prompts))
        torch.testing.assert_close(torch.tensor(rank(Named("reward", "alone", alone), images, prompts)), 7 * expected)
    nested = WeightedReward.of({"inner": (reward, 2.0), "plain": (parts["plain"], 1.0)})
    torch.testing.assert_close(
        torch.tensor(rank(Named("reward", "nested", nested), images, prompts)), 2 * (-0.5 * grey + 2 * means) + means
    )


def test_a_caption_in_a_sum_ranks_by_its_likelihood(checkpoint):
    from realignkit.calls import rank

    options = {"captioner": checkpoint("blip"), "text_encoder": checkpoint("q_former_text"), "max_new_tokens": 3}
    images, prompts = to_pil(pictures(3)), ["a red book"] * 3
    caption = make_reward(default_registry(), "caption", options)
    both = make_reward(
        default_registry(),
        "caption:1,clip:1e-6",
        {**{f"caption.{name}": value for name, value in options.items()}, "clip.model": checkpoint("clip")},
    )
    expected = rank(Named("reward", "caption", caption), images, prompts)
    assert rank(Named("reward", "both", both), images, prompts) == pytest.approx(expected, abs=1e-4)
    assert rate_order(expected) == rate_order(rank(Named("reward", "both", both), images, prompts))


def rate_order(values):
    return sorted(range(len(values)), key=values.__getitem__)


def test_normalised_parts_count_by_their_weights_alone():
    from realignkit.calls import rank

    images, prompts = to_pil(pictures(4)), ["a red book"] * 2 + ["a blue pen"] * 2
    small, large = Said(ranked=1e-3), Said(ranked=-1e3)
    for weights in ((2.0, 1.0), (1.0, 2.0)):
        reward = WeightedReward.of({"s": (small, weights[0]), "l": (large, weights[1])}, normalise=True)
        assert reward.compares
        found = rank(Named("reward", "sum", reward), images, prompts)
        grey = greys(images)
        for first in (0, 2):  # of two alternatives, each standardised one is -1 or 1
            better = weights[0] - weights[1] if grey[first] > grey[first + 1] else weights[1] - weights[0]
            assert found[first : first + 2] == pytest.approx([better, -better], abs=1e-4)
    alike = WeightedReward.of({"s": (Said(ranked=0.0), 1.0)}, normalise=True)
    assert rank(Named("reward", "sum", alike), images, prompts) == [0.0] * 4
    assert not WeightedReward.of({"s": (small, 1.0)}).compares
    assert WeightedReward.of({"in": (alike, 1.0)}).compares


def test_candidates_are_compared_with_all_of_their_own_prompt():
    from realignkit.realigner.draft import best_of_each

    images = to_pil(pictures(6))
    parts = {"s": (Said(ranked=1e-3), 3.0), "r": (Redness(), 1.0)}
    reward = WeightedReward.of(parts, normalise=True)
    chosen = [
        best_of_each(images, ["a", "a"], list(range(6)), Named("reward", "sum", reward), batch_size=size)[place].rewards
        for size in (1, 4, 6)
        for place in (0, 1)
    ]
    assert chosen[0::2] == [chosen[0]] * 3 and chosen[1::2] == [chosen[1]] * 3
    alone = best_of_each(images[3:], ["a"], [3, 4, 5], Named("reward", "sum", reward), batch_size=1)[0]
    assert alone.rewards == chosen[1]


def test_by_name_with_normalise(checkpoint):
    made = make_reward(default_registry(), "clip:2", {"model": checkpoint("clip"), "normalise": True})
    assert made.compares
    with pytest.raises(OptionError, match="normalise"):
        make_reward(default_registry(), "clip", {"normalise": True})  # of a sum alone


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_part_without_numbers_is_blamed_and_not_the_sum(value):
    from realignkit.calls import rank, rate, rewards_of

    class Broken(Redness):
        def __call__(self, images, prompts):
            return super().__call__(images, prompts) * value

    inner = WeightedReward.of({"fine": (Redness(), 1.0), "broken part": (Broken(), 1e-3)})
    images = pictures(2)
    for reward in (inner, WeightedReward.of({"inner": (inner, 2.0)})):
        for ask, seen in ((rewards_of, images), (rate, to_pil(images)), (rank, to_pil(images))):
            with pytest.raises(ModelError, match="reward 'broken part' computed NaN or infinity"):
                ask(Named("reward", "sum", reward), seen, PROMPTS)


# --- measuring ------------------------------------------------------------------------------------------------------


def test_measures_are_computed_in_float32_whatever_surrounds_them(checkpoint):
    metric = RewardMetric(reward="clip", options={"model": checkpoint("clip")})
    assert metric.reward.options.dtype == "fp32"
    images = to_pil(pictures(2))
    expected = metric.judge_each(images, PROMPTS)
    with torch.autocast("cpu", torch.bfloat16):
        assert metric.judge_each(images, PROMPTS) == expected
    told = RewardMetric(reward="clip", options={"model": checkpoint("clip"), "dtype": "bf16"})
    assert told.reward.options.dtype == "bf16"
    both = RewardMetric(reward="clip,blip", options={"clip.dtype": "bf16"})
    assert [part.plugin.options.dtype for part, _ in both.reward.parts] == ["bf16", "fp32"]


def test_what_guides_sampling_is_the_sum_of_what_guides_in_the_parts():
    class Doubtful(Brightness):
        def guiding(self, images, prompts):
            return 3 * self(images, prompts)

    reward = WeightedReward.of({"doubtful": (Doubtful(), 2.0), "red": (Redness(), 0.5)})
    images = pictures(2)
    expected = 6 * images.mean((1, 2, 3)) + 0.5 * images[:, 0].mean((1, 2))
    torch.testing.assert_close(reward.guiding(images, PROMPTS), expected)
