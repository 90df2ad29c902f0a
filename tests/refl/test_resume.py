"""How a run goes on, and what it refuses to go on with."""

from __future__ import annotations

import json
import os
import signal

import pytest
import torch
from pydantic import Field

from realignkit.contracts import Options
from realignkit.errors import OutputError
from realignkit.refl import checkpoints
from tests.refl.rewards import Colour, Noisy
from tests.refl.test_trainer import log, weights


def test_interrupted_and_resumed_is_as_if_never_stopped(make_trainer, tmp_path):
    options = {"iterations": 3, "validate_every": 2, "kl_weight": 0.1, "prior": tmp_path / "prior"}
    whole = make_trainer(Noisy(), out=tmp_path / "whole", **options)
    whole.train()

    def interrupt(state):
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    stopped = make_trainer(Noisy(), out=tmp_path / "stopped", on_step=interrupt, **options)
    with pytest.raises(KeyboardInterrupt):
        stopped.train()
    assert signal.getsignal(signal.SIGINT) is before
    assert json.loads((tmp_path / "stopped" / "training.json").read_text())["status"] == "interrupted"
    assert len(log(stopped)) == 1
    with pytest.raises(OutputError, match="--resume"):
        make_trainer(Noisy(), out=tmp_path / "stopped", **options).train()
    resumed = make_trainer(Noisy(), out=tmp_path / "stopped", **options)
    result = resumed.train(resume=True)
    assert log(resumed) == log(whole)
    assert [v.reward for v in result.history] == [v.reward for v in whole.history]
    assert all(torch.equal(a, b) for a, b in zip(weights(resumed), weights(whole), strict=True))
    assert len(checkpoints.listed(tmp_path / "stopped")) <= 2


def test_resuming_something_else_is_refused(make_trainer):
    make_trainer(iterations=1, validate_every=0).train()
    for change, name in (({"learning_rate": 0.5}, "learning_rate"), ({"prompts": ["a book"]}, "training_prompts")):
        with pytest.raises(OutputError, match=f"different: .*{name}"):
            make_trainer(**{"iterations": 1, "validate_every": 0, **change}).train(resume=True)
    longer = make_trainer(iterations=2, validate_every=0)  # more iterations may be asked for
    assert longer.train(resume=True).iterations == 2
    assert len(log(longer)) == 2


def test_a_run_is_not_resumed_with_the_same_reward_set_up_otherwise(make_trainer):
    """What the reward's own options say decides what is learnt, as much as its name."""

    class Strict(Colour):
        class Options(Options):
            strictness: float = Field(1.0, description="what squared distances are multiplied by")
            device: str | None = Field(None, description="where it runs")

        def __call__(self, images, prompts):
            return 1 - self.options.strictness * (1 - super().__call__(images, prompts))

    options = {"iterations": 1, "validate_every": 0}
    make_trainer(Strict(), **options).train()
    with pytest.raises(OutputError, match=r"reward_options .*1\.0.* there, .*2\.0.* now"):
        make_trainer(Strict(strictness=2.0), **options).train(resume=True)
    moved = make_trainer(Strict(device="cpu"), **{**options, "iterations": 2})  # where it runs may change
    assert moved.train(resume=True).iterations == 2


def test_truncated_log_and_killed_writers_are_cleaned_up(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"iteration": 1}\n{"iteration": 2}\n{"iteration": 3}\n{"itera')
    checkpoints.truncate_log(path, 2)
    assert path.read_text() == '{"iteration": 1}\n{"iteration": 2}\n'
