"""Pictures drawn again along a gradient: the script runs from the command line."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.conftest import HANGS

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "redraw.py"


def test_smoke(tmp_path):
    command = [sys.executable, str(SCRIPT), "--smoke"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=HANGS)
    assert result.returncode == 0, result.stderr
    assert "caption, 2 pictures, 4 steps of DPM-Solver++, the first 1 moved by 0.75" in result.stdout
    assert re.search("guidance 7.5, (no|bf16)\\.", result.stdout)  # the faster one
    for name in ("the picture's", "purified", "noise"):
        assert f"| {name} | 2 |" in result.stdout
    assert not list(tmp_path.iterdir())
