"""A server of a study in a process of its own."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys

from tests.conftest import ROOT


@contextlib.contextmanager
def served(folder, *options):
    """A server of its own: the process, and the page's address."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "plugins")])
    command = [sys.executable, "-m", "realignkit.cli", "study", "serve", str(folder), "--port", "0", *options]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path}
    ) as process:
        try:
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()
