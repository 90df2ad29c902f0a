"""Damaged runs: checkpoints that are passed over, weights that are made again, and what is lost."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading

import pytest

from realignkit.errors import OptionError, OutputError
from realignkit.files import only_writer
from realignkit.records import write_manifest
from realignkit.refl import checkpoints
from tests.refl.conftest import trainer
from tests.refl.rewards import Colour, Noisy
from tests.refl.test_trainer import log


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


FOUR = {"iterations": 4, "validation.every": 0, "checkpoint_every": 2, "denoising_weight": 0}

DAMAGES = {
    "flipped bit of the weights": lambda checkpoint: flip(checkpoint / "state.safetensors"),
    "flipped bit of the record": lambda checkpoint: flip(checkpoint / "state.json"),
    "cut weights": lambda checkpoint: (checkpoint / "state.safetensors").write_bytes(b"x"),
    "no record": lambda checkpoint: (checkpoint / "state.json").unlink(),
    "empty manifest": lambda checkpoint: (checkpoint / "manifest.json").write_bytes(b""),
    "empty folder": lambda checkpoint: [path.unlink() for path in checkpoint.iterdir()],
}


@pytest.fixture(scope="module")
def whole_and_stopped(tmp_path_factory):
    """A folder with a run of five iterations, and the same, stopped after four; checkpoints every second one."""
    folder = tmp_path_factory.mktemp("runs")
    trainer(out=folder / "whole", **{**FOUR, "iterations": 5}).train()

    def interrupt(state):
        if state.iteration == 4:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        trainer(out=folder / "run", on_step=interrupt, **{**FOUR, "iterations": 5}).train()
    assert [path.name for path in checkpoints.listed(folder / "run")] == ["000002", "000004"]
    return folder


@pytest.fixture
def stopped(whole_and_stopped, tmp_path):
    """The stopped run, where :func:`make_trainer` trains; the whole one lies beside it."""
    shutil.copytree(whole_and_stopped, tmp_path, dirs_exist_ok=True)
    return tmp_path / "run"


def exported(folder):
    return (folder / "pytorch_lora_weights.safetensors").read_bytes()


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(make_trainer, stopped, tmp_path, damage):
    damage(stopped / "checkpoints" / "000004")
    said = []
    resumed = make_trainer(on_message=said.append, **{**FOUR, "iterations": 5})
    assert resumed.train(resume=True).iterations == 5
    assert "checkpoint" in said[0] and "000004 cannot be used" in said[0] and "going on from 000002" in said[0]
    assert exported(stopped) == exported(tmp_path / "whole")
    assert [row["iteration"] for row in log(resumed)] == [1, 2, 3, 4, 5]
    assert [path.name for path in checkpoints.listed(stopped)] == ["000004", "000005"]
    for path in checkpoints.listed(stopped):
        checkpoints.read(path)


def test_a_damaged_checkpoint_counts_not_as_kept(make_trainer, stopped):
    flip(stopped / "checkpoints" / "000004" / "state.safetensors")
    resumed = make_trainer(**{**FOUR, "iterations": 3})
    resumed.train(resume=True)
    assert [path.name for path in checkpoints.listed(stopped)] == ["000002", "000003"]


def test_with_no_checkpoint_left_nothing_is_started_over(make_trainer, stopped):
    for path in checkpoints.listed(stopped):
        flip(path / "state.safetensors")
    before = {path: path.read_bytes() for path in stopped.rglob("*") if path.is_file()}
    with pytest.raises(OutputError, match=r"no whole checkpoint is left: checkpoint .*000004 cannot be used"):
        make_trainer(**{**FOUR, "iterations": 5}).train(resume=True)
    assert {path: path.read_bytes() for path in stopped.rglob("*") if path.is_file()} == before
    shutil.rmtree(stopped / "checkpoints")
    with pytest.raises(OutputError, match="holds a training run, but no checkpoint"):
        make_trainer(**{**FOUR, "iterations": 5}).train(resume=True)
    with pytest.raises(OutputError, match="--resume"):
        make_trainer(**{**FOUR, "iterations": 5}).train()


def test_where_there_is_nothing_to_resume_it_is_said(make_trainer, tmp_path):
    said: list[str] = []
    make_trainer(out=tmp_path / "mistyped", on_message=said.append, iterations=1).train(resume=True)
    assert said[0] == f"{tmp_path / 'mistyped'} holds no training run to resume; a new one begins"


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", None], ids=repr)
def test_a_damaged_record_of_the_run_is_written_anew(make_trainer, stopped, content):
    path = stopped / "training.json"
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(OutputError, match="--resume"):  # it is a run all the same
        make_trainer(**{**FOUR, "iterations": 5}).train()
    with pytest.raises(OutputError, match="different: learning_rate"):
        make_trainer(learning_rate=0.5, **{**FOUR, "iterations": 5}).train(resume=True)
    assert make_trainer(**{**FOUR, "iterations": 5}).train(resume=True).iterations == 5
    assert json.loads(path.read_text())["iteration"] == 5


def test_a_run_that_was_killed_before_its_first_checkpoint_begins_anew(make_trainer, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "log.jsonl").write_text('{"iteration": 1}\n{"iter')
    resumed = make_trainer(**FOUR)
    assert resumed.train(resume=True).iterations == 4
    assert [row["iteration"] for row in log(resumed)] == [1, 2, 3, 4]


def test_lost_weights_are_made_again_from_their_checkpoint_or_missed_at_once(make_trainer, tmp_path):
    options = {"iterations": 2, "validation.every": 1, "checkpoint_every": 1, "denoising_weight": 0}
    made = make_trainer(**options)
    best = made.train().best.iteration
    weights = tmp_path / "run" / "pytorch_lora_weights.safetensors"
    whole = weights.read_bytes()
    for damage in (weights.unlink, lambda: flip(weights), lambda: weights.write_bytes(b"")):
        damage()
        said = []
        make_trainer(on_message=said.append, **options).train(resume=True)
        assert weights.read_bytes() == whole
        assert f"of iteration {best}, were not there" in said[-1]


def test_weights_that_no_checkpoint_has_are_missed_at_once(make_trainer, tmp_path):
    class Content(Colour):
        """Likes all images alike, so that the first validation stays the best."""

        def __call__(self, images, prompts):
            return super().__call__(images, prompts) * 0 + 0.5

    options = {"iterations": 3, "validation.every": 1, "checkpoint_every": 1, "denoising_weight": 0}
    assert make_trainer(Content(), **options).train().best.iteration == 1
    (tmp_path / "run" / "pytorch_lora_weights.safetensors").unlink()
    with pytest.raises(OutputError, match="of iteration 1, are lost"):
        make_trainer(Content(), **{**options, "iterations": 4}).train(resume=True)


def test_a_second_process_is_told_and_stops(make_trainer):
    trainer = make_trainer(**FOUR)
    found = []

    def second():
        try:
            trainer.train()
        except OutputError as error:
            found.append(str(error))

    with only_writer(trainer.folder):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
    assert "is in use" in found[0]


def test_one_checkpoint_is_too_few(make_trainer):
    with pytest.raises(OptionError, match="keep_checkpoints"):
        make_trainer(keep_checkpoints=1)


def test_truncated_log_and_killed_writers_are_cleaned_up(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"iteration": 1}\n{"iteration": 2}\n{"iteration": 3}\n{"itera')
    checkpoints.truncate_log(path, 2)
    assert path.read_text() == '{"iteration": 1}\n{"iteration": 2}\n'


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"iteration": "2"}, "iteration"),
        ({"history": {}}, "history"),
        ({"warnings": "none"}, "warnings"),
        ({"loss_scale": ["1", 2]}, "loss_scale.0"),
        ({"run": {"config": []}}, "run.config"),
    ],
)
def test_a_checkpoint_with_a_wrong_value_is_passed_over(make_trainer, tmp_path, change, place):
    trainer = make_trainer(Noisy(), out=tmp_path / "run", iterations=2, checkpoint_every=1)
    trainer.train()
    last = checkpoints.listed(tmp_path / "run")[-1]
    state = json.loads((last / "state.json").read_text())
    (last / "state.json").write_text(json.dumps({**state, **change}))
    (last / "manifest.json").unlink()
    write_manifest(last)  # whoever changes a value can change a checksum
    told = []
    path, _ = checkpoints.newest(tmp_path / "run", told.append)
    assert path != last
    assert f"({place}" in told[0]
