"""How many threads torch computes with, unless the user has chosen."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn

from realignkit import Realigner, machine
from realignkit.calls import rank, rate, rewards_of
from realignkit.cli import app
from realignkit.errors import ModelError, OptionError, PluginError
from realignkit.machine import TINY, cpu_parameters, suited_threads
from realignkit.named import Named
from realignkit.types import Layout

PROMPT = "a red book and a yellow pen"


@pytest.fixture(autouse=True)
def three_threads(monkeypatch):
    """A machine on which torch takes three threads by itself, and a user who has said nothing."""
    before = torch.get_num_threads()
    for name in machine.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    monkeypatch.setattr(torch, "get_num_interop_threads", lambda: 3)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2}, raising=False)
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def tiny() -> nn.Module:
    return nn.Linear(2, 2)


def real() -> nn.Module:
    """A network of just enough parameters, which hold no memory of their own."""
    network = nn.Linear(1, 1)
    network.weight = nn.Parameter(torch.zeros(1).expand(TINY, 1))
    return network


class Holder:
    """Keeps its networks as plugins do."""

    def __init__(self, *held: Any) -> None:
        self.options, self._loaded = {"a": 1}, held
        self.self = self


def inside(*holders: Any, **chosen: Any) -> int:
    with suited_threads(*holders, **chosen):
        return torch.get_num_threads()


def test_by_size():
    assert inside(tiny()) == 1
    assert inside(real()) == 3
    assert inside(Holder(("name", Holder(tiny())))) == 1
    assert inside(Holder([tiny()], real())) == 3
    assert torch.get_num_threads() == 3


def test_what_holds_no_network_on_the_cpu_leaves_the_number():
    assert inside(Holder()) == inside(Holder("text", print, os, Holder)) == inside() == 3
    assert inside(nn.Linear(2, 2, device="meta")) == 3
    with suited_threads(tiny()):
        assert inside(Holder()) == 1  # not loaded yet: most likely like what is around it


def test_parameters_are_counted_once():
    network = tiny()
    assert cpu_parameters([Holder(network, network), network]) == 6


def test_nested_sizes():
    with suited_threads(tiny()):
        assert inside(real()) == 3
        assert inside(tiny()) == 1
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 3


def test_the_option_wins(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert inside(tiny(), threads=2) == 2
    with suited_threads(threads=2):
        assert inside(tiny()) == inside(real()) == 2
        assert inside(tiny(), threads=4) == 4
    assert torch.get_num_threads() == 3


@pytest.mark.parametrize("name", ["OMP_NUM_THREADS", "MKL_NUM_THREADS"])
def test_the_environment_wins(monkeypatch, name):
    monkeypatch.setenv(name, "3")
    assert inside(tiny()) == 3


@pytest.mark.parametrize("value", ["abc", "0", "-1", "1.5", " ", "3x"])
def test_what_is_no_number_of_threads_is_no_choice(monkeypatch, value):
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    assert inside(tiny()) == 1


@pytest.mark.parametrize("value", ["3", " 3 ", "3,1"])
def test_numbers_of_threads_as_openmp_reads_them(monkeypatch, value):
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    assert inside(tiny()) == 3


def test_what_the_user_has_told_torch_wins():
    torch.set_num_threads(2)
    assert inside(tiny()) == inside(real()) == 2
    with suited_threads(Holder()):
        assert inside(tiny()) == 2
    assert torch.get_num_threads() == 2


def test_restored_after_an_exception():
    with pytest.raises(ZeroDivisionError), suited_threads(tiny()), suited_threads(threads=2):
        raise ZeroDivisionError
    assert torch.get_num_threads() == 3
    assert inside(tiny()) == 1  # nothing is left of the choice


def test_what_is_set_inside_stays():
    with suited_threads(tiny()), suited_threads(real()):
        torch.set_num_threads(2)
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize("wrong", [0, -1, 1025, 1.5, "2", True])
def test_no_number_of_threads(registry, wrong):
    with pytest.raises(OptionError, match="whole number from 1 to 1024"):
        inside(threads=wrong)
    with pytest.raises(OptionError, match="whole number from 1 to 1024"):
        Realigner.from_pretrained("tiny", registry=registry, threads=wrong)


class Counting:
    """Asks another plugin, and notes with how many threads it was asked."""

    def __init__(self, inner: Any, counts: list[int]) -> None:
        self.inner, self.counts = inner, counts

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def __call__(self, *arguments: Any) -> Any:
        self.counts.append(torch.get_num_threads())
        return self.inner(*arguments)


@pytest.fixture
def realigner():
    return Realigner.from_pretrained("micro", sampling={"num_inference_steps": 2})


def test_every_step_of_a_realignment(realigner):
    counts: list[int] = []
    realigner = realigner.with_(
        tagger=Counting(realigner.tagger, counts),
        segmenter=Counting(realigner.segmenter, counts),
        scorers=[("counting", Counting(realigner.scorers[0][1], counts))],
    )

    def progress(step: str, done: int, total: int) -> None:
        counts.append(torch.get_num_threads())

    result = realigner(PROMPT, 42, progress=progress)
    realigner.generate([PROMPT], [42], progress=progress)
    realigner.refine([PROMPT], [result.layout], [42], progress=progress)
    realigner.tag([result.coarse])
    realigner.segment(result.coarse, result.captions)
    assert set(counts) == {1}
    assert torch.get_num_threads() == 3

    counts.clear()
    realigner = realigner.with_(threads=2)
    realigner.tag([result.coarse])
    realigner.score(PROMPT, result.tags)
    realigner.segment(result.coarse, result.captions)
    assert set(counts) == {2}
    assert torch.get_num_threads() == 3


@pytest.mark.parametrize("call", ["__call__", "generate", "refine"])
def test_the_option_when_drawing(realigner, call):
    realigner = realigner.with_(threads=2)
    layouts = [[Layout()]] if call == "refine" else []
    counts: list[int] = []

    def stop(step: str, done: int, total: int) -> None:
        counts.append(torch.get_num_threads())
        raise ModelError("stopped")

    with pytest.raises(ModelError, match="stopped"):
        getattr(realigner, call)([PROMPT], *layouts, [42], progress=stop)
    assert counts == [2]
    assert torch.get_num_threads() == 3


def test_restored_when_a_plugin_fails(realigner):
    def broken(images: Sequence[Image.Image]) -> Any:
        assert torch.get_num_threads() == 1
        raise RuntimeError("broken")

    with pytest.raises(PluginError, match="broken"):
        realigner.with_(tagger=broken)(PROMPT, 42)
    assert torch.get_num_threads() == 3


class Reward(Holder):
    """The brightness, by a network that it holds."""

    def __init__(self, network: nn.Module, counts: list[int]) -> None:
        super().__init__(network)
        self.counts = counts

    def __call__(self, images: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        self.counts.append(torch.get_num_threads())
        return images.mean((1, 2, 3))


def test_rewards_by_their_own_size():
    counts: list[int] = []
    image = Image.new("RGB", (8, 8))
    for network in (tiny(), real()):
        bright = Named("reward", "bright", Reward(network, counts))
        rate(bright, [image], [PROMPT])
        rank(bright, [image], [PROMPT])
        with suited_threads(tiny()):  # a real judge of a tiny model's images
            rewards_of(bright, torch.zeros(1, 3, 8, 8), [PROMPT])
    assert counts == [1, 1, 1, 3, 3, 3]


def test_features_of_an_ablation():
    from realignkit.evaluation.judging import Judging
    from realignkit.registry import default_registry

    judging = Judging(default_registry(), "micro_oracle")
    oracle = judging.metric.plugin
    oracle._oracle  # noqa: B018 - loads it
    counts: list[int] = []
    inner = oracle.features
    oracle.features = lambda images: counts.append(torch.get_num_threads()) or inner(images)
    judging([Image.new("RGB", (64, 64))], [PROMPT], 1)
    assert counts == [1]
    assert torch.get_num_threads() == 3


def test_training(tmp_path):
    from realignkit.refl import ReFLTrainer

    pipeline: Any = Realigner.from_pretrained("micro").generator.pipeline()
    counts: list[int] = []
    rollout = {"num_inference_steps": 1}
    config = {"iterations": 1, "batch_size": 1, "refl": rollout, "denoising_weight": 0, "reward_weight": 1.0}

    def trainer(**chosen: Any) -> ReFLTrainer:
        return ReFLTrainer(
            pipeline,
            Reward(tiny(), counts),
            {**config, "algorithm": "refl"},
            prompts=[PROMPT],
            held_out=["a green car"],
            sampling={"num_inference_steps": 1},
            out=tmp_path / str(chosen),
            on_step=lambda state: counts.append(torch.get_num_threads()),
            **chosen,
        )

    trainer().train()
    assert set(counts) == {1}
    assert torch.get_num_threads() == 3
    counts.clear()
    trainer(threads=2).gradients(0)
    assert counts == [2]
    assert torch.get_num_threads() == 3
    with pytest.raises(OptionError, match="threads must be"):
        trainer(threads=0)


def test_other_threads_of_the_program_keep_theirs():
    counts: list[int] = []
    torch.zeros(1)
    ready, done = threading.Event(), threading.Event()

    def other() -> None:
        torch.get_num_threads()
        ready.set()
        done.wait(60)
        counts.append(torch.get_num_threads())

    thread = threading.Thread(target=other)
    thread.start()
    ready.wait(60)
    with suited_threads(tiny()):
        done.set()
        thread.join()
    assert counts == [3]


def test_a_tiny_model_draws_the_same_picture_on_every_machine(realigner):
    pictures = []
    for count in (None, 1):
        realigner.threads = count
        result: Any = realigner(PROMPT, 42)
        pictures.append([result.coarse.tobytes(), result.refined.tobytes()])
    assert pictures[0] == pictures[1]


def test_commands_take_it(tmp_path):
    from typer.testing import CliRunner

    cli = CliRunner()
    few = ["--set", "sampling.num_inference_steps=1"]
    for number, command in enumerate((["run", PROMPT], ["dense", PROMPT, "--box", "a red book=0,0,.5,1"])):
        folder = tmp_path / str(number)
        done = cli.invoke(app, [*command, "--out", str(folder), "--threads", "1", *few])
        assert done.exit_code == 0, done.output
        assert torch.get_num_threads() == 3
        assert cli.invoke(app, [*command, "--out", str(folder), "--threads", "0"]).exit_code == 2
    config = tmp_path / "train.yaml"
    config.write_text("reward: caption\nprompts: micro:train\nout: nowhere\nthreads: none at all\n")
    refused = cli.invoke(app, ["train", "--config", str(config)])
    assert refused.exit_code == 2
    assert "threads must be a whole number from 1 to 1024" in refused.output


def test_nothing_is_loaded_for_it():
    code = "import realignkit.cli, realignkit.machine, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
