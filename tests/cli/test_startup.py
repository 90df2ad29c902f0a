"""What a command imports, and that it imports nothing that it does not use."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.conftest import HANGS

_COMMAND = """
import gc, json, sys
_, file, *arguments = sys.argv
usual = gc.get_threshold()
from realignkit.cli import main
sys.argv = ["realignkit", *arguments]
try:
    main()
except SystemExit as stop:
    facts = {"code": stop.code, "collects": gc.get_threshold() == usual, "set aside": gc.get_freeze_count()}
with open(file, "w") as record:
    json.dump({**facts, "modules": list(sys.modules)}, record)
"""


def after(tmp_path: Path, *arguments: str) -> dict[str, Any]:
    """What a process knows that has run a command: its modules' names, and how it looks for garbage."""
    file = tmp_path / "facts.json"
    command = [sys.executable, "-c", _COMMAND, str(file), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=HANGS)
    assert file.is_file(), done.stderr
    return {**json.loads(file.read_text()), "output": done.stdout}


def packages(modules: list[str]) -> set[str]:
    return {name.partition(".")[0] for name in modules}


@pytest.mark.parametrize("arguments", [("--help",), ("--version",), ()])
def test_help_imports_no_library_but_that_of_the_command_line(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    facts = after(tmp_path, *arguments)
    assert "realignkit" in facts["output"]
    heavy = {"PIL", "diffusers", "jinja2", "numpy", "pluggy", "pydantic", "torch", "transformers", "yaml"}
    assert not packages(facts["modules"]) & heavy


def test_importing_the_package_imports_nothing_else() -> None:
    code = "import sys; before = set(sys.modules); import realignkit; print(*(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=HANGS)
    assert packages(done.stdout.split()) - set(sys.stdlib_module_names) == {"realignkit"}


def test_run_imports_what_its_own_model_is_made_of(tmp_path: Path) -> None:
    facts = after(tmp_path, "run", "a green horse and a white clock", "--seed", "9", "--out", "made")
    assert facts["code"] == 0
    with Image.open(tmp_path / "made" / "refined.png") as refined:
        assert refined.size == (256, 256)  # where no model is named, a person is to look at it
    # scipy is not among them: diffusers' schedulers import it where it is installed.
    unused = {"inflect", "matplotlib", "openai", "pandas", "tensorboard", "torchvision", "typeguard", "wandb"}
    assert not packages(facts["modules"]) & unused
    assert "diffusers.models.controlnets" not in facts["modules"]
    pipelines = {name.split(".")[2] for name in facts["modules"] if name.startswith("diffusers.pipelines.")}
    assert {name for name in pipelines if not name.startswith("pipeline_")} == {"stable_diffusion"}
    assert facts["set aside"] > 100_000  # what is loaded, of which torch alone is more, is not looked through again
    assert facts["collects"]


def test_a_program_that_calls_commands_keeps_its_settings() -> None:
    """Only the command itself collects seldom: a test or a notebook that calls the app does not."""
    from typer.testing import CliRunner

    from realignkit.cli import app

    before = gc.get_threshold()
    CliRunner().invoke(app, ["plugins"])
    assert gc.get_threshold() == before
