"""Somebody's work with the tiny plugins, and a page in a process of its own."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys

import pytest

from realignkit.ui.desk import Desk
from realignkit.ui.models import Models
from realignkit.ui.work import Work
from tests.conftest import HANGS, ROOT
from tests.study.conftest import chromium as chromium


@pytest.fixture
def models(make_realigner):
    return Models({"tiny": lambda: make_realigner(select_by="colour")})


@pytest.fixture
def work(models):
    return Work(models, Desk())


def finish(work):
    """Wait until what was begun is over; it must not have failed."""
    assert work.job._over.wait(HANGS)
    assert work.job.error == ""
    return work


@contextlib.contextmanager
def page_of(folder, *options):
    """``realignkit ui`` in a process of its own: its address."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "plugins")])
    command = [sys.executable, "-m", "realignkit.cli", "ui", str(folder), "--port", "0", *options]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    ) as process:
        try:
            yield process.stdout.readline().strip()
        finally:
            process.kill()
