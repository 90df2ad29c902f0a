"""Whatever breaks in the middle of a run is named, and the last good checkpoint is there to go on from."""

from __future__ import annotations

import json

import pytest
import torch

from realignkit.errors import ModelError, PluginError
from realignkit.refl import checkpoints
from realignkit.refl.distributed import memory_errors
from tests.refl.rewards import Colour

OPTIONS = {"iterations": 4, "validation.every": 0, "checkpoint_every": 1, "denoising_weight": 0}
PETABYTE = 1 << 50


def infinite(rewards):
    return rewards / 0


def nan(rewards):
    return rewards * float("nan")


def of_another_shape(rewards):
    return rewards[:, None]


def too_large(rewards):
    return rewards + torch.empty(PETABYTE).sum()  # more than any address space: the allocator itself refuses


def raising(rewards):
    raise RuntimeError("no more")


FAILURES = {
    infinite: (ModelError, "reward 'breaks' computed NaN or infinity for 2 of 2 images"),
    nan: (ModelError, "reward 'breaks' computed NaN or infinity for 2 of 2 images"),
    of_another_shape: (PluginError, r"2 images got rewards of shape \(2, 1\)"),
    too_large: (ModelError, "memory does not suffice.*last checkpoint is intact"),
    raising: (PluginError, "reward 'breaks' failed: RuntimeError: no more"),
}


class Breaks(Colour):
    """Breaks at its third batch."""

    def __init__(self, how):
        super().__init__()
        self.how, self.calls = how, 0

    def __call__(self, images, prompts):
        self.calls += 1
        rewards = super().__call__(images, prompts)
        return self.how(rewards) if self.calls == 3 else rewards


def log(folder):
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


@pytest.fixture
def uninterrupted(make_trainer, tmp_path):
    trainer = make_trainer(Colour(), out=tmp_path / "whole", names={"reward": "breaks"}, **OPTIONS)
    trainer.train()
    return log(trainer.folder)


@pytest.mark.parametrize("how", FAILURES, ids=lambda how: how.__name__)
def test_a_reward_that_breaks_costs_nothing_that_was_done(make_trainer, uninterrupted, how):
    error, message = FAILURES[how]
    names = {"reward": "breaks"}
    broken = make_trainer(Breaks(how), names=names, **OPTIONS)
    with pytest.raises(error, match=message):
        broken.train()
    assert checkpoints.listed(broken.folder)[-1].name == "000002"
    resumed = make_trainer(Colour(), names=names, **OPTIONS)
    assert resumed.train(resume=True).iterations == 4
    assert log(resumed.folder) == uninterrupted


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError()])
def test_every_way_to_run_out_of_memory_is_one_message(error):
    for given in (error, PluginError("reward 'big' failed")):
        with pytest.raises(ModelError, match="Lower batch_size"), memory_errors():
            raise given from error
    with pytest.raises(RuntimeError, match="something else"), memory_errors():
        raise RuntimeError("something else")
