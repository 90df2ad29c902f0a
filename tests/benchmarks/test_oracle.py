"""The oracle's agreement with labels made by looking: what is missing is said; saved labels give the saved table."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from tests.benchmarks.conftest import FOLDER
from tests.conftest import HANGS

SAVED = FOLDER / "results" / "oracle"


@pytest.fixture
def agree(quick, tmp_path):
    def run():
        command = [quick / "python", str(FOLDER / "oracle.py"), "agree", "--out", str(tmp_path / "out")]
        return subprocess.run(command, capture_output=True, text=True, timeout=HANGS)

    return run


def test_what_is_missing_is_said(agree, tmp_path):
    done = agree()
    assert done.returncode == 2
    assert "has no images.png and no prompts.json and no labels.json: begin with 'draw'." in " ".join(
        done.stderr.split()
    )
    assert not (tmp_path / "out").exists()
    (tmp_path / "out").mkdir()
    for name in ("images.png", "prompts.json"):
        shutil.copy(SAVED / name, tmp_path / "out")
    assert "has no labels.json: write it by looking at images.png." in " ".join(agree().stderr.split())


def test_saved_labels_give_the_saved_table(agree, tmp_path):
    shutil.copytree(SAVED, tmp_path / "out")
    (tmp_path / "out" / "summary.md").unlink()
    done = agree()
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "summary.md").read_text() == (SAVED / "summary.md").read_text()
