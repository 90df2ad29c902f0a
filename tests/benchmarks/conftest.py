"""The benchmark scripts, as modules and as commands."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from tests.conftest import HANGS, ROOT

FOLDER = ROOT / "benchmarks"


@pytest.fixture(scope="session")
def script() -> Callable[[str], ModuleType]:
    """A script as a module, which finds those beside it."""

    def load(name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(f"{name}_benchmark", FOLDER / f"{name}.py")
        assert spec and spec.loader
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # where dataclasses look for the names in their annotations
        sys.path.insert(0, str(FOLDER))
        try:
            spec.loader.exec_module(module)
        finally:
            sys.path.remove(str(FOLDER))
        return module

    return load


@pytest.fixture
def smoke(quick: Path, tmp_path: Path) -> Callable[..., str]:
    """Runs a script with ``--smoke`` and gives what it printed; it must leave no file."""

    def run(name: str, *options: str) -> str:
        command = [quick / "python", str(FOLDER / f"{name}.py"), "--smoke", *options]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=HANGS)
        assert done.returncode == 0, done.stderr
        assert not list(tmp_path.iterdir())
        return done.stdout

    return run
