"""Two processes under ``accelerate launch`` do what one does with twice the batch."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys

import pytest
from safetensors.torch import load_file

from realignkit.refl import losses
from realignkit.refl.algorithms.reward_weighted import RATINGS
from realignkit.refl.rounds import folder_of
from tests.conftest import HANGS, ROOT
from tests.refl.launched import FEEDBACK, drawing, feedback, trainer


@pytest.mark.slow
def test_two_processes_equal_one_with_twice_the_batch(tmp_path):
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    command += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    command += ["--main_process_port", str(port), "-m", "tests.refl.launched"]
    environment = {
        **os.environ,
        "ACCELERATE_USE_CPU": "true",
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "plugins")]),
    }
    done = subprocess.run(
        [*command, tmp_path / "two", tmp_path / "gradients"],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=HANGS,
    )  # fmt: skip
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
