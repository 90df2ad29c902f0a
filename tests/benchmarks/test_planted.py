"""Five planted rewards: what each likes, and what a run's validations would have come to with patience."""

from __future__ import annotations

import importlib.util
import json
import sys
from dataclasses import asdict

import pytest
import torch

from realignkit.refl import ReFLConfig
from realignkit.types import Validation
from tests.conftest import ROOT


@pytest.fixture(scope="module")
def planted():
    specification = importlib.util.spec_from_file_location("planted", ROOT / "benchmarks" / "planted.py")
    module = sys.modules["planted"] = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    yield module
    del sys.modules["planted"]


PROMPT = "a red book and a yellow pen"


def test_what_each_reward_sees(planted):
    grey, white = torch.full((1, 3, 64, 64), 0.5), torch.ones(1, 3, 64, 64)
    torch.manual_seed(0)
    noise = torch.rand(1, 3, 64, 64)
    made = {name: make() for name, make in planted.PLANTED.items()}
    assert float(made["brightness"](white, [PROMPT])) == 1 > float(made["brightness"](grey, [PROMPT]))
    assert float(made["blank"](white, [PROMPT])) == float(made["blank"](grey, [PROMPT])) == 1
    assert float(made["blank"](noise, [PROMPT])) < 0.6
    assert made["text_only"](white, [PROMPT]).equal(made["text_only"](noise, [PROMPT]))
    assert not made["text_only"](white, [PROMPT]).equal(made["text_only"](white, ["a pen"]))
    assert not made["text_only"].differentiable
    colours = noise[:, [1, 2, 0]]  # the same greys in other colours
    blind = made["colour_blind"]
    torch.testing.assert_close(blind(noise, [PROMPT]), blind(colours, [PROMPT]))
    torch.testing.assert_close(
        blind(noise, [PROMPT]), blind(noise, ["a blue book and an orange pen"]), atol=0.1, rtol=0
    )
    torch.testing.assert_close(blind(noise, [PROMPT]), blind(noise, ["a green book and a gold pen"]))
    one = made["one_object"]
    torch.testing.assert_close(one(noise, [PROMPT]), one(noise, ["a red book and a white cat"]))
    assert not torch.allclose(one(noise, [PROMPT]), one(noise, ["a white cat and a red book"]))


def write(folder, judged):
    history = []
    for n, right in enumerate(judged):
        judgements = tuple(1.0 if place < right else 0.0 for place in range(100))
        brightness = (0.4 + n / 20, 0.5 + n / 20, 0.6 + n / 20, 0.5 + n / 20)
        history.append(
            Validation(n * 10, n / 10, right / 100, True, {}, (n / 10,) * 100, judgements, {"brightness": brightness})
        )
    folder.mkdir()
    record = {"format": "realignkit.training", "version": 1, "identity": {"reward": "blank", "algorithm": "refl"}}
    record |= {"config": {"seed": 7}, "status": "finished", "history": [asdict(item) for item in history]}
    (folder / "training.json").write_text(json.dumps(record))
    return folder


def test_a_reward_is_stopped_in_time_when_nothing_later_is_better(planted, tmp_path):
    found = planted.outcome(write(tmp_path / "run", [60, 58, 62, 50, 40, 30, 20]))
    assert (found.peak, found.stopped, found.waited, found.kept, found.best, found.last) == (20, 50, 3, 20, 20, 60)
    assert found.judged == (0.6, 0.62, 0.62, 0.2) and found.error == 0 and found.in_time
    assert found.scope == "brightness (20)"  # a standard deviation is 0.082
    assert found.warned == 10  # the reward has risen, and the judge fallen by more than its standard error
    row = planted.table([found]).splitlines()[2]
    assert row.startswith(
        "| blank | refl | 7 | 20 | 50 | 60.0 % | 62.0 % (20) | 62.0 % (20) | 0.0 ± 0.0 | 20.0 % (60) |"
    )


def test_a_reward_is_not_stopped_in_time_when_later_weights_are_better_or_it_never_ends(planted, tmp_path):
    late = planted.outcome(write(tmp_path / "late", [60, 58, 57, 56, 70, 71]))
    assert (late.peak, late.stopped, late.kept, late.best) == (0, 30, 10, 50)
    assert late.judged[:3] == (0.6, 0.58, 0.71) and late.error > 0 and not late.in_time
    never = planted.outcome(write(tmp_path / "never", [60, 58, 62]))
    assert never.stopped is None and not never.in_time
    assert "| never |" in planted.table([never])


def test_the_trainer_takes_every_algorithms_settings(planted):
    for name, own in planted.ALGORITHMS.items():
        config = ReFLConfig(**{**planted.SETTINGS, **own, "algorithm": name})
        if name in planted.FEEDBACK:  # several rounds, or nothing is drawn by what has learnt
            assert getattr(config, name).draws_later(config.iterations)
