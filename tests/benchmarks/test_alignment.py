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
    first = measure("compare", "--prompts", prompts, "--out", tmp_path / "out")
    assert first.returncode == 0, first.stderr
    rows = [json.loads(line) for line in (tmp_path / "out" / "rows.jsonl").read_text().splitlines()]
    assert [row["group"] for row in rows] == ["seen pairs"] * 2
    assert len({row["prompt"] for row in rows}) == 2 and "car" not in rows[0]["prompt"]
    with (tmp_path / "out" / "rows.jsonl").open("a") as file:
        file.write('{"prompt": "cut')  # as if killed while writing
    more = measure("compare", "--prompts", prompts, "--out", tmp_path / "out", "--seeds", "2")
    assert more.returncode == 0, more.stderr
    grown = (tmp_path / "out" / "rows.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in grown[:2]] == rows
    assert len(grown) == 4
    assert "| all | 4 |" in (tmp_path / "out" / "summary.md").read_text()
    other = measure("compare", "--prompts", prompts, "--out", tmp_path / "out", "--set", "share=0.9")
    assert other.returncode != 0
    assert "other settings" in other.stderr


@pytest.mark.parametrize(("ask", "name"), [("noun", "ByNoun"), ("tag", "ByTag")])
def test_what_the_segmenter_is_asked_for_goes_on_record(measure, tmp_path, ask, name):
    done = measure("compare", "--ask", ask, "--out", tmp_path / ask)
    assert done.returncode == 0, done.stderr
    settings = json.loads((tmp_path / ask / "settings.json").read_text())["settings"]
    assert settings["plugins"]["segmenter"] == name


def test_steps_and_ground_truth_layouts(measure, tmp_path):
    steps = measure("steps", "--out", tmp_path / "steps")
    assert steps.returncode == 0, steps.stderr
    assert "segmenter" in steps.stdout
    ceiling = measure("compare", "--masks", "world", "--out", tmp_path / "world")
    assert ceiling.returncode == 0, ceiling.stderr
    assert "three objects" in ceiling.stdout
