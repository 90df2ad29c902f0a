"""The ascent on latents runs from the command line, and its pictures keep their pixels."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.conftest import HANGS

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "ascent.py"


def test_smoke(tmp_path):
    command = [sys.executable, str(SCRIPT), "--smoke"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=HANGS)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("\n| 0.") == 2
    assert "caption, 2 wrong pictures, 2 steps" in result.stdout
    assert not list(tmp_path.iterdir())
