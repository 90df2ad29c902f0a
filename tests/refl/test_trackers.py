"""W&B, offline where it is installed; and what is said where a tracker is not. TensorBoard: test_trainer.py."""

from __future__ import annotations

import importlib.util
import json

import pytest

from realignkit.errors import OptionError

QUICK = {"tracker": "wandb", "denoising_weight": 0, "iterations": 2, "validation.every": 1}
INSTALLED = importlib.util.find_spec("wandb") is not None


@pytest.mark.skipif(INSTALLED, reason="W&B is installed")
def test_what_to_install_is_said(make_trainer):
    with pytest.raises(OptionError, match=r"pip install 'realignkit\[wandb\]'"):
        make_trainer(**QUICK)


@pytest.mark.skipif(not INSTALLED, reason="needs the extra 'wandb'")
def test_wandb_offline_has_what_the_log_has(make_trainer, monkeypatch):
    import wandb

    monkeypatch.setenv("WANDB_MODE", "offline")
    seen = []
    trainer = make_trainer(**QUICK, on_step=lambda _: seen.append(dict(wandb.run.summary)))
    trainer.train()
    assert list((trainer.folder / "wandb").glob("offline-run-*/*.wandb"))
    first, _ = [json.loads(line) for line in (trainer.folder / "log.jsonl").read_text().splitlines()]
    found = seen[1]  # W&B has a step when the next one begins
    assert found["loss"] == pytest.approx(first["loss"])
    assert found["held-out/reward"] == pytest.approx(trainer.history[1].reward)
    assert found["held-out"]["_type"].startswith("images")


def test_a_tracker_that_refuses_is_an_error_in_words(make_trainer):
    pytest.importorskip("tensorboard")
    trainer = make_trainer(**{**QUICK, "tracker": "tensorboard"})
    trainer.folder.mkdir()
    (trainer.folder / "logs").write_text("in the way")
    with pytest.raises(OptionError, match=r"tracker 'tensorboard' does not start.*tracker=tensorboard or none"):
        trainer.train()
