"""The benchmark of the ReFL loop runs, and counts what it says."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.conftest import HANGS

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "refl.py"


@pytest.mark.slow
def test_smoke(quick, tmp_path):
    out = tmp_path / "refl.json"
    command = [quick / "python", SCRIPT, "--smoke", "--device", "cpu", "--batch", "1", "--out", out]
    done = subprocess.run(command, capture_output=True, text=True, timeout=HANGS)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(out.read_text())
    assert [row["loop"] for row in found["rows"]] == ["published", "trainer", "trainer, faster solver"]
    assert all(row["rate"] > 0 and row["peak_bytes"] > 0 and len(row["rates"]) == 1 for row in found["rows"])
    assert done.stdout.count("|") > 12
