"""The training commands of the docs train for hours, so they are not run; but every option in them must be one."""

from __future__ import annotations

import shlex

import pytest
import typer
from PIL import Image

from tests.conftest import ROOT
from tests.test_docs import blocks, commands

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FOUND = [
    command
    for page in PAGES
    for block in blocks(page)
    for command in commands(block)
    if command.startswith("realignkit train") or (command.startswith("accelerate launch") and " train " in command)
]


def parts(command):
    """The launcher's words, and those after ``train``."""
    words = shlex.split(command)
    at = words.index("train")
    return words[:at], words[at + 1 :]


def test_there_are_some():
    assert sum("--preset paper" in command for command in FOUND) >= 2


@pytest.mark.parametrize("command", FOUND)
def test_every_option_is_known_and_every_value_good(command, tmp_path, monkeypatch):
    from realignkit.cli import app
    from realignkit.cli.train import TrainingJob, _merge

    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts.txt").write_text("a red book\na yellow pen\n")
    (tmp_path / "held-out.txt").write_text("a blue cup\n")
    pairs = tmp_path / "runs" / "pairs"  # which another command of the page draws
    pairs.mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(pairs / "0.png")
    (pairs / "0.txt").write_text("a red book")
    launcher, words = parts(command)
    train = typer.main.get_command(app).commands["train"]
    given = train.make_context("train", words).params
    if given["config"] is not None:
        page = next(page for page in PAGES if command.split()[-1] in page.read_text())
        (yaml,) = [block.code for block in blocks(page) if block.language == "yaml"]
        given["config"].write_text(yaml)
    flags = {name: given[name] for name in ("reward", "prompts", "model", "judge", "validation_prompts", "preset")}
    wanted, settings = _merge({**flags, "out": given["folder"]}, given["config"])
    job = TrainingJob(wanted, [*settings, *(given["assignments"] or [])])
    processes = int(launcher[launcher.index("--num_processes") + 1]) if "--num_processes" in launcher else 1
    if wanted["preset"] == "paper":
        assert job.config.accumulation(processes) * processes * job.config.batch_size == 128
        assert job.config.refl.late_steps[1] == job.config.refl.num_inference_steps - 1
