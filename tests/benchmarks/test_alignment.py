"""A small run of each measurement: the pipeline works, results resume, and the tables add up."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.conftest import HANGS

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "alignment.py"


@pytest.fixture
def measure(quick):
    def run(*arguments):
        command = [quick / "python", SCRIPT, *map(str, arguments), "--smoke"]
        return subprocess.run(command, capture_output=True, text=True, timeout=HANGS)

    return run


def test_compare_resumes_and_refuses_to_mix_settings(measure, tmp_path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a red car and a blue dog\na metallic sphere\nA green cup and a white bird\n")
    arguments = ("compare", "--ask", "tag", "--prompts", prompts, "--out", tmp_path / "out")
    first = measure(*arguments)
    assert first.returncode == 0, first.stderr
    kept = (tmp_path / "out" / "rows.jsonl").read_text().splitlines()
    rows = [json.loads(row) for row in kept]
    assert [(row["row"], row["index"]) for row in rows] == [("base", 1), ("base", 2), ("fine", 1), ("fine", 2)]
    assert len({row["prompt"] for row in rows}) == 2 and "car" not in rows[0]["prompt"]
    with (tmp_path / "out" / "rows.jsonl").open("a") as file:
        file.write('{"prompt": "cut')  # as if killed while writing
    more = measure(*arguments, "--seeds", "2")
    assert more.returncode == 0, more.stderr
    grown = (tmp_path / "out" / "rows.jsonl").read_text().splitlines()
    assert grown[:4] == kept
    assert len(grown) == 8
    summary = (tmp_path / "out" / "summary.md").read_text()
    assert "| all | 4 |" in summary
    assert "| seen pairs | 4 |" in summary
    other = measure(*arguments, "--set", "share=0.9")
    assert other.returncode != 0
    assert "measured otherwise: modulation.share" in other.stderr
    plain = measure("compare", "--out", tmp_path / "plain")
    assert plain.returncode == 2
    assert "realignkit ablate stages" in plain.stderr


@pytest.mark.parametrize(("ask", "name"), [("noun", "ByNoun"), ("tag", "ByTag")])
def test_what_the_segmenter_is_asked_for_goes_on_record(measure, tmp_path, ask, name):
    done = measure("compare", "--ask", ask, "--out", tmp_path / ask)
    assert done.returncode == 0, done.stderr
    settings = json.loads((tmp_path / ask / "ablation.json").read_text())["settings"]
    assert settings["plugins"]["segmenter"] == name


def test_steps_and_ground_truth_layouts(measure, tmp_path):
    steps = measure("steps", "--out", tmp_path / "steps")
    assert steps.returncode == 0, steps.stderr
    assert "segmenter" in steps.stdout
    ceiling = measure("compare", "--masks", "world", "--out", tmp_path / "world")
    assert ceiling.returncode == 0, ceiling.stderr
    assert "three objects" in ceiling.stdout


def test_settings_are_compared_on_the_same_pictures(measure, tmp_path):
    names = ("as printed", "clamped")
    done = measure("sweep", "--which", "clamp", *(f"--only={name}" for name in names), "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert all({"base", *names} <= row.keys() for row in rows)
    assert "| clamped, against as printed |" in (tmp_path / "summary.md").read_text()
