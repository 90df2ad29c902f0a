"""Environments are made whole or not at all, listed, and taken away."""

from __future__ import annotations

import subprocess
import zipfile

import pytest

from realignkit.errors import OptionError, OutputError
from realignkit.isolation import environments
from tests.conftest import HANGS


def wheel(folder):
    """A package to install, without a network."""
    path = folder / "faraway-1.0-py3-none-any.whl"
    info = "faraway-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("faraway.py", "there = True\n")
        file.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: faraway\nVersion: 1.0\n")
        file.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(f"{info}/RECORD", f"faraway.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")
    return str(path)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv(environments.FOLDER_VARIABLE, str(tmp_path / "environments"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    return tmp_path / "environments"


@pytest.mark.slow
@pytest.mark.parametrize("tool", ["pip", "any"])
def test_made_with_what_it_is_to_hold(folder, tmp_path, monkeypatch, cli, tool):
    if tool == "pip":
        monkeypatch.setattr(environments.shutil, "which", lambda name: None)
    package = wheel(tmp_path)
    done = cli("env", "create", "far-away", "--requires", package)
    assert done.exit_code == 0, done.output
    environment = environments.find("far-away")
    assert environment.requires == (package,)
    command = [environment.python, "-c", "import faraway; print(faraway.there)"]
    assert subprocess.run(command, capture_output=True, text=True, timeout=HANGS).stdout == "True\n"
    assert "far-away" in cli("env", "list").stdout
    again = cli("env", "create", "far-away")
    assert "there is an environment 'far-away' already" in " ".join(again.stderr.split())
    assert cli("env", "remove", "far-away").exit_code == 0
    assert list(folder.iterdir()) == []


def test_half_of_one_is_none(folder):
    (folder / "half" / "bin").mkdir(parents=True)
    assert environments.find("half") is None
    assert environments.all_environments() == []


def test_nothing_stays_of_what_could_not_be_made(folder, monkeypatch):
    monkeypatch.setattr(environments.shutil, "which", lambda name: None)
    with pytest.raises(OutputError, match="'/nowhere/python' cannot be run: "):
        environments.create("x", [], "/nowhere/python")
    assert not (folder / "x").exists()


def test_a_version_of_python_is_found_by_name(folder, monkeypatch):
    monkeypatch.setattr(environments.shutil, "which", lambda name: None)
    with pytest.raises(OutputError, match=r"'python3\.99' cannot be run: "):
        environments.create("x", [], "3.99")


@pytest.mark.parametrize("name", ["", "../x", "a b", "-x", "x_y"])
def test_names(folder, name):
    with pytest.raises(OptionError, match="will not do as the name of an environment"):
        environments.create(name, [])


def test_what_there_is_not_cannot_be_removed(folder, cli):
    assert "there is no environment 'x'" in cli("env", "remove", "x").stderr
    assert "no environments in" in cli("env", "list").stdout
