"""What full-size networks cost, measured on small ones: all ways run, and each has its own forward passes."""

from __future__ import annotations

import json
import sys

import torch

from tests.attention.flow_pipelines import flux_pipeline


def test_a_pictures_passes_are_timed_each_by_itself(script, tmp_path, monkeypatch, capsys):
    module, out = script("full_size"), tmp_path / "out.json"
    monkeypatch.setattr(module, "MODELS", {"flux": (flux_pipeline, 32, 8)})
    monkeypatch.setattr(
        sys, "argv", ["full_size", "--models", "flux", "--steps", "3", "--device", "cpu", "--out", str(out)]
    )
    module.main()
    (row,) = json.loads(out.read_text())["rows"]
    assert (row["side"], row["steps"]) == (32, 3)
    assert {way: len(times) for way, times in row["all_pass_ms"].items()} == dict.fromkeys(module.WAYS, 3)
    assert all(0 < sum(row["all_pass_ms"][way]) < 1e3 * row["seconds"][way] for way in module.WAYS)
    assert "| flux | 32 | 3 |" in capsys.readouterr().out


def test_a_clock_forgets_what_it_has_told(script):
    network = torch.nn.Linear(2, 2)
    clock = script("full_size").Clock(network, "cpu")
    for passes in (2, 1):
        for _ in range(passes):
            network(torch.zeros(1, 2))
        assert len(clock.read()) == passes
