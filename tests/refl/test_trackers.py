"""TensorBoard is tested in test_trainer.py; W&B here, offline where it is installed, and what is said where it is not."""

from __future__ import annotations

import importlib.util
import json

import pytest

from realignkit.errors import OptionError

QUICK = {"tracker": "wandb", "denoising_weight": 0, "iterations": 1, "validate_every": 1}
INSTALLED = importlib.util.find_spec("wandb") is not None


@pytest.mark.skipif(INSTALLED, reason="W&B is installed")
def test_what_to_install_is_said(make_trainer):
    with pytest.raises(OptionError, match=r"pip install 'realignkit\[wandb\]'"):
        make_trainer(**QUICK)


@pytest.mark.skipif(not INSTALLED, reason="needs the extra 'wandb'")
def test_wandb_offline_has_what_the_log_has(make_trainer, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    trainer = make_trainer(**QUICK)
    trainer.train()
    (run,) = (trainer.folder / "wandb").glob("offline-run-*")
    (row,) = [json.loads(line) for line in (trainer.folder / "log.jsonl").read_text().splitlines()]
    from wandb.proto.wandb_internal_pb2 import Record
    from wandb.sdk.internal.datastore import DataStore

    store, found = DataStore(), {}
    store.open_for_scan(str(next(run.glob("*.wandb"))))
    while (data := store.scan_data()) is not None:
        record = Record.FromString(data)
        for item in record.history.item:
            found["/".join(item.nested_key) or item.key] = json.loads(item.value_json)
    assert found["loss"] == pytest.approx(row["loss"])
    assert found["held-out/reward"] == pytest.approx(trainer.history[-1].reward)
    assert found["held-out"]["_type"].startswith("images")


@pytest.mark.skipif(not INSTALLED, reason="needs the extra 'wandb'")
def test_a_tracker_that_refuses_is_an_error_in_words(make_trainer, monkeypatch, tmp_path):
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))  # nobody is logged in there
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    with pytest.raises(OptionError, match="WANDB_MODE=offline"):
        make_trainer(**QUICK).train()
