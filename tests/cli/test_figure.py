from __future__ import annotations

import shutil
import sys

import pytest
from PIL import Image

PROMPTS = ("a red book and a yellow pen", "a red book")


@pytest.fixture
def runs(cli, tmp_path):
    """Two runs: the second lacks a prompt."""
    for name, prompts in (("base", PROMPTS), ("ours", PROMPTS[:1])):
        (tmp_path / f"{name}.txt").write_text("\n".join(prompts) + "\n")
        result = cli("run", "--model", "tiny", "--prompts", tmp_path / f"{name}.txt", "--out", tmp_path / name)
        assert result.exit_code == 0, result.output
    return tmp_path / "base", tmp_path / "ours"


def test_systems_by_prompts(cli, runs, tmp_path):
    base, ours = runs
    files = [tmp_path / f"figure.{kind}" for kind in ("png", "svg", "pdf")]
    arguments = [argument for file in files for argument in ("--out", file)]
    result = cli("figure", "compare", base, f"our $system$={ours}", "--coarse", *arguments)
    assert result.exit_code == 0, result.output
    assert all(file.is_file() and str(file) in result.output for file in files)
    assert "left out: 'a red book' (seed 42): no picture in 'our $system$'" in result.stderr
    text = files[1].read_text()
    for label in ("coarse", "base", "our $system$"):
        assert f">{label}</text>" in text


def test_steps_of_what_is_no_run(cli, tmp_path):
    result = cli("figure", "steps", tmp_path / "gone", "--out", tmp_path / "a.svg")
    assert result.exit_code == 2
    said = " ".join(result.output.split())
    assert said.endswith("gone' is not there. Give a folder that 'realignkit run' has written.")


def test_steps_of_a_run_and_of_one_realignment(cli, runs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = cli("figure", "steps", runs[0], "--rows", 1)
    assert result.exit_code == 0, result.output
    assert "left out: 1 more; --rows shows more" in result.stderr
    assert "written: steps.png" in result.output
    with Image.open(tmp_path / "steps.png") as image:
        assert image.width > image.height
    (folder,) = (path for path in runs[1].iterdir() if path.is_dir())
    assert cli("figure", "steps", folder, "--out", tmp_path / "one.svg").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{base}", "{base}"], "two columns would be called 'base': give LABEL=RUN"),
        (["{base}", "--out", "figure.jpg"], "'figure.jpg' says no format"),
        (["{base}", "--prompt", "a cup"], "no system has a picture of 'a cup'"),
        (["{base}", "nowhere"], "'nowhere' is not there"),
    ],
)
def test_errors_are_one_sentence(cli, runs, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    result = cli("figure", "compare", *(text.format(base=runs[0]) for text in arguments))
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())
    assert not (tmp_path / "compare.png").exists()


def test_without_matplotlib_it_is_said_what_to_install(cli, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for command in ("compare", "steps"):
        result = cli("figure", command, tmp_path)
        assert result.exit_code == 2 and "pip install 'realignkit[plots]'" in " ".join(result.stderr.split())


def test_an_unfinished_run_is_refused(cli, runs, tmp_path):
    (folder, *_) = (path for path in runs[0].iterdir() if path.is_dir())
    (folder / "realignment.json").unlink()
    result = cli("figure", "compare", runs[0], "--out", tmp_path / "figure.png")
    assert result.exit_code == 2 and "is not finished" in " ".join(result.stderr.split())
    shutil.rmtree(folder)
    assert cli("figure", "compare", runs[0], "--out", tmp_path / "figure.png").exit_code == 0
