"""``realignkit eval`` on the embedded model: pictures that exist and pictures that it draws, compared and joined."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from realignkit.cli import app
from realignkit.evaluation.plan import noise_seed
from realignkit.registry import default_registry
from tests import tiny

PROMPTS = ["a red book and a yellow pen", "a green bench and a brown dog", "a metallic sphere"]
FAST = ("--set", "sampling.num_inference_steps=2")


def call(*arguments):
    default_registry().register(tiny, "tiny")
    try:
        return CliRunner().invoke(app, [str(argument) for argument in arguments])
    finally:
        default_registry().unregister(tiny)


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "pictures.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Path:
    """Evaluations of the embedded model with and without the fine stage, in few steps."""
    root = tmp_path_factory.mktemp("eval")
    (root / "prompts.txt").write_text("\n".join(PROMPTS))
    for name, *options in (("base",), ("fine", "--fine")):
        command = ["eval", "--model", "micro", "--prompts", root / "prompts.txt", "--seed", 1, "--seed", 2, *FAST]
        done = call(*command, "--metric", "micro_oracle", "--metric", "clip", "--out", root / name, *options)
        assert done.exit_code == 0, done.output
    return root


def test_a_models_pictures_are_drawn_kept_and_scored(drawn: Path):
    assert len(lines(drawn / "base")) == 6
    # Each prompt has noise of its own, and the evaluation of another model has the same.
    assert [line["seed"] for line in lines(drawn / "base")] == [
        noise_seed(seed, index) for index in (1, 2, 3) for seed in (1, 2)
    ]
    assert [line["seed"] for line in lines(drawn / "fine")] == [line["seed"] for line in lines(drawn / "base")]
    assert set(lines(drawn / "base")[0]["values"]) == {"micro_oracle", "micro_clip"}  # what clip means with this model
    assert lines(drawn / "base")[4]["values"]["micro_oracle"] == {}  # no sphere in its world
    files = {path.name for path in (drawn / "base").iterdir()}
    assert files >= {
        "eval.json",
        "pictures.jsonl",
        "images",
        "metrics.md",
        "metrics.csv",
        "metrics.json",
        "report.html",
    }
    values = json.loads((drawn / "base" / "metrics.json").read_text())
    assert [value["name"] for value in values] == ["fully_right", "objects_right", "micro_clip"]
    page = (drawn / "base" / "report.html").read_text()
    assert "Best by micro_clip" in page
    assert "Worst by micro_clip" in page
    record = json.loads((drawn / "fine" / "eval.json").read_text())
    assert record["drawn"]["fine"] is True
    assert len(record["metrics"]["micro_oracle"]["weights"]) == 16


def test_the_same_command_again_measures_nothing_and_says_the_same(drawn: Path):
    before = (drawn / "base" / "pictures.jsonl").stat().st_mtime_ns
    done = call(
        "eval", "--model", "micro", "--prompts", drawn / "prompts.txt", "--seed", 1, "--seed", 2, *FAST,
        "--metric", "micro_oracle", "--out", drawn / "base",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "fully_right" in done.output
    assert "metric 'micro_oracle' knows nothing to say of 2 of 6 pictures" in done.output
    assert (drawn / "base" / "pictures.jsonl").stat().st_mtime_ns == before


def test_other_settings_are_refused_in_the_same_folder(drawn: Path):
    done = call(
        "eval", "--model", "micro", "--prompts", drawn / "prompts.txt", "--seed", 1, "--seed", 2,
        "--set", "sampling.num_inference_steps=3", "--metric", "micro_oracle", "--out", drawn / "base",
    )  # fmt: skip
    assert done.exit_code == 2
    assert "sampling.num_inference_steps (2 there, 3 now)" in " ".join(done.output.split())


def test_two_are_compared(drawn: Path):
    done = call("eval", "compare", drawn / "base", drawn / "fine")
    assert done.exit_code == 0, done.output
    assert "fixed / broken" in done.output
    assert {path.name for path in (drawn / "base-fine").iterdir()} == {
        *("comparison.md", "comparison.csv", "comparison.json", "report.html"),
    }
    changes = json.loads((drawn / "base-fine" / "comparison.json").read_text())["changes"]
    assert [(change["metric"], change["n"], change["prompts"]) for change in changes] == [
        ("micro_oracle", 4, 2),
        ("micro_oracle", 4, 2),
        ("micro_clip", 6, 3),
    ]


def test_pictures_that_exist_are_scored_with_the_groups_of_their_prompt_set(drawn: Path, tmp_path: Path):
    rows = [
        {"id": line["id"], "prompt": line["prompt"], "image_path": str(drawn / "base" / line["image"])}
        for line in lines(drawn / "base")
    ]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "two.txt").write_text("\n".join([PROMPTS[0], PROMPTS[1], "a third one"]))
    done = call(
        "eval", "--pictures", tmp_path / "mine.jsonl", "--metric", "micro_clip:2,micro_blip:1", "--prompts",
        tmp_path / "two.txt", "--set", "metric.batch_size=4", "--out", tmp_path / "out",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "1 of 3 prompts of" in done.output
    assert "1 prompts of the pictures are none of" in done.output
    assert set(lines(tmp_path / "out")[0]["values"]) == {"micro_clip:2,micro_blip:1"}
    assert [line["sha256"] for line in lines(tmp_path / "out")] == [line["sha256"] for line in lines(drawn / "base")]


def test_metrics_of_whole_sets_are_kept_compared_and_joined(drawn: Path, tmp_path: Path):
    reference = ("--set", "metric.features=micro_clip", "--set", f"metric.reference={drawn / 'fine' / 'images'}")
    for name in ("base", "fine"):
        done = call("eval", "--pictures", drawn / name, "--metric", "fid", *reference, "--out", tmp_path / name)
        assert done.exit_code == 0, done.output
    (value,) = json.loads((tmp_path / "base" / "metrics.json").read_text())
    assert (value["metric"], value["name"], value["n"], value["low"]) == ("fid", "fid", 6, None)
    assert value["value"] > 0
    assert "reference" in json.loads((tmp_path / "base" / "eval.json").read_text())["metrics"]["fid"]["identity"]
    done = call("eval", "compare", tmp_path / "base", tmp_path / "fine")
    assert done.exit_code == 0, done.output
    whole = json.loads((tmp_path / "base-fine" / "comparison.json").read_text())["whole"]
    assert whole["fid"]["fid"] == [value["value"], pytest.approx(0, abs=1e-9)]
    heading, cells = (line.split(",") for line in (tmp_path / "base-fine" / "comparison.csv").read_text().split())
    row = dict(zip(heading, cells, strict=True))
    assert (row["metric"], row["name"], row["n"], row["p"]) == ("fid", "fid", "", "")
    assert float(row["gain"]) == pytest.approx(-value["value"], abs=1e-9)


def test_evaluations_of_different_pictures_are_joined(drawn: Path, tmp_path: Path):
    parts = []
    for number, prompt in enumerate(PROMPTS[:2]):
        rows = [
            {"prompt": prompt, "seed": line["seed"], "image_path": str(drawn / "base" / line["image"])}
            for line in lines(drawn / "base")
            if line["prompt"] == prompt
        ]
        (tmp_path / f"{number}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        parts.append(tmp_path / f"part{number}")
        source = tmp_path / f"{number}.jsonl"
        assert call("eval", "--pictures", source, "--metric", "micro_clip", "--out", parts[-1]).exit_code == 0
    done = call("eval", "join", *parts, "--out", tmp_path / "both")
    assert done.exit_code == 0, done.output
    clip = [line["values"]["micro_clip"] for line in lines(drawn / "base")][:4]
    joined = [line["values"]["micro_clip"] for line in lines(tmp_path / "both")]
    assert joined == [pytest.approx(each, abs=1e-5) for each in clip]
    twice = call("eval", "join", parts[0], parts[0], "--out", tmp_path / "twice")
    assert "both have a picture of" in " ".join(twice.output.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Score pictures with metrics"),
        (["--metric", "clip"], "give either --pictures or --model"),
        (["--pictures", "x", "--model", "micro"], "give either --pictures or --model"),
        (["--model", "micro"], "--model needs --prompts"),
        (["--pictures", "x", "--fine"], "go with --model"),
        (["--model", "micro", "--prompts", "x", "--stage", "coarse"], "--stage goes with --pictures"),
        (["--pictures", "x"], "give --metric: what is the score? Known:"),
        (["--pictures", "x", "--metric", "none"], "no metric is called 'none'"),
        (["--pictures", "none", "--metric", "clip"], "'none' is not there"),
        (["--pictures", "x", "--metric", "clip", "--set", "metric.none=1"], "there is no option 'metric.none'"),
        (
            ["--pictures", "x", "--metric", "micro_clip", "--set", "metric.micro_blip.as_trained=true"],
            "'metric.micro_blip.as_trained' is for 'micro_blip', which is not asked for here, only micro_clip.",
        ),
        (
            ["--pictures", "x", "--metric", "micro_caption", "--set", "metric.micro_caption.estimator=soft"],
            """its options in 'metric.micro_caption.options', as {"estimator": …}.""",
        ),
    ],
)
def test_what_is_missing_or_wrong_is_said(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = call("eval", *arguments)
    assert message in " ".join(done.output.replace("│", " ").split())
    assert done.exit_code == 2 or not arguments


def test_a_runs_coarse_and_final_pictures_are_told_apart(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert call("run", PROMPTS[0], "--out", "mine/0001-a-s1", "--seed", 1, *FAST).exit_code == 0
    for stage in ("refined", "coarse"):
        done = call("eval", "--pictures", "mine", "--metric", "micro_clip", "--stage", stage)
        assert done.exit_code == 0, done.output
    (refined,), (coarse,) = lines(tmp_path / "evaluations" / "mine"), lines(tmp_path / "evaluations" / "mine-coarse")
    assert (Path(refined["image"]).name, Path(coarse["image"]).name) == ("refined.png", "coarse.png")
    done = call("eval", "--pictures", "mine", "--metric", "micro_clip", "--out", "evaluations/mine-coarse")
    assert '("mine, coarse" there, "mine" now)' in " ".join(done.output.split())


def test_pictures_of_several_sizes_are_judged_in_groups(tmp_path: Path):
    for number, size in enumerate([(64, 64), (32, 48), (64, 64)]):
        Image.new("RGB", size, "red").save(tmp_path / f"{number}.png")
        (tmp_path / f"{number}.txt").write_text("a red book")
    done = call("eval", "--pictures", tmp_path, "--metric", "micro_clip", "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    first, second, third = (line["values"]["micro_clip"]["micro_clip"] for line in lines(tmp_path / "out"))
    assert first == pytest.approx(third, abs=1e-6)
    assert first != second


def test_prompts_that_share_their_noise_are_told(drawn: Path, tmp_path: Path):
    rows = lines(drawn / "base")[:4]  # two prompts
    for seeds, told in (([7, 7], True), ([7, 8], False)):
        table = tmp_path / f"{seeds[1]}.jsonl"
        table.write_text(
            "".join(
                json.dumps({"prompt": r["prompt"], "seed": seed, "image_path": str(drawn / "base" / r["image"])}) + "\n"
                for r, seed in zip(rows[::2], seeds, strict=True)
            )
        )
        done = call("eval", "--pictures", table, "--metric", "micro_oracle", "--out", tmp_path / f"out{seeds[1]}")
        assert done.exit_code == 0, done.output
        assert ("2 prompts share 1 start noise" in done.output) == told
