from __future__ import annotations

import pytest
import torch

from realignkit import OptionError, PluginError
from realignkit.calls import rank, rate
from realignkit.named import Named
from realignkit.registry import default_registry
from realignkit_plugins.rewards.judged import MetricReward
from tests.plugins.metrics.answerers import Plugin


@pytest.fixture(autouse=True)
def answerer():
    plugin = Plugin()
    default_registry().register(plugin, "scripted")
    yield
    default_registry().unregister(plugin)


@pytest.fixture
def images():
    dark, light = torch.full((3, 8, 8), 0.05), torch.full((3, 8, 8), 0.95)
    return torch.stack([dark, light])


def test_it_is_the_metrics_first_value_of_each_image(images):
    reward = MetricReward(metric="vqascore", options={"vqa": "scripted"})
    torch.testing.assert_close(reward(images, ["a pen", "a pen"]), torch.tensor([0.75, 0.25]))
    assert not reward.differentiable


def test_another_value_is_named(images):
    options = {"vqa": "scripted", "encoder": None}
    reward = MetricReward(metric="tifa", options=options, value="tifa/object")
    assert reward(images, ["a pen", "a pen"]).tolist() == [1.0, 0.0]
    with pytest.raises(OptionError, match="no value 'tifa/mood'"):
        MetricReward(metric="tifa", options=options, value="tifa/mood")(images, ["a pen", "a pen"])


def test_candidates_are_ranked_by_it(images):
    from PIL import Image

    pictures = [Image.new("RGB", (8, 8), (value,) * 3) for value in (240, 10)]
    named = Named("reward", "vqascore", MetricReward(metric="vqascore", options={"vqa": "scripted"}))
    assert rank(named, pictures, ["a pen"] * 2) == rate(named, pictures, ["a pen"] * 2) == [0.25, 0.75]


def test_metrics_of_sets_are_refused(images):
    with pytest.raises(OptionError, match="judges sets of images alone"):
        MetricReward(metric="fid", options={"reference": "nowhere"})(images, ["a", "b"])
    with pytest.raises(PluginError, match="no metric is called"):
        MetricReward(metric="nonsense")(images, ["a", "b"])
