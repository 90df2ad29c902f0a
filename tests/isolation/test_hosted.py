"""Ordinary plugins in processes of their own: they look the same from here, and are none of this process's trouble."""

from __future__ import annotations

import copy
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from realignkit import OptionError, PluginError, calls, contracts
from realignkit.errors import ScorerError
from realignkit.isolation import IsolatedTagger, environments
from realignkit.isolation.hosted import isolate, isolated
from realignkit.layout import Likelihood, LocalCaption, Tag
from realignkit.named import Named, weights_digest
from realignkit.registry import Registry
from realignkit.resolve import make_reward
from realignkit.testing import check_plugin, tiny_images
from tests.conftest import ROOT
from tests.isolation import foreign
from tests.isolation.test_process import gone


@pytest.fixture
def registry():
    made = Registry(discover=False)
    made.register(foreign, "foreign")
    return made


def pictures(count=2):
    noise = np.random.default_rng(0).integers(0, 256, (count, 12, 10, 3), dtype=np.uint8)
    return [Image.fromarray(each) for each in noise]


def pid_of(plugin):
    return int(plugin([pictures()[0]])[0][0].name)


def test_a_tagger_works_in_another_process_and_with_its_keys_which_nobody_else_can_read(registry):
    isolate(registry, ["tagger"])
    tagger = registry.create("tagger", "foreign", key="sk-secret")
    ((where, key),) = tagger([pictures()[0]])
    assert int(where.name) != os.getpid()
    assert key == Tag("sk-secret", 0.25)
    with pytest.raises(PluginError, match=r"'foreign' failed: ValueError: no such key: \*\*\*\. "):
        registry.create("tagger", "foreign", key="refused-hunter2")([pictures()[0]])
    assert b"sk-secret" not in Path(f"/proc/{where.name}/cmdline").read_bytes()
    assert "sk-secret" not in str(Named("tagger", "foreign", tagger).options)
    assert tagger.check() == f"asked in {where.name}"
    check_plugin(tagger)


def test_options_are_checked_here_before_anything_is_started(registry):
    isolate(registry, ["foreign"])
    with pytest.raises(OptionError, match=r"colour: .*Its options: key"):
        registry.create("tagger", "foreign", colour="red")
    assert registry.info("tagger", "foreign").options_model() is foreign.Tagger.Options


def test_a_scorer_says_the_same_and_fails_the_same(registry):
    isolate(registry, ["scorer.foreign"])
    scorer = registry.create("scorer", "foreign")
    captions = scorer("a cat", (Tag("cat", 0.5),))
    assert captions == (LocalCaption("cat", "a cat", Likelihood.POSSIBLE),)
    assert captions[0].score == 0.5
    assert scorer.concurrency == 3
    assert scorer.notes("a cat", captions) == ("cat is possible",)
    with pytest.raises(ScorerError, match=r"^no answer in time\. Wait\.$") as raised:
        scorer("stumble", ())
    assert (raised.value.reason, raised.value.final) == ("timeout", True)
    with pytest.raises(
        PluginError,
        match=r"^the worker of scorer 'foreign' failed: ValueError: a hole\. Choose another plugin, or tell the author "
        r"of scorer 'foreign'\.$",
    ):
        scorer("fall", ())


def test_a_reward_gives_the_same_numbers_and_gradients(registry):
    near = registry.create("reward", "foreign")
    isolate(registry, ["reward"])
    far = registry.create("reward", "foreign")
    images = torch.rand(2, 3, 12, 10, generator=torch.Generator().manual_seed(0))
    for method in ("__call__", "guiding"):
        results = []
        for reward in (near, far):
            pixels = images.clone().requires_grad_()
            values = getattr(reward, method)(pixels, ["a", "a cat"])
            (values * torch.tensor([1.0, -3.0])).sum().backward()
            results.append((values.detach(), pixels.grad))
        for ours, theirs in zip(*results, strict=True):
            torch.testing.assert_close(theirs, ours, rtol=1e-6, atol=1e-6)
    assert far.margin == 2.0
    assert calls.rate(Named("reward", "foreign", far), pictures(), ["a", "b"]) == calls.rate(
        Named("reward", "foreign", near), pictures(), ["a", "b"]
    )
    assert weights_digest(far) == weights_digest(near) != ""
    check_plugin(far)


def test_of_a_sum_the_parts_are_isolated(registry):
    from realignkit_plugins import rewards

    registry.register(rewards, "rewards")
    isolate(registry, ["reward"])
    made = make_reward(registry, "foreign:2")
    ((part, weight),) = made.parts
    assert weight == 2.0
    torch.testing.assert_close(made(torch.zeros(1, 3, 8, 8), ["a"]), 2 * part.plugin(torch.zeros(1, 3, 8, 8), ["a"]))
    assert type(part.plugin) is not foreign.Reward


def test_a_metric_keeps_what_it_has_seen_there(registry):
    isolate(registry, ["metric"])
    metric = registry.create("metric", "foreign")
    with pytest.raises(TypeError, match="not callable"):
        metric(pictures(), ["a", "b"])
    metric.update(pictures(), ["a", "b"])
    twin = copy.deepcopy(metric)
    twin.update(pictures(1), ["c"])
    assert (metric.compute()["count"], twin.compute()["count"]) == (2.0, 3.0)
    metric.merge(twin)
    fresh = copy.deepcopy(metric)
    fresh.restore({"seen": metric.state()["seen"][:1]})
    assert (metric.compute()["count"], fresh.compute()["count"]) == (5.0, 1.0)
    assert fresh.compute()["light"] == float(np.asarray(pictures()[0]).mean())


def test_what_a_metric_had_seen_is_not_forgotten_in_silence(registry):
    isolate(registry, ["metric"])
    metric = registry.create("metric", "foreign")
    metric.update(pictures(), ["a", "b"])
    metric._process._running.process.kill()
    with pytest.raises(PluginError, match=r"the worker of metric 'foreign' was killed \(SIGKILL\)"):
        metric.compute()
    metric._process.ask("weights", number=0)  # another one has been started
    with pytest.raises(PluginError, match=r"what it had seen ended with its process\. Run the same command again"):
        metric.compute()


def test_prompts(registry):
    isolate(registry, ["prompts"])
    prompts = registry.create("prompts", "foreign_prompts")
    first, second = calls.texts_of(Named("prompts", "foreign_prompts", prompts))
    assert first == "a cat" and second != f"a dog of {os.getpid()}"
    assert len(prompts) == 2 and prompts.labels()[1] == {"id": "dog"} and prompts.source == "made up"
    assert prompts.truth("a cat", ["cat"]) is None


def test_it_is_killed_and_the_next_question_starts_it_anew(registry, tmp_path, monkeypatch):
    isolate(registry, ["tagger.foreign"])
    poison = tmp_path / "poison"
    monkeypatch.setenv("POISON", str(poison))
    tagger = registry.create("tagger", "foreign")
    first = pid_of(tagger)
    poison.touch()
    with pytest.raises(PluginError, match=r"^the worker of tagger 'foreign' was killed \(SIGKILL\) before it had"):
        tagger(tiny_images())
    assert gone(first)
    assert pid_of(tagger) != first


def test_isolation_ends_with_its_context(registry):
    with isolated(registry, ["tagger", "tagger"]):
        assert pid_of(registry.create("tagger", "foreign")) != os.getpid()
    assert isinstance(registry.create("tagger", "foreign"), foreign.Tagger)


@pytest.mark.parametrize(
    ("wish", "error", "message"),
    [
        ("taggre", PluginError, "'taggre' is neither a kind of plugin nor the name of one. Did you mean 'tagger'?"),
        ("tagger=nowhere", OptionError, "no environment 'nowhere': make it, with realignkit and what brings the plug"),
        ("tagger=", OptionError, "'' will not do as the name of an environment"),
        ("generator", OptionError, "a generator cannot work in another process: the fine stage and training change"),
        ("drawn", OptionError, "generator 'drawn' cannot work in another process: the fine stage and training change"),
        ("", OptionError, "isolate takes a list of words"),
    ],
)
def test_wishes_that_cannot_be_granted(registry, wish, error, message):
    class Drawn:
        @staticmethod
        @foreign.realignkit.hookimpl
        def register_generators(register):
            register("drawn", "nowhere:Generator", "draws")

    registry.register(Drawn, "drawn")
    with pytest.raises(error) as raised:
        isolate(registry, [wish])
    assert message in str(raised.value)


def test_what_cannot_be_imported_there_is_said(registry):
    class Local(contracts.Tagger):
        def __call__(self, images):
            return [() for _ in images]

    class Hooks:
        @staticmethod
        @foreign.realignkit.hookimpl
        def register_taggers(register):
            register("local", Local, "of a function")

    registry.register(Hooks, "hooks")
    isolate(registry, ["tagger"])
    with pytest.raises(OptionError, match="tagger 'local' cannot be made in another process, which would have to imp"):
        registry.create("tagger", "local")


def test_another_environment_needs_realignkit(registry, environments_folder, monkeypatch, tmp_path):
    isolate(registry, ["tagger=far"])
    tagger = registry.create("tagger", "foreign")
    with pytest.raises(
        PluginError, match=r"^tagger 'foreign' is written for realignkit, which that environment lacks \(No module"
    ):
        tagger(tiny_images())
    folder = tmp_path / "environments" / "near"
    shutil.copytree(environments_folder / "far", folder, symlinks=True)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "ours.pth").write_text(f"{ROOT}\n{ROOT / 'plugins'}\n")
    environments.record(environments.Environment("near", folder, ()))
    monkeypatch.setenv(environments.FOLDER_VARIABLE, str(folder.parent))
    isolate(registry, ["tagger=near"])
    assert pid_of(registry.create("tagger", "foreign")) != os.getpid()


def test_a_plugin_that_has_an_environment_gets_another_one(registry, program):
    code = "class Plugin:\n    def __call__(self, images):\n        return [[['far', 1.0]] for _ in images]\n"
    file = program(code)

    class Far(IsolatedTagger):
        environment = "nowhere"
        program = file

    class Hooks:
        @staticmethod
        @foreign.realignkit.hookimpl
        def register_taggers(register):
            register("far", Far, "has a program")

    registry.register(Hooks, "hooks")
    isolate(registry, ["tagger"])
    assert "the environment 'nowhere' is not on this machine" in registry.create("tagger", "far").check()
    isolate(registry, ["tagger.far=far"])
    assert registry.create("tagger", "far")(pictures(1)) == [(Tag("far", 1.0),)]


def test_ctrl_c_is_for_whoever_asks(registry):
    isolate(registry, ["tagger"])
    tagger = registry.create("tagger", "foreign")
    pid = pid_of(tagger)
    os.kill(pid, signal.SIGINT)
    assert pid_of(tagger) == pid
