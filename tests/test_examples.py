"""The examples run as a user would run them: installed with pip, started in processes of their own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from realignkit import Likelihood, OptionError, Realignment, Registry, Tag
from tests.conftest import HANGS

EXAMPLES = Path(__file__).parent.parent / "examples"
PLUGIN = EXAMPLES / "realignkit-keyword-scorer"


def run(*arguments, cwd, path=(), python=sys.executable):
    """Run Python; the output if it succeeds."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path)), "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [python, *map(str, arguments)], cwd=cwd, env=environment, capture_output=True, text=True, timeout=HANGS
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder that pip has installed the example plugin into."""
    folder = tmp_path_factory.mktemp("example")
    source = shutil.copytree(PLUGIN, folder / "source")  # building leaves files behind
    options = ("--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--disable-pip-version-check")
    run("-m", "pip", "install", *options, "--target", folder / "site", source, cwd=folder)
    return folder / "site"


def test_the_plugin_is_as_short_as_promised():
    assert len((PLUGIN / "realignkit_keyword_scorer.py").read_text().splitlines()) <= 30


def test_the_installed_plugin_is_listed(installed, tmp_path):
    listed = json.loads(run("-m", "realignkit.cli", "plugins", "--json", cwd=tmp_path, path=[installed]))
    infos = listed["plugins"] if isinstance(listed, dict) else listed
    (keyword,) = [info for info in infos if info["kind"] == "scorer" and info["name"] == "keyword"]
    assert keyword["available"] is True


def test_the_realigner_runs_with_the_installed_plugin(installed, quick, tmp_path):
    command = ("-m", "realignkit.cli", "run", "a red book and a yellow pen", "--scorer", "keyword", "--out", "out")
    more = ("--set", "sampling.num_inference_steps=10")
    run(*command, *more, cwd=tmp_path, path=[installed], python=quick / "python")
    result = Realignment.load(tmp_path / "out")
    assert result.plugins["scorer"] == "keyword"
    parts = {"book": "a red book", "pen": "a yellow pen"}
    assert [(c.caption, c.likelihood) for c in result.captions if c.tag in parts] == [
        (parts[tag.name], Likelihood.CERTAIN) for tag in result.tags if tag.name in parts
    ]


def test_what_the_plugin_answers(installed):
    registry = Registry(discover=False)
    sys.path.insert(0, str(installed))
    try:
        import realignkit_keyword_scorer

        registry.register(realignkit_keyword_scorer, "example")
        scorer = registry.create("scorer", "keyword", scenery=["wall"])
    finally:
        sys.path.remove(str(installed))
    tags = [Tag(name) for name in ("apple", "cat", "wall", "cup")]
    answers = scorer("Two red Apples, a cat", tags)
    assert [(a.tag, a.caption, a.likelihood.value) for a in answers] == [
        ("apple", "Two red Apples", "certain"),
        ("cat", "a cat", "certain"),
        ("wall", "wall", "possible"),
        ("cup", "cup", "unlikely"),
    ]
    with pytest.raises(OptionError, match="scenery"):
        registry.create("scorer", "keyword", colour="red")


def test_the_realign_script(quick, tmp_path):
    output = run(EXAMPLES / "realign.py", "a red book and a yellow pen", "here", cwd=tmp_path, python=quick / "python")
    assert (tmp_path / "here" / "report.html").is_file()
    assert Realignment.load(tmp_path / "here").prompt == "a red book and a yellow pen"
    assert "report.html" in output


def test_the_single_steps_script(quick, tmp_path):
    run(EXAMPLES / "single_steps.py", "here", cwd=tmp_path, python=quick / "python")
    sizes = {path.name: Image.open(path).size for path in (tmp_path / "here").iterdir()}
    assert sizes.keys() == {"coarse.png", "layout.png", "refined-certain.png", "refined-equal.png"}
    assert sizes["coarse.png"] == sizes["refined-certain.png"] == sizes["refined-equal.png"]


def test_the_training_script(quick, tmp_path):
    output = run(EXAMPLES / "train_with_a_reward.py", "here", 2, cwd=tmp_path, python=quick / "python")
    assert "finished after 2 iterations" in output
    record = json.loads((tmp_path / "here" / "training.json").read_text())
    assert record["identity"]["judge"] == "FullyRight"
    assert [item["iteration"] for item in record["history"]] == [0, 1, 2]
    rows = [json.loads(line) for line in (tmp_path / "here" / "log.jsonl").read_text().splitlines()]
    for row in rows:
        assert row["reward_weight"] * row["reward_gradient_norm"] == pytest.approx(10 * row["denoising_gradient_norm"])
    assert (tmp_path / "here" / "pytorch_lora_weights.safetensors").is_file()
