"""Plugins of another environment look the same from here: contract, options, errors; and their gradients come back."""

from __future__ import annotations

import ast
import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import Field, SecretStr

from realignkit import OptionError, Reward
from realignkit.cli.doctor import examine
from realignkit.errors import ModelError, PluginError
from realignkit.hookspecs import PluginInfo
from realignkit.isolation import (
    IsolatedMetric,
    IsolatedReward,
    IsolatedScorer,
    IsolatedSegmenter,
    IsolatedTagger,
    IsolatedVQA,
    worker,
)
from realignkit.testing import check_plugin, tiny_images

PROGRAM = """
import sys
assert not [name for name in sys.modules if name.startswith("realignkit") and name != "realignkit_program"]
import numpy as np

class Tagger:
    def __init__(self, names):
        self.names = names

    def __call__(self, images):
        assert all(image.dtype == np.uint8 and image.shape[-1] == 3 for image in images)
        light = [float(image.mean() / 255) for image in images]
        return [sorted(zip(self.names, (each, 1 - each)), key=lambda tag: -tag[1]) for each in light]

class Scorer:
    def __call__(self, prompt, tags):
        return [[name, "a " + name, "certain" if name in prompt else "unlikely"] for name, confidence in tags]

class Segmenter:
    def __call__(self, image, phrases):
        mask = image.mean(-1) > 100
        return [None if phrase.startswith("no") else [mask, 0.5] for phrase in phrases]

class VQA:
    def __call__(self, images, questions, choices):
        return ["yes" if image.mean() < 128 else "no" for image in images]

Plugin = {kind}
"""

WEIGHTS = """
import torch

def weights(scale):
    torch.manual_seed(7)
    layers = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.GELU(), torch.nn.Conv2d(8, 1, 1))
    return layers.requires_grad_(False).eval(), scale

class Plugin:
    def __init__(self, scale):
        state = torch.get_rng_state()
        self.layers, self.scale = weights(scale)
        torch.set_rng_state(state)

    def __call__(self, images, prompts):
        lengths = torch.tensor([len(prompt) for prompt in prompts]) / 100
        return self.layers(images).mean(dim=(1, 2, 3)) * self.scale + lengths
"""


def isolated(base, file, options=None):
    class Far(base):
        """Works far away."""

        environment = "far"
        requires = ("some-package==1",)
        program = file
        Options = options or base.Options

    return Far


class Named(IsolatedTagger.Options):
    names: tuple[str, str] = Field(("light", "dark"), description="of the two tags")


class Scaled(IsolatedReward.Options):
    scale: float = Field(2.0, description="factor")


@pytest.mark.parametrize("kind", ["Tagger", "Scorer", "Segmenter", "VQA"])
def test_every_kind_keeps_its_contract(program, kind):
    base = {"Tagger": IsolatedTagger, "Scorer": IsolatedScorer, "Segmenter": IsolatedSegmenter, "VQA": IsolatedVQA}[
        kind
    ]
    file = program(PROGRAM.replace("{kind}", kind))
    check_plugin(isolated(base, file, Named if kind == "Tagger" else None)())


@pytest.mark.parametrize(
    ("base", "said", "problem"),
    [
        (IsolatedVQA, "'yes'", r"it gave 'yes', not a list"),
        (IsolatedMetric, "{'light': 1}", r"it gave .*, not a list"),
        (IsolatedMetric, "[{'light': 1}, {'light': 0}]", "2 answers for 1 images"),
    ],
)
def test_answers_that_are_not_one_for_each_are_refused(program, base, said, problem):
    code = f"class Plugin:\n    def __call__(self, **asked):\n        return {said}\n"
    made = isolated(base, program(code))()
    ask = made.judge_each if base is IsolatedMetric else made
    with pytest.raises(PluginError, match=rf"^program 'far_program\.py' broke its contract: {problem}"):
        ask([Image.new("RGB", (8, 8))], ["is it light?"])


LIGHT = """
class Plugin:
    def __call__(self, images, prompts):
        lights = [{"light": image.mean() / 255} for image in images]
        return [{**light, "long": 1} if len(text) > 3 else light for light, text in zip(lights, prompts)]
"""


def test_a_metric_sums_up_here_what_is_judged_there(program):
    metric = isolated(IsolatedMetric, program(LIGHT))()
    white, black = Image.new("RGB", (8, 8), "white"), Image.new("RGB", (8, 8), "black")
    assert metric.judge_each([white, black], ["cat", "a cat"]) == [{"light": 1.0}, {"light": 0.0, "long": 1.0}]
    metric.update([white, black], ["cat", "a cat"])
    twin = copy.deepcopy(metric)
    assert twin.process is metric.process  # what is loaded serves for both
    twin.update([white, white], ["cat", "cat"])
    assert metric.compute() == {"light": 0.5, "long": 1.0}
    assert twin.compute() == {"light": 0.75, "long": 1.0}
    metric.merge(twin)
    assert metric.compute()["light"] == pytest.approx(4 / 6)
    assert isolated(IsolatedMetric, program(LIGHT))().compute() == {}
    check_plugin(isolated(IsolatedMetric, program(LIGHT))())


def test_keys_reach_the_program_and_no_command_line(program):
    class Keyed(IsolatedTagger.Options):
        key: SecretStr = Field(SecretStr(""), description="of a service")

    code = """
import sys

class Plugin:
    def __init__(self, key):
        self.key = key

    def __call__(self, images):
        return [[[self.key, 1.0], [str(self.key in open("/proc/self/cmdline").read()), 0.5]] for _ in images]
"""
    tagger = isolated(IsolatedTagger, program(code), Keyed)(key="sk-secret")
    ((key, listed),) = tagger(tiny_images()[:1])
    assert (key.name, listed.name) == ("sk-secret", "False")


@pytest.mark.parametrize(
    ("fails", "said"),
    [
        (
            "raise ValueError(f'{self.key} was refused by https://me:{self.key}@host/x')",
            r"ValueError: \*\*\* was refused by",
        ),
        (
            "import os; print(self.key, 'was refused'); os._exit(3)",
            r"ended \(exit code 3\) before .*: \*\*\* was refused",
        ),
    ],
)
def test_no_message_of_a_worker_shows_its_keys(program, fails, said):
    class Keyed(IsolatedTagger.Options):
        key: SecretStr = Field(SecretStr(""), description="of a service")

    code = f"""
class Plugin:
    def __init__(self, key):
        self.key = key

    def __call__(self, images):
        {fails}
"""
    tagger = isolated(IsolatedTagger, program(code), Keyed)(key="sk-hunter2-hunter2")
    with pytest.raises(PluginError, match=said) as error:
        tagger(tiny_images()[:1])
    assert "hunter2" not in str(error.value)


def test_options_reach_the_program_and_are_checked_here(program):
    tagger = isolated(IsolatedTagger, program(PROGRAM.replace("{kind}", "Tagger")), Named)
    ((tag, other),) = tagger(names=("day", "night"))([Image.new("RGB", (8, 8), "white")])
    assert (tag.name, tag.confidence, other.name) == ("day", 1.0, "night")
    with pytest.raises(OptionError, match=r"Far: colour: .* Its options: timeout, names"):
        tagger(colour="red")


@pytest.fixture
def near_and_far(program):
    """The same reward, computed in this process and in another environment."""
    file = program(WEIGHTS)
    names: dict = {}
    exec(file.read_text(), names)

    class Near(Reward):
        """In this process."""

        def __init__(self):
            super().__init__()
            self.plugin = names["Plugin"](2.0)

        def __call__(self, images, prompts):
            return self.plugin(images, prompts)

    return Near(), isolated(IsolatedReward, file, Scaled)()


def test_rewards_and_gradients_are_those_of_the_same_weights_here(near_and_far):
    near, far = near_and_far
    prompts = ["a cat", "a red book", "a dog"]
    images = torch.rand(3, 3, 24, 20, generator=torch.Generator().manual_seed(0))
    results = []
    for reward in (near, far):
        pixels = images.clone().requires_grad_()
        values = reward(pixels * 1.0, prompts)  # not a leaf, as drawn images are none
        (values * torch.tensor([1.0, -2.0, 0.5])).sum().backward()
        results.append((values.detach(), pixels.grad))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(theirs, ours, rtol=1e-6, atol=1e-6)
    check_plugin(far)
    with torch.no_grad():
        assert not far(images, prompts).requires_grad


def test_training_through_it_moves_images_as_in_this_process(near_and_far):
    ends = []
    for reward in near_and_far:
        pixels = torch.full((1, 3, 8, 8), 0.5, requires_grad=True)
        descent = torch.optim.SGD([pixels], lr=1.0)
        for _ in range(3):
            descent.zero_grad()
            (-reward(pixels, ["a cat"]).sum()).backward()
            descent.step()
        ends.append(pixels.detach())
    torch.testing.assert_close(ends[1], ends[0], rtol=1e-6, atol=1e-6)
    assert not torch.equal(ends[0], torch.full((1, 3, 8, 8), 0.5))


def test_the_command_names_the_python_that_a_plugin_wants(program):
    tagger = isolated(IsolatedTagger, program(""))
    tagger.environment, tagger.python = "nowhere", "3.8"
    assert "realignkit env create nowhere --python 3.8 --requires 'some-package==1'" in tagger().check()


def test_an_environment_that_is_missing_is_said_with_the_command_that_makes_it(program):
    tagger = isolated(IsolatedTagger, program(""))
    tagger.environment = "nowhere"
    command = "realignkit env create nowhere --requires 'some-package==1'"
    assert tagger().check() == f"the environment 'nowhere' is not on this machine: run {command}"
    assert tagger().out_of_reach() == f"{tagger().check()}."
    with pytest.raises(ModelError, match="is not on this machine: run realignkit env create nowhere"):
        tagger()(tiny_images())
    finding = examine(PluginInfo("tagger", "far", "", tagger), frozenset())
    assert (finding.state, finding.remedy) == ("not ready", tagger().check())


def test_the_worker_is_python_of_2019_and_nothing_of_ours():
    source = Path(worker.__file__).read_text()
    tree = ast.parse(source, feature_version=(3, 8))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not any(name.startswith("realignkit") for name in imported)
    checks = [
        node for node in ast.walk(tree) if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "isinstance"
    ]
    assert not any(isinstance(node.args[1], ast.BinOp) for node in checks)  # int | str is of 3.10


def test_arrays_of_every_kind_go_and_come(program):
    file = program("class Plugin:\n    def __call__(self, **given):\n        return given\n")
    process = isolated(IsolatedTagger, file)().process
    given = {
        "pixels": np.arange(24, dtype=np.uint8).reshape(2, 4, 3)[:, ::-1],
        "mask": np.eye(3, dtype=bool),
        "none": np.zeros((0, 3), np.float32),
        "deep": [{"half": np.array([0.5], np.float16)}, None, "text", 1],
    }
    back = process.ask("call", **given)
    for name in ("pixels", "mask", "none"):
        assert back[name].dtype == given[name].dtype
        assert np.array_equal(back[name], given[name])
    assert back["deep"][0]["half"] == 0.5 and back["deep"][1:] == [None, "text", 1]
