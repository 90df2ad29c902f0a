"""Rewards and metrics that break their contract: each gets one sentence that says how."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from realignkit import Metric, Reward
from realignkit.testing import check_plugin
from tests.testing.conftest import problem


class Vivid(Reward):
    """Distance from grey."""

    def __call__(self, images, prompts):
        return self.per_pixel(images).mean(dim=(1, 2, 3))

    def per_pixel(self, images):
        return (images - images.mean(dim=1, keepdim=True)).square()


class Detached(Vivid):
    """Forgets the gradient."""

    def __call__(self, images, prompts):
        return super().__call__(images.detach(), prompts)


class Copies(Vivid):
    """Computes on a copy that the gradient does not lead through, and pretends."""

    def __call__(self, images, prompts):
        return super().__call__(images.detach(), prompts) + torch.zeros(1, requires_grad=True)


class Rounds(Vivid):
    """Goes through 8-bit pictures."""

    def per_pixel(self, images):
        return super().per_pixel((images * 255).round() / 255)


class StraightThrough(Vivid):
    """Says five times what it teaches."""

    def per_pixel(self, images):
        vivid = super().per_pixel(images)
        return vivid + 4 * vivid.detach()


class Estimates(StraightThrough):
    """The same, which says so."""

    estimated_gradient = True


class Root(Vivid):
    """Has no slope where a picture is grey."""

    def per_pixel(self, images):
        return super().per_pixel(images).sqrt() * 0 + super().per_pixel(images)


class Relative(Vivid):
    """In comparison with the batch."""

    def __call__(self, images, prompts):
        values = super().__call__(images, prompts)
        return values - values.mean()


class BatchNorm(Vivid):
    """Normalises over the batch; alone it says what it says of all."""

    def __call__(self, images, prompts):
        values = super().__call__(images, prompts)
        return values + 0 * (values.sum() - values).detach() + 0.1 * (values.sum() - values) - 0.1 * (
            values.sum() - values
        ).detach()  # fmt: skip


class InPlace(Vivid):
    """Writes over what it is handed."""

    def per_pixel(self, images):
        return super().per_pixel(images.mul_(0.9))


class Whole(Vivid):
    """In whole numbers."""

    differentiable = False

    def __call__(self, images, prompts):
        return super().__call__(images, prompts).mul(100).long()


class Single(Vivid):
    """One number for all."""

    def __call__(self, images, prompts):
        return super().__call__(images, prompts).mean()


class Learns(Vivid):
    """Its weights want to learn."""

    def __init__(self):
        super().__init__()
        self.network = torch.nn.Conv2d(3, 1, 1)

    def per_pixel(self, images):
        return self.network(images)


class Drops(Learns):
    """Frozen, but in training mode."""

    def __init__(self):
        super().__init__()
        self.network.requires_grad_(False)


class Broken(Vivid):
    """NaN."""

    def per_pixel(self, images):
        return super().per_pixel(images) * float("nan")


@pytest.mark.parametrize(
    ("plugin", "message"),
    [
        (Detached, "it says that it is differentiable, but its rewards have no gradient"),
        (Copies, "its gradient does not lead back to its images: compute on the tensor that it gets"),
        (Rounds, r"its gradient is 0 for every image: something on the way \(rounding, argmax …\) has none"),
        (
            StraightThrough,
            "a step along its gradient changes the reward by .*, and the gradient says .*estimated_gradient = True",
        ),
        (Root, r"its gradient is NaN or infinite \(square roots and norms have none at 0\)"),
        (Relative, r"a batch must be its pairs, and \[.*\] becomes \[.*\] alone"),
        (BatchNorm, "an image's reward has a gradient on others of the batch, and a batch is its pairs"),
        (InPlace, r"it changes the images that it is handed: no operations in place \(mul_, clamp_ …\)"),
        (Whole, "rewards are floating point numbers, and these are torch.int64"),
        (Single, r"4 images got rewards of shape \(\)"),
        (Learns, r"the weights of its Conv2d gather a gradient: freeze them, requires_grad_\(False\)"),
        (Drops, r"its Conv2d is in training mode, where dropout draws lots: call eval\(\)"),
        (Broken, "computed NaN or infinity for 4 of 4 images"),
    ],
)
def test_a_reward_that_breaks_its_contract(plugin, message):
    torch.manual_seed(1)
    assert re.search(message, problem(plugin()))


class Draws(Vivid):
    """Draws from torch's generator, which the trainer seeds."""

    def __call__(self, images, prompts):
        return super().__call__(images, prompts) + torch.rand(len(images))


class Judges(Vivid):
    """No gradient, and says so."""

    differentiable = False

    def per_pixel(self, images):
        return super().per_pixel(images.round())


@pytest.mark.parametrize("plugin", [Vivid, Estimates, Draws, Judges])
def test_a_right_reward(plugin):
    check_plugin(plugin())


# --- metrics ----------------------------------------------------------------------------------------------------------


class Light(Metric):
    """Mean lightness."""

    def __init__(self):
        super().__init__()
        self.sum, self.count = 0.0, 0

    def update(self, images, prompts):
        for values in self.judge_each(images, prompts):
            self.sum += values["light"]
            self.count += 1

    def judge_each(self, images, prompts):
        return [{"light": float(np.asarray(image, dtype=float).mean() / 255)} for image in images]

    def compute(self):
        return {"light": self.sum / max(1, self.count)}

    def merge(self, other):
        self.sum, self.count = self.sum + other.sum, self.count + other.count


class MeanOfMeans(Light):
    """A mean of the batches' means."""

    def update(self, images, prompts):
        values = [each["light"] for each in self.judge_each(images, prompts)]
        self.sum, self.count = self.sum + (max(values) if values else 0.0), self.count + 1


class Forgets(Light):
    """Merges nothing."""

    def merge(self, other):
        pass


class Resets(Light):
    """Begins anew once it has computed."""

    def compute(self):
        values = super().compute()
        self.sum, self.count = 0.0, 0
        return values


class Undefined(Light):
    """NaN among its numbers."""

    def compute(self):
        return {**super().compute(), "odd": float("nan")}


class Holds(Light):
    """Holds what cannot be copied."""

    def __init__(self):
        super().__init__()
        self.lock = __import__("threading").Lock()


class Kept(Light):
    """Can go on after a kill, but for the count."""

    def state(self):
        return {"sum": np.array(self.sum)}

    def restore(self, state):
        self.sum, self.count = float(state["sum"]), 1


class Untold(Light):
    """Says of each image a text."""

    def judge_each(self, images, prompts):
        return [{**each, "verdict": "good"} for each in super().judge_each(images, prompts)]


class Paths(Light):
    """An identity that no file can hold."""

    def identity(self):
        return {"weights": __import__("pathlib").Path("weights")}


@pytest.mark.parametrize(
    ("plugin", "message"),
    [
        (MeanOfMeans, "one picture at a time gives other numbers than all"),
        (Forgets, "two halves merged give others than the whole"),
        (Resets, r"compute\(\) gives other numbers the second time"),
        (Undefined, r"compute\(\) must return finite numbers by name, and 'odd' is nan"),
        (Holds, r"it cannot be copied \(copy.deepcopy: TypeError: cannot pickle '_thread.lock' object\)"),
        (Kept, r"restored from its state\(\) it goes on otherwise"),
        (Untold, r"judge_each\(\) must return numbers by name, and 'verdict' is 'good'"),
        (Paths, r"what identity\(\) returns must be JSON"),
    ],
)
def test_a_metric_that_breaks_its_contract(plugin, message):
    assert re.search(message, problem(plugin()))


def test_a_right_metric():
    check_plugin(Light())
