"""An environment of its own in no time: an interpreter without pip, which sees the libraries of this one."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from realignkit.isolation import environments
from tests.conftest import HANGS


def make_environment(target, *requires):
    """An environment in this folder, called after it, that says that it holds these."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", target], check=True, timeout=HANGS)
    (site,) = target.glob("lib/python*/site-packages")
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    environments.record(environments.Environment(target.name, target, requires))


@pytest.fixture(scope="session")
def environments_folder(tmp_path_factory):
    """A folder with the environment ``far``."""
    folder = tmp_path_factory.mktemp("environments")
    make_environment(folder / "far", "some-package==1")
    return folder


@pytest.fixture(autouse=True)
def far(environments_folder, monkeypatch):
    """What is looked for is looked for there."""
    monkeypatch.setenv(environments.FOLDER_VARIABLE, str(environments_folder))
    monkeypatch.setenv("REALIGNKIT_PLUGIN_TIMEOUT", "3600")


@pytest.fixture
def program(tmp_path):
    """Write a program; its path."""

    def write(code: str) -> Path:
        path = tmp_path / "far_program.py"
        path.write_text(code)
        return path

    return write
