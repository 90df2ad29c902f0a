"""A plugin under its name: what it was made with."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import Field

from realignkit.contracts import Options, Reward
from realignkit.errors import ModelError, OptionError, PluginError
from realignkit.named import Named, chain, weights_digest


def test_settings_leave_out_where_a_reward_runs_at_any_depth():
    class Sum(Reward):
        class Options(Options):
            device: str | None = Field(None, description="where it runs")
            options: dict[str, Any] = Field({}, description="reward name -> its options")

        def __call__(self, images, prompts):
            return images.mean((1, 2, 3))

    made = Sum(device="cpu", options={"clip": {"device": "cuda", "dtype": "bf16", "margin": 0.5}})
    assert Named("reward", "sum", made).settings == {"options": {"clip": {"margin": 0.5}}}
    assert Named("reward", "mean", lambda images, prompts: images).settings is None


def test_a_name_says_who_is_to_blame_and_what_was_given():
    class Painter:
        def __call__(self, images):
            raise ValueError("no paint")

    painter = Named.of("tagger", Painter(), name="painter")
    assert Named.of("tagger", painter) is painter
    with pytest.raises(PluginError, match=r"^tagger 'painter' failed: ValueError: no paint\."), painter.calling():
        painter.plugin([])
    assert str(painter.breach("it is blind")).startswith("tagger 'painter' broke its contract: it is blind.")
    assert Named("prompts", "mine", []).whose == "prompt set 'mine'"
    plain = Named("scorer", "plain", print, {"api_key": "secret123", "depth": 3})
    assert (plain.options, plain.secrets, plain.settings) == ({"api_key": "***", "depth": 3}, ("secret123",), None)
    with pytest.raises(OptionError, match="tagger takes a plugin that is made, not the class Painter"):
        Named.of("tagger", Painter)


def test_a_chain_is_made_once():
    pairs = [("first", print), ("second", print)]
    made = chain(pairs)
    assert [scorer.name for scorer in made] == ["first", "second"]
    assert chain(made) is made and chain(made[0]) == (made[0],)
    assert chain(print)[0].name == "builtin_function_or_method"
    assert chain(print, "mine")[0].name == "mine"


@pytest.mark.parametrize("margin", [float("nan"), float("inf"), None, "x"])
def test_a_margin_is_a_finite_number(margin: Any):
    reward = Named("reward", "odd", lambda images, prompts: images)
    assert reward.margin == 1
    reward.plugin.margin = margin
    with pytest.raises(PluginError, match="reward 'odd' broke its contract: its margin must be a finite number, not"):
        _ = reward.margin


def test_weights_that_cannot_be_had_are_told_with_a_remedy():
    class Far:
        def out_of_reach(self):
            return "its weights are on the moon."

    with pytest.raises(ModelError, match=r"^tagger 'far' cannot work: its weights are on the moon\. Take another\.$"):
        Named("tagger", "far", Far()).check_reach("Take another.")
    Named("tagger", "silent", print).check_reach("")


def test_a_sum_has_parts_and_anything_else_is_its_own():
    from realignkit_plugins.rewards.weighted import WeightedReward

    def clip(images, prompts):
        return images.mean((1, 2, 3))

    made = Named("reward", "sum", WeightedReward.of({"clip": (clip, 2.0), "blip": (clip, 0.5)}))
    assert [(part.name, weight) for part, weight in made.parts] == [("clip", 2.0), ("blip", 0.5)]
    alone = Named("reward", "clip", clip)
    assert alone.parts == ((alone, 1.0),)
    clip.parts = ("other", "things")  # a stranger's own attribute
    assert alone.parts == ((alone, 1.0),)


def test_weights_are_told_apart_by_what_is_in_them():
    class Network:
        def __init__(self, bias: float, dtype: torch.dtype = torch.float32) -> None:
            self.inside = (torch.nn.Linear(2, 2).to(dtype),)
            with torch.no_grad():
                for weight in self.inside[0].parameters():
                    weight.fill_(bias)

    assert weights_digest(Network(0.5)) == weights_digest(Network(0.5))
    assert weights_digest(Network(0.5)) != weights_digest(Network(0.25))
    assert len(weights_digest(Network(0.5, torch.bfloat16))) == 16
    assert weights_digest(object()) == ""
