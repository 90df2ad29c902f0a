"""Python environments of plugins' own, in the user's data folder: made, listed, taken away."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from realignkit.errors import OptionError, OutputError
from realignkit.files import atomic_write, make_folder

FOLDER_VARIABLE = "REALIGNKIT_ENVIRONMENTS"
_RECORD = "environment.json"


@dataclass(frozen=True)
class Environment:
    """One that is whole: its record is written last.

    Attributes:
        name: as it is asked for.
        folder: where it is.
        requires: what was installed into it, as pip takes it.
    """

    name: str
    folder: Path
    requires: tuple[str, ...]

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def environments_folder() -> Path:
    """Where they are: :data:`FOLDER_VARIABLE`, else in the user's data folder."""
    if given := os.environ.get(FOLDER_VARIABLE):
        return Path(given).expanduser()
    data = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(data) / "realignkit" / "environments"


def find(name: str) -> Environment | None:
    """The environment of this name; None where there is none, or half of one."""
    folder = environments_folder() / _checked(name)
    try:
        record = json.loads((folder / _RECORD).read_text(encoding="utf-8"))
        environment = Environment(name, folder, tuple(map(str, record["requires"])))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return environment if environment.python.exists() else None


def all_environments() -> list[Environment]:
    """Those that are whole, by name."""
    folder = environments_folder()
    names = sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    return [environment for environment in map(find, names) if environment is not None]


def create(name: str, requires: Sequence[str], python: str | None = None) -> Environment:
    """Make one and install into it: with uv where it is there, else with venv and pip. Takes minutes.

    Args:
        name: letters, digits and hyphens.
        requires: what to install, as pip takes it.
        python: its interpreter, a path or a version ("3.8"); None: the one that runs this.

    Raises:
        OptionError: there is one of this name already, or the name will not do.
        OutputError: it could not be made; what pip says is in the message, and nothing of it stays.
    """
    folder = environments_folder() / _checked(name)
    if find(name) is not None:
        raise OptionError(
            f"there is an environment '{name}' already, in {folder}. Remove it first: realignkit env remove {name}."
        )
    shutil.rmtree(folder, ignore_errors=True)  # half of one
    make_folder(folder.parent)
    interpreter, uv = python or sys.executable, shutil.which("uv")
    if not uv and re.fullmatch(r"3\.\d+", interpreter):
        interpreter = f"python{interpreter}"
    target = Environment(name, folder, tuple(requires))
    if uv:
        steps = [[uv, "venv", "--python", interpreter, str(folder)]]
        steps += [[uv, "pip", "install", "--python", str(target.python), *requires]] if requires else []
    else:
        steps = [[interpreter, "-m", "venv", str(folder)]]
        pip = [str(target.python), "-m", "pip", "install", "--disable-pip-version-check"]
        steps += [[*pip, *requires]] if requires else []
    try:
        for step in steps:
            _run(step)
        return record(target)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def record(environment: Environment) -> Environment:
    """Say that an environment is whole."""
    text = json.dumps({"name": environment.name, "requires": environment.requires}, indent=2)
    atomic_write(environment.folder / _RECORD, text + "\n")
    return environment


def remove(name: str) -> None:
    """Take an environment away, or half of one.

    Raises:
        OptionError: there is none.
    """
    folder = environments_folder() / _checked(name)
    if not folder.is_dir():
        raise OptionError(f"there is no environment '{name}'. 'realignkit env list' lists what there is.")
    shutil.rmtree(folder)


def remedy(name: str, requires: Sequence[str], python: str = "") -> str:
    """The command that makes an environment."""
    of_python = [f"--python {python}"] if python else []
    return " ".join(["realignkit env create", name, *of_python, *(f"--requires '{each}'" for each in requires)])


def _checked(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9-]*", name):
        raise OptionError(f"'{name}' will not do as the name of an environment: take letters, digits and hyphens.")
    return name


def _run(command: Sequence[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except OSError as error:
        raise OutputError(f"'{command[0]}' cannot be run: {error}. Give another --python.") from None
    if done.returncode:
        said = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        errors = [line for line in said if line.lower().startswith("error")] or said[-1:]
        raise OutputError(f"'{' '.join(command[1:4])} …' failed: {' '.join(errors)}. Nothing of the environment stays.")
