"""``realignkit ablate rewards``, ``stages``, ``join`` and ``pair`` on the embedded model, with trained adapters."""

from __future__ import annotations

import json
import lzma
import re
import shutil

import pytest
from typer.testing import CliRunner

from realignkit.cli import app
from realignkit.registry import default_registry
from tests import tiny

PROMPTS = "a red book and a yellow pen\na metallic sphere\na yellow cup\n"
PLACES = {"control": "control", "colour": ""}
FAST = ("--set", "sampling.num_inference_steps=2")
TRAINING = {
    "iterations": 1,
    "batch_size": 1,
    "refl.num_inference_steps": 3,
    "refl.gradient_steps": [1, 2],
    "prior_images": 1,
    "lora.rank": 2,
    "learning_rate": 0.05,
    "warmup_iterations": 0,
    "validation.every": 0,
    "tracker": "none",
}


def call(*arguments):
    default_registry().register(tiny, "tiny")
    try:
        return CliRunner().invoke(app, [str(argument) for argument in arguments])
    finally:
        default_registry().unregister(tiny)


def rows(folder):
    return [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]


def table(folder):
    return {row["name"]: row for row in json.loads((folder / "table.json").read_text())}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Two training seeds of a control and of one reward, trained and measured."""
    root = tmp_path_factory.mktemp("ablation")
    (root / "prompts.txt").write_text(PROMPTS)
    (root / "training.txt").write_text("a red book\na yellow pen\n")
    options = [f"--set=training.{name}={json.dumps(value)}" for name, value in TRAINING.items()]
    given = []
    for number in (1, 2):
        folder = root / "runs" / str(number)
        arguments = ["train", "--reward", "colour", "--control", "--prompts", root / "training.txt", "--out", folder]
        result = call(*arguments, *options, f"--set=training.seed={41 + number}")
        assert result.exit_code == 0, result.output + result.stderr
        given += [f"--row=control={folder / 'control'}", f"--row=colour={folder}"]
    arguments = ["ablate", "rewards", *given, "--prompts", root / "prompts.txt", "--out", root / "out", *FAST]
    arguments += ["--score", "colour", "--score", "darkness"]
    result = call(*arguments)
    assert result.exit_code == 0, result.output + result.stderr
    return root, arguments, result


def test_trained_and_measured(trained):
    root, _, result = trained
    assert "1 prompts are left out" in " ".join(result.stderr.split())
    found = rows(root / "out")
    assert {(row["row"], row["run"], row["seed"]) for row in found} == {
        *(("base", 0, seed) for seed in (0, 1)),
        *((name, seed, seed) for name in ("control", "colour") for seed in (0, 1)),
    }
    assert len(found) == 2 * 2 * 3
    values = {(row["row"], row["index"], row["seed"]): row["scores"]["darkness"] for row in found}
    assert values["base", 1, 0] != values["colour", 1, 0] != values["control", 1, 0]
    record = json.loads((root / "out" / "ablation.json").read_text())
    assert [model["seed"] for model in record["rows"]["colour"]] == [42, 43]
    assert [model["reward_weight"] for model in record["rows"]["control"]] == [0.0, 0.0]
    measured = table(root / "out")
    assert measured["colour"]["scores"]["colour"]["raised"]
    assert not measured["control"]["scores"]["colour"]["raised"]
    assert measured["colour"]["frechet"] > 0
    assert measured["colour"]["control"]["n"] == 4
    for name in ("table.md", "table.csv", "rows.jsonl", "ablation.json"):
        text = (root / "out" / name).read_text()
        assert "red book" not in text
        assert str(root) not in text


def test_the_same_again_draws_nothing(trained):
    root, arguments, _ = trained
    before = (root / "out" / "rows.jsonl").read_text()
    result = call(*arguments)
    assert result.exit_code == 0, result.output + result.stderr
    assert (root / "out" / "rows.jsonl").read_text() == before


def test_archived_rows_are_read_and_gone_on_with(trained, tmp_path):
    root, arguments, _ = trained
    shutil.copytree(root / "out", tmp_path / "out")
    before = (tmp_path / "out" / "rows.jsonl").read_bytes()
    (tmp_path / "out" / "rows.jsonl.xz").write_bytes(lzma.compress(before))
    (tmp_path / "out" / "rows.jsonl").unlink()
    paired = call("ablate", "pair", tmp_path / "out" / "rows.jsonl.xz", "control", "colour")
    assert (paired.exit_code, paired.output) == (0, call("ablate", "pair", root / "out", "control", "colour").output)
    assert not (tmp_path / "out" / "rows.jsonl").exists()
    result = call(*arguments, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output + result.stderr
    assert (tmp_path / "out" / "rows.jsonl").read_bytes() == before
    assert not (tmp_path / "out" / "rows.jsonl.xz").exists()


def test_rows_from_folders_split_over_processes_and_joined(trained, tmp_path):
    root, _, _ = trained
    given = [f"--row={name}={root / 'runs' / str(n) / below}" for name, below in PLACES.items() for n in (1, 2)]
    arguments = ["ablate", "rewards", *given, "--prompts", root / "prompts.txt", *FAST]
    arguments += ["--score", "colour", "--score", "darkness", "--batch-size", "3"]
    for seed in (0, 1):
        result = call(*arguments, "--seed", seed, "--out", tmp_path / str(seed))
        assert result.exit_code == 0, result.output + result.stderr
        assert f"no seed is dealt to control {2 - seed}" in " ".join(result.stderr.split())
    result = call("ablate", "join", tmp_path / "0", tmp_path / "1", "--out", tmp_path / "joined")
    assert result.exit_code == 0, result.output + result.stderr
    joined, whole = table(tmp_path / "joined"), table(root / "out")
    for name, row in whole.items():
        for field in ("n", "value", "base", "control"):
            assert joined[name][field] == row[field], (name, field)
        assert joined[name]["frechet"] == pytest.approx(row["frechet"], rel=1e-2)
    result = call("ablate", "pair", tmp_path / "joined" / "rows.jsonl", "control", "colour")
    assert result.exit_code == 0, result.output + result.stderr
    fixed, broken = (whole["colour"]["control"][name] for name in ("fixed", "broken"))
    assert re.search(rf"^4 .* {fixed} / {broken} ", result.output, re.MULTILINE)
    assert call("ablate", "pair", tmp_path / "joined", "control", "colours").exit_code == 2


def test_stages(trained, tmp_path):
    root, _, _ = trained
    arguments = ["ablate", "stages", "--prompts", root / "prompts.txt", "--limit", "1", *FAST, "--out", tmp_path / "s"]
    lora = ["--lora", root / "runs" / "1"]
    result = call(*arguments, *lora, "--candidates", "2", "--select-by", "darkness", "--keep-images")
    assert result.exit_code == 0, result.output + result.stderr
    assert list(table(tmp_path / "s")) == [
        *("base", "fine", "base, best of 2"),
        *("coarse", "both", "coarse, best of 2", "both, best of 2"),
    ]
    assert len(list((tmp_path / "s" / "images").glob("*/0001-s0.png"))) == 7
    # The base and the coarse stage are what 'ablate rewards' draws from the same noise.
    alike = {(row["row"], row["index"], row["seed"]): row for row in rows(root / "out")}
    here = {row["row"]: row for row in rows(tmp_path / "s")}
    assert here["base"]["values"] == alike["base", 1, 0]["values"]
    assert here["coarse"]["values"] == alike["colour", 1, 0]["values"]
    result = call(*arguments, *lora, "--set", "modulation.share=0.9")
    assert result.exit_code == 2
    assert "modulation.share" in result.stderr


def test_guided_stages(trained, tmp_path):
    root, _, _ = trained
    arguments = ["ablate", "stages", "--prompts", root / "prompts.txt", "--limit", "1", *FAST, "--out", tmp_path / "s"]
    result = call(*arguments, "--guide-by", "colour", "--set", "guide_strength=0.5")
    assert result.exit_code == 0, result.output + result.stderr
    assert list(table(tmp_path / "s")) == ["base", "fine", "base, guided", "fine, guided"]
    result = call(*arguments[:-1], tmp_path / "refused", "--guide-by", "darkness")
    assert result.exit_code == 2
    assert "has no gradient" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rewards", "--row", "clip"], "--row takes NAME=FOLDER"),
        (["rewards", "--row", "base=x"], "'base' is taken"),
        (["rewards", "--row", "clip=nowhere"], "nowhere holds no trained weights (no such folder)"),
        (["rewards", "--train", "clip", "--training-seeds", "2"], "train each model with 'realignkit train'"),
        (["rewards", "--metric", "micro_oracl"], "Did you mean 'micro_oracle'"),
        (["rewards", "--score", "darknes"], "Did you mean 'darkness'"),
        (["rewards", "--set", "sampling.steps=3"], "sampling.num_inference_steps"),
        (["rewards", "--model", "tiny"], "give --metric"),
        (["rewards", "--prompts", "nope"], "no prompts is called 'nope'"),
        (["stages", "--lora", "."], "no .safetensors file"),
        (["stages", "--candidates", "2"], "--select-by REWARD go together"),
        (["join", ".", "--out", "x"], "holds no ablation"),
        (["pair", ".", "a", "b"], "no row 'a'"),
    ],
)
def test_mistakes_are_one_message(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = call("ablate", *arguments)
    assert result.exit_code == 2
    text = " ".join(result.stderr.replace("│", " ").split())
    assert message in text
    assert "Traceback" not in text
    assert not list(tmp_path.iterdir())
