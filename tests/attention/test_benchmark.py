"""The benchmark runs, and its ways agree."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_smoke(quick, tmp_path):
    out = tmp_path / "attention.json"
    command = [quick / "python", ROOT / "benchmarks" / "attention.py", "--smoke", "--device", "cpu", "--out", out]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.startswith("| layer |")
    rows = json.loads(out.read_text())["rows"]
    assert [row["shape"]["layer"] for row in rows] == ["tiny self", "tiny joint"]
    assert all(row["difference"] < 1e-5 and min(row["seconds"].values()) > 0 for row in rows)
