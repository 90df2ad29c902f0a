"""The reward-hacking curve says what the run's files say, and the benchmark runs."""

from __future__ import annotations

import json
import subprocess
from dataclasses import asdict
from pathlib import Path
from xml.etree import ElementTree

import pytest

from realignkit.types import Validation
from tests.conftest import HANGS

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "hacking.py"
NOISE = (-0.05, 0.05, -0.02, 0.02)
# Rises all the way; what the judge thinks rises to iteration 20, then falls.
REWARDS = (0.1, 0.2, 0.3, 0.5, 0.7, 0.8, 0.9)
JUDGED = (0.5, 0.6, 0.7, 0.55, 0.3, 0.2, 0.1)
HELD_OUT = dict(zip(range(0, 70, 10), zip(REWARDS, JUDGED, strict=True), strict=True))
NAMESPACE = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def run(quick):
    def run(*arguments):
        command = [quick / "python", SCRIPT, *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=HANGS)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    return run


@pytest.fixture
def folder(tmp_path):
    """A finished run, as the trainer leaves it."""
    where = tmp_path / "run"
    where.mkdir()
    history = [
        Validation(
            at, reward, judged, rewards=tuple(reward + n for n in NOISE), judgements=tuple(judged + n for n in NOISE)
        )
        for at, (reward, judged) in HELD_OUT.items()
    ]
    record = {"format": "realignkit.training", "version": 1, "identity": {"reward": "a<b", "judge": "people"}}
    (where / "training.json").write_text(json.dumps({**record, "history": [asdict(item) for item in history]}))
    rows = [json.dumps({"iteration": i, "reward": i / 60}) + "\n" for i in range(1, 61)]
    (where / "log.jsonl").write_text("".join(rows))
    return where


def test_the_picture_and_the_table_mark_what_the_trainer_would_have_done(run, folder, tmp_path):
    printed = run("--run", folder, "--svg", tmp_path / "curve.svg", "--table", tmp_path / "curve.md")
    rows = {int(row[0]): row[1:] for line in (tmp_path / "curve.md").read_text().splitlines()[2:]
            if (row := [cell.strip() for cell in line.strip("|").split("|")])}  # fmt: skip
    assert (tmp_path / "curve.md").read_text().strip() == printed.strip()
    assert list(rows) == list(HELD_OUT)
    assert rows[10][:3] == [f"{sum(range(1, 11)) / 600:.4f}", "0.2000", "0.6000"]
    marked = {at: row[3] for at, row in rows.items() if row[3]}
    assert marked == {20: "weights that were kept", 30: "first warning", 60: "patience of 4 ends the run"}

    root = ElementTree.parse(tmp_path / "curve.svg").getroot()
    groups = {group.get("id"): group for group in root.iter(f"{NAMESPACE}g")}
    marks = {
        name: float(groups[name].find(f"{NAMESPACE}path").get("d").split()[1]) for name in ("warned", "chosen", "ended")
    }
    held_out, judged = (
        [(float(dot.get("x")), float(dot.get("y"))) for dot in groups[name].iter(f"{NAMESPACE}use")]
        for name in ("held-out", "judged")
    )
    assert marks == {
        "warned": pytest.approx(held_out[3][0]), "chosen": pytest.approx(held_out[2][0]),
        "ended": pytest.approx(held_out[6][0]),
    }  # fmt: skip
    # Up is good in both panels, in proportion, and the judge's is the lower one.
    assert [y for _, y in held_out] == sorted((y for _, y in held_out), reverse=True)
    assert min(range(7), key=lambda i: judged[i][1]) == 2
    (_, a), (_, b), (_, c) = judged[2], judged[4], judged[6]
    assert (b - a) / (c - a) == pytest.approx((0.7 - 0.3) / (0.7 - 0.1), abs=0.01)
    assert min(y for _, y in judged) > max(y for _, y in held_out)
    assert any("a<b" in (text.text or "") for text in root.iter(f"{NAMESPACE}text"))  # escaped, and back


@pytest.mark.slow
def test_smoke(run, tmp_path):
    out = tmp_path / "smoke"
    printed = run("--smoke", "--folder", out, "--svg", tmp_path / "curve.svg", "--table", tmp_path / "curve.md")
    record = json.loads((out / "training.json").read_text())
    assert record["config"]["denoising_weight"] == 0
    assert [item["iteration"] for item in record["history"]] == [0, 1, 2]
    assert not (out / "prior").exists()
    assert printed.count("\n| ") >= 4
    assert ElementTree.parse(tmp_path / "curve.svg").getroot().tag == f"{NAMESPACE}svg"
