"""Two processes under ``accelerate launch`` do what one does with twice the batch."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys

import pytest
from safetensors.torch import load_file

from realignkit.errors import OptionError
from realignkit.refl import losses
from realignkit.refl.algorithms.reward_weighted import RATINGS
from realignkit.refl.distributed import SPLITTING, Processes
from realignkit.refl.options import TrainingOptions
from realignkit.refl.rounds import folder_of
from realignkit.refl.trainable import LORA_FILE
from realignkit_plugins.micro.world.__main__ import main as draw_pairs
from tests.conftest import HANGS, ROOT
from tests.refl.launched import FEEDBACK, drawing, feedback, trainer

ENVIRONMENT = {
    **os.environ,
    "ACCELERATE_USE_CPU": "true",
    "CUDA_VISIBLE_DEVICES": "",
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "plugins")]),
}


def launch(*command, how="--multi_gpu"):
    """Run a module in two processes of ``accelerate launch``, on processors."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    launcher = [sys.executable, "-m", "accelerate.commands.launch", how, "--num_processes", "2"]
    launcher += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    return subprocess.run(
        [*launcher, "--main_process_port", str(port), "-m", *command],
        cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=HANGS,
    )  # fmt: skip


@pytest.mark.parametrize("flag, kind", SPLITTING.items())
def test_launchers_that_would_split_a_model_are_refused(flag, kind, monkeypatch, tmp_path):
    monkeypatch.setenv(flag, "true")
    with pytest.raises(OptionError, match=rf"{kind} would split nothing here.*launch with --multi_gpu"):
        Processes(TrainingOptions(tracker="none"), tmp_path)


def test_processes_that_would_each_train_alone_are_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(OptionError, match=r"2 processes were launched.*set ACCELERATE_USE_CPU=true"):
        Processes(TrainingOptions(tracker="none"), tmp_path)


@pytest.mark.slow
def test_a_flow_transformer_learns_in_two_processes_of_the_command_as_in_one(tmp_path):
    pairs = tmp_path / "pairs"
    draw_pairs(pairs, count=4)
    command = ["realignkit.cli", "train", "--model", "micro_flow", "--reward", "micro_clip", "--prompts", "micro:train"]
    settings = {
        "algorithm": "reward_weighted", "pairs": pairs, "iterations": 2, "validation.every": 0, "learning_rate": 1e-3,
        "warmup_iterations": 0, "tracker": "none", "lora.rank": 2, "mixed_precision": "no",
    }  # fmt: skip
    command += [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
    two, one = tmp_path / "two", tmp_path / "one"
    done = launch(*command, "--set", "batch_size=1", "--out", two)
    assert done.returncode == 0, done.stderr[-3000:]
    alone = [sys.executable, "-m", *command, "--set", "batch_size=2", "--out", one]
    subprocess.run(alone, cwd=ROOT, env=ENVIRONMENT, capture_output=True, check=True, timeout=HANGS)
    rows = [[json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()] for out in (two, one)]
    assert len(rows[0]) == len(rows[1]) == 2
    for name in ("loss", "reward", "gradient_norm"):
        assert [row[name] for row in rows[0]] == pytest.approx([row[name] for row in rows[1]], rel=1e-3)
    learnt, expected = (load_file(out / LORA_FILE) for out in (two, one))
    ups = [name for name in expected if "lora_B" in name]  # they begin at zero
    assert any(expected[name].abs().max() > 1e-4 for name in ups)
    assert all((learnt[name] - expected[name]).abs().max() < 1e-5 for name in expected)


@pytest.mark.slow
def test_two_processes_equal_one_with_twice_the_batch(tmp_path):
    done = launch("tests.refl.launched", tmp_path / "two", tmp_path / "gradients")
    assert done.returncode == 0, done.stderr[-3000:]
    found = load_file(tmp_path / "gradients")
    one = trainer(tmp_path / "one", 2)
    expected = one.gradients(1)
    for name, tensors in (("reward", expected.reward), ("denoising", expected.denoising)):
        assert losses.norm(tensors) > 0
        apart = [found[f"{name}/{i}"] - tensor for i, tensor in enumerate(tensors)]
        assert losses.norm(apart) < 1e-4 * losses.norm(tensors)
    alone = drawing(tmp_path / "drawn", tmp_path / "two" / "prior", 2)
    drawn = alone.gradients(1).denoising
    assert losses.norm(drawn) > 0
    apart = [found[f"drawn/{i}"] - tensor for i, tensor in enumerate(drawn)]
    assert losses.norm(apart) < 1e-4 * losses.norm(drawn)
    assert (tmp_path / "two" / "drawn" / RATINGS).read_text() == (tmp_path / "drawn" / RATINGS).read_text()
    for name in FEEDBACK:
        alone = feedback(tmp_path / name, name, 2)
        learnt = alone.gradients(0).reward
        assert losses.norm(learnt) > 0
        apart = [found[f"{name}/{i}"] - tensor for i, tensor in enumerate(learnt)]
        assert losses.norm(apart) < 5e-3 * losses.norm(learnt)
        rated = [
            [json.loads(line) for line in (folder_of(tmp_path / run, 0) / "metadata.jsonl").read_text().splitlines()]
            for run in (f"two/{name}", name)
        ]
        assert [(row["file_name"], row["seed"]) for row in rated[0]] == [
            (row["file_name"], row["seed"]) for row in rated[1]
        ]
        assert [row["reward"] for row in rated[0]] == pytest.approx([row["reward"] for row in rated[1]], abs=1e-4)
    one.train()
    (row,), (other) = (
        [json.loads(line) for line in (tmp_path / folder / "log.jsonl").read_text().splitlines()]
        for folder in ("two", "one")
    )
    assert row["loss"] == pytest.approx(other[0]["loss"], rel=1e-4)
    records = [json.loads((tmp_path / folder / "training.json").read_text()) for folder in ("two", "one")]
    for two, alone in zip(*(record["history"] for record in records), strict=True):
        assert two["rewards"] == pytest.approx(alone["rewards"], abs=1e-3)
        assert two["judgements"] == pytest.approx(alone["judgements"], abs=1e-3)
