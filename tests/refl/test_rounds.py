"""Rounds of the model's own pictures: drawn and rated once, kept, and gone on with after a kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from realignkit.errors import ModelError, OutputError, PluginError
from realignkit.evaluation.pictures import read_pictures
from realignkit.images import to_tensor
from realignkit.refl import seeds
from realignkit.refl.rounds import folder_of
from tests.conftest import HANGS, ROOT
from tests.refl import killed
from tests.refl.conftest import PROMPTS
from tests.refl.rewards import Blind, Noisy

ROUND = {"algorithm": "dpo", "validation.every": 0, "batch_size": 2, "dpo.candidates": 2}


def rows(folder):
    return [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]


def test_every_picture_is_there_with_its_seed_and_what_the_reward_says_of_it(make_trainer):
    trainer = make_trainer(Blind(), **ROUND)
    trainer.gradients(0)
    folder, networks = folder_of(trainer.folder, 0), trainer.networks
    listed = rows(folder)
    assert len(listed) == 2 * len(PROMPTS) and {row["prompt"] for row in listed} == set(PROMPTS)
    assert len({row["seed"] for row in listed}) == len(listed)
    for row in listed:
        image = to_tensor([Image.open(folder / row["file_name"])])
        assert row["reward"] == pytest.approx(float(Blind()(image, [row["prompt"]])), abs=1e-6)
    row = listed[-1]
    latents = load_file((folder / row["file_name"]).with_suffix(".safetensors"))["latents"]
    with torch.no_grad():
        again = trainer.learner.algorithm.rollout.sample(
            seeds.noise_of((4, 16, 16), [row["seed"]]), networks.text([row["prompt"]])
        )
    torch.testing.assert_close(latents, again[0], atol=1e-4, rtol=1e-3)
    pictures = read_pictures(folder)  # as 'realignkit eval' reads them
    assert [(p.prompt, p.seed, p.path.name) for p in pictures] == [
        (row["prompt"], row["seed"], row["file_name"]) for row in listed
    ]


class Killed(Blind):
    """Dies in the middle, as if somebody had switched the machine off."""

    calls = 0

    def __call__(self, images, prompts):
        self.calls += 1
        if self.calls > 1:
            raise RuntimeError("gone")
        return super().__call__(images, prompts)


def test_what_a_killed_run_has_drawn_is_kept_and_the_rest_is_as_it_would_have_been(make_trainer, tmp_path):
    def trainer(name, reward):
        return make_trainer(reward, **ROUND, out=tmp_path / name, names={"reward": "blind"}, iterations=1)

    trainer("whole", Blind()).train()
    with pytest.raises(PluginError, match="gone"):
        trainer("killed", Killed()).train()
    folder = folder_of(tmp_path / "killed", 0)
    assert len(rows(folder)) == 4  # a batch of two prompts
    kept = [(folder / row["file_name"]).stat().st_mtime_ns for row in rows(folder)]
    with (folder / "metadata.jsonl").open("a") as file:
        file.write('{"file_name": "00002-0.png", "pro')  # cut off while it was written
    trainer("killed", Blind()).train(resume=True)
    assert [(folder / row["file_name"]).stat().st_mtime_ns for row in rows(folder)[:4]] == kept
    whole = folder_of(tmp_path / "whole", 0)
    assert rows(folder) == rows(whole)
    for row in rows(whole):
        assert (folder / row["file_name"]).read_bytes() == (whole / row["file_name"]).read_bytes()
    logs = [(tmp_path / name / "log.jsonl").read_text() for name in ("whole", "killed")]
    assert [json.loads(log)["loss"] for log in logs] == [json.loads(logs[0])["loss"]] * 2


def test_damaged_latents_are_drawn_again(make_trainer, tmp_path):
    make_trainer(Blind(), **ROUND).gradients(0)
    folder = folder_of(tmp_path / "run", 0)
    before, file = rows(folder), folder / "00003-1.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-8] + bytes(8))
    make_trainer(Blind(), **ROUND).gradients(0)
    assert file.read_bytes() == whole and rows(folder) == before


def test_pictures_of_other_settings_are_not_taken_for_these(make_trainer, tmp_path):
    make_trainer(Blind(), **ROUND).gradients(0)
    before = rows(folder_of(tmp_path / "run", 0))
    make_trainer(Blind(), **{**ROUND, "dpo.num_inference_steps": 3}).gradients(0)
    assert [row["seed"] for row in rows(folder_of(tmp_path / "run", 0))] == [row["seed"] for row in before]
    assert rows(folder_of(tmp_path / "run", 0)) != before
    picture, record = (folder_of(tmp_path / "run", 0) / name for name in ("00000-0.png", "round.json"))
    times, weights = picture.stat().st_mtime_ns, json.loads(record.read_text())["weights"]
    make_trainer(Blind(), **{**ROUND, "dpo.num_inference_steps": 3, "lora.rank": 3}).gradients(0)
    assert picture.stat().st_mtime_ns != times and json.loads(record.read_text())["weights"] != weights


def test_a_round_that_is_learnt_from_is_neither_drawn_anew_nor_without_what_is_missing(make_trainer, tmp_path):
    """In the middle of a round the weights that drew it are gone; resuming must not draw with others."""
    make_trainer(Blind(), **ROUND, iterations=1, learning_rate=0.05).train()
    folder = folder_of(tmp_path / "run", 0)
    before = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.png")}
    make_trainer(Blind(), **ROUND, iterations=2, learning_rate=0.05).train(resume=True)
    assert {path.name: path.stat().st_mtime_ns for path in folder.glob("*.png")} == before
    (folder / "00001-1.safetensors").unlink()
    with pytest.raises(OutputError, match=r"missing or damaged, and what drew them has learnt since\. Train into"):
        make_trainer(Blind(), **ROUND, iterations=3, learning_rate=0.05).train(resume=True)
    round_kept = {**ROUND, "dpo.reference": "round", "out": tmp_path / "kept", "learning_rate": 0.05}
    make_trainer(Blind(), **round_kept, iterations=1).train()
    file = folder_of(tmp_path / "kept", 0) / "00001-1.safetensors"
    whole = file.read_bytes()
    file.unlink()
    make_trainer(Blind(), **round_kept, iterations=2).train(resume=True)
    assert file.read_bytes() == whole  # drawn again by the weights that drew it


def test_rounds_are_drawn_with_what_has_been_learnt_and_resumed(make_trainer, tmp_path):
    """Also with a reward that draws from torch's global state, and with more candidates than a batch holds."""
    options = {**ROUND, "batch_size": 1, "dpo.candidates": 3, "dpo.iterations_per_round": 2, "dpo.prompts_per_round": 4}
    options |= {"dpo.reference": "round", "learning_rate": 0.05, "checkpoint_every": 1}
    whole = make_trainer(Noisy(), **options, iterations=4, out=tmp_path / "whole")
    whole.train()
    make_trainer(Noisy(), **options, iterations=3, out=tmp_path / "stopped").train()
    again = make_trainer(Noisy(), **options, iterations=4, out=tmp_path / "stopped")
    again.train(resume=True)
    losses = [
        [json.loads(line)["loss"] for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]
        for name in ("whole", "stopped")
    ]
    assert losses[0] == losses[1] and len(losses[0]) == 4
    first, second = (rows(folder_of(tmp_path / "whole", number)) for number in (0, 1))
    assert {row["prompt"] for row in first} != {row["prompt"] for row in second}  # in turn
    record = [json.loads((folder_of(tmp_path / "whole", n) / "round.json").read_text()) for n in (0, 1)]
    assert record[0]["weights"] != record[1]["weights"]
    for parameter, other in zip(again.trainable.parameters.values(), whole.trainable.parameters.values(), strict=True):
        assert torch.equal(parameter, other)


@pytest.mark.slow
@pytest.mark.parametrize("where", killed.WHERE)
def test_a_process_that_is_killed_in_a_round_goes_on_as_if_it_never_had_been(where, tmp_path):
    command = [sys.executable, "-m", "tests.refl.killed", str(tmp_path / "killed"), where]
    paths = os.pathsep.join([str(ROOT), str(ROOT / "plugins")])
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, timeout=HANGS
    )
    assert done.returncode == -signal.SIGKILL, done.stderr[-3000:]
    drawn = len(rows(folder_of(tmp_path / "killed", 1)))
    assert drawn == 12 if where == "learning" else 0 < drawn < 12
    again, whole = (killed.made(tmp_path / name, where) for name in ("killed", "whole"))
    again.train(resume=True)
    whole.train()
    for number in (0, 1):
        assert rows(folder_of(again.folder, number)) == rows(folder_of(whole.folder, number))
    losses = [
        [json.loads(line)["loss"] for line in (each.folder / "log.jsonl").read_text().splitlines()]
        for each in (again, whole)
    ]
    assert losses[0] == losses[1] and len(losses[0]) == 4
    for parameter, other in zip(again.trainable.parameters.values(), whole.trainable.parameters.values(), strict=True):
        assert torch.equal(parameter, other)


def test_the_rewards_of_a_sum_are_asked_and_logged_apart(make_trainer, tmp_path):
    from realignkit_plugins.rewards.weighted import WeightedReward

    def bright(images, prompts):
        return images.mean((1, 2, 3))

    reward = WeightedReward.of({"colour": (Blind(), 2.0), "bright": (bright, 0.5)})
    trainer = make_trainer(reward, **ROUND, iterations=1)
    trainer.train()
    row = rows(folder_of(tmp_path / "run", 0))[0]
    assert row["reward"] == pytest.approx(2 * row["rewards"]["colour"] + 0.5 * row["rewards"]["bright"])
    line = json.loads((tmp_path / "run" / "log.jsonl").read_text())
    assert line["reward"] == pytest.approx(2 * line["reward.colour"] + 0.5 * line["reward.bright"], abs=1e-5)


def test_a_model_that_draws_no_numbers_is_told_so(make_trainer):
    trainer = make_trainer(Blind(), **ROUND)
    for tensor in trainer.trainable.average:
        tensor.fill_(float("nan"))
    with pytest.raises(ModelError, match="NaN or infinity while sampling"):
        trainer.gradients(0)
