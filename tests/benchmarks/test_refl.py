"""The benchmark of the ReFL loop runs, and counts what it says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import HANGS

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "refl.py"


@pytest.mark.slow
def test_smoke(tmp_path):
    out = tmp_path / "refl.json"
    command = [sys.executable, SCRIPT, "--smoke", "--device", "cpu", "--batch", "1", "--out", out]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=HANGS, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(out.read_text())
    assert [row["loop"] for row in found["rows"]] == ["published", "trainer", "trainer, faster solver"]
    assert all(row["rate"] > 0 and row["peak_bytes"] > 0 and len(row["rates"]) == 1 for row in found["rows"])
    assert done.stdout.count("|") > 12
