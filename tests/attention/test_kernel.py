"""The kernel for GPUs, run in Triton's interpreter where there is none."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton comes with torch for GPUs")
def test_equals_the_equations_in_the_interpreter():
    """In a process of its own: Triton decides when it is imported whether it interprets."""
    tests = Path(__file__).with_name("interpreted_kernel.py")
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", str(tests)]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tests.parents[2])
    assert done.returncode == 0, done.stdout[-3000:]
