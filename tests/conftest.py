"""What many tests need: a registry with the tiny plugins, and a realigner made from it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import commands

# Before any library reads it: one thread per test process is fastest for models this small.
os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).resolve().parents[1]

HANGS = 3600
"""Seconds after which a process that a test started is given up: no machine is that slow, however loaded."""


@pytest.fixture(scope="session")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with ``python`` and ``realignkit``, which start at once; see :mod:`tests.commands`."""
    folder = tmp_path_factory.mktemp("quick")
    commands.install(folder)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    # As the command line sets them before it imports what reads them.
    environment |= {"OMP_NUM_THREADS": "1", "TRANSFORMERS_VERBOSITY": "error", "DIFFUSERS_VERBOSITY": "error"}
    command = [sys.executable, commands.__file__, "serve", str(folder)]
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdin and server.stdout
        assert server.stdout.readline() == "ready\n"
        yield folder
        server.stdin.close()


@pytest.fixture
def registry() -> Any:
    """A registry of its own with nothing but the tiny plugins."""
    from realignkit.registry import Registry
    from tests import tiny

    registry = Registry(discover=False)
    registry.register(tiny, "tiny")
    return registry


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Install a distribution with one module and one entry point, the way pip lays it down."""
    monkeypatch.syspath_prepend(tmp_path)

    def install(name: str, code: str, value: str | None = None) -> None:
        (tmp_path / f"{name}.py").write_text(code)
        info = tmp_path / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[realignkit]\n{name}_entry = {value or name}\n")
        monkeypatch.delitem(sys.modules, name, raising=False)

    return install


@pytest.fixture
def make_realigner(registry: Any) -> Callable[..., Any]:
    """``Realigner.from_pretrained`` with the tiny plugins."""
    from realignkit.realigner import Realigner

    def make(model: str = "tiny", **arguments: Any) -> Realigner:
        return Realigner.from_pretrained(model, **{"registry": registry, **arguments})

    return make


@pytest.fixture
def realigner(make_realigner: Callable[..., Any]) -> Any:
    """The default tiny realigner."""
    return make_realigner()


@pytest.fixture
def cli() -> Iterator[Callable[..., Any]]:
    """Run ``realignkit …`` in this process, with the tiny plugins beside the installed ones."""
    from typer.testing import CliRunner

    from realignkit.cli import app
    from realignkit.registry import default_registry
    from tests import tiny

    default_registry().register(tiny, "tiny")
    try:
        yield lambda *arguments, given=None: CliRunner().invoke(app, [str(a) for a in arguments], input=given)
    finally:
        default_registry().unregister(tiny)


@pytest.fixture
def command(quick: Path) -> Callable[..., subprocess.Popen[str]]:
    """Start ``realignkit …`` in a child process that knows the tiny plugins too."""

    def start(*arguments: str, cwd: Path, **variables: str) -> subprocess.Popen[str]:
        environment = {**os.environ, **variables, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "plugins")])}
        return subprocess.Popen(
            [quick / "python", "-m", "tests.tiny", *arguments],
            cwd=cwd,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start
