"""``realignkit ablate methods`` on the embedded model."""

from __future__ import annotations

import json
import shlex
from importlib import import_module
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from realignkit.attention.dense import DENSE_DIFFUSION
from realignkit.cli import app
from realignkit.evaluation.methods import read_methods
from realignkit.study.answers import Answers
from realignkit.study.make import StudyOptions, make_study, named_systems
from tests.study.conftest import answer, dutiful

ROWS = """
rows:
  base: {model: micro}
  both: {model: micro, fine: true, set: {modulation.share: 0.5}}
  dense: {model: micro, fine: dense, note: Its layout is found.}
  structured:
    model: structure_diffusion
    set: {generator.model: micro:base}
"""
PROMPTS = "a red book and a yellow pen\na green bench and a brown dog\n"


def call(*arguments):
    return CliRunner().invoke(app, ["ablate", "methods", *map(str, arguments)])


@pytest.fixture(scope="module")
def measured(tmp_path_factory) -> tuple[Path, str]:
    root = tmp_path_factory.mktemp("methods")
    (root / "rows.yaml").write_text(ROWS)
    (root / "prompts.txt").write_text(PROMPTS)
    done = call(
        "--rows", root / "rows.yaml", "--prompts", root / "prompts.txt", "--out", root / "out",
        "--metric", "micro_oracle", "--metric", "clip", "--set", "sampling.num_inference_steps=2", "--seed", 3,
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    return root, done.output


def drawn(root: Path, row: str) -> dict:
    return json.loads((root / "out" / row / "eval.json").read_text())["drawn"]


def test_each_row_is_an_evaluation_with_settings_of_its_own(measured):
    root, _ = measured
    assert drawn(root, "base")["fine"] is False
    modulation = drawn(root, "dense")["realigner"]["modulation"] if "realigner" in drawn(root, "dense") else None
    found = json.dumps(drawn(root, "dense"))
    assert f'"isolate_phrases": {json.dumps(DENSE_DIFFUSION.isolate_phrases)}' in found, modulation
    assert '"overlap": "union"' in found
    assert '"share": 0.5' in json.dumps(drawn(root, "both"))
    assert all((root / "out" / row / "report.html").is_file() for row in ("base", "both", "dense", "structured"))


def test_the_table_has_every_row_and_pairs_every_one_with_every_other(measured):
    root, output = measured
    table = json.loads((root / "out" / "methods.json").read_text())
    assert list(dict.fromkeys(each["system"] for each in table["systems"])) == ["base", "both", "dense", "structured"]
    assert {(each["system"], each["against"]) for each in table["pairs"]} == {
        ("base", "both"), ("base", "dense"), ("base", "structured"),
        ("both", "dense"), ("both", "structured"), ("dense", "structured"),
    }  # fmt: skip
    # 'clip' means with each row what it means with the first.
    assert {each["metric"] for each in table["systems"]} == {"micro_oracle", "micro_clip"}
    assert "dense: Its layout is found." in output
    own = json.loads((root / "out" / "structured" / "metrics.json").read_text())
    assert [each["value"] for each in table["systems"] if each["system"] == "structured"] == [e["value"] for e in own]


def test_a_studys_ranks_are_columns(measured, tmp_path):
    root, _ = measured
    sources = [str(root / "out" / row) for row in ("both", "base")]
    made = make_study(named_systems(sources), tmp_path / "study", StudyOptions(prompts=2))
    study = made.study
    Answers(tmp_path / "study", study).save(
        answer(study, item, dutiful(study, item, [1, 0]), "alignment", of=number)
        for number in range(2)
        for item in study.items
    )
    asked = (
        "--rows", root / "rows.yaml", "--prompts", root / "prompts.txt", "--out", root / "out",
        "--metric", "micro_oracle", "--metric", "clip", "--set", "sampling.num_inference_steps=2", "--seed", 3,
    )  # fmt: skip
    done = call(*asked, "--study", tmp_path / "study")
    assert done.exit_code == 0, done.output
    lines = (root / "out" / "methods.md").read_text().splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("| system |"))
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[start : start + 6]]
    assert cells[0][-1] == "alignment rank"
    assert {row[0]: row[-1][:4] for row in cells[2:]} == {
        "base": "1.00", "both": "2.00", "dense": "-", "structured": "-",
    }  # fmt: skip
    assert json.loads((root / "out" / "methods.json").read_text())["ranks"]["alignment"]["base"][0] == 1.0
    (tmp_path / "others.yaml").write_text("rows: {other: {model: micro}}")
    refused = call("--rows", tmp_path / "others.yaml", "--study", tmp_path / "study", "--out", tmp_path / "out")
    assert refused.exit_code == 2
    assert "none of them is a row (other)" in " ".join(refused.output.split())


def test_what_a_row_lacks_is_said_before_any_work(measured, tmp_path):
    root, _ = measured
    (tmp_path / "rows.yaml").write_text(
        "rows:\n  base: {model: micro}\n  tuned: {model: micro, lora: nowhere, made_by: realignkit train --out nowhere}"
    )
    asked = ("--rows", tmp_path / "rows.yaml", "--prompts", root / "prompts.txt", "--out", tmp_path / "out")
    done = call(*asked)
    assert done.exit_code != 0
    assert "tuned: nowhere holds no trained weights" in done.output
    assert "Make it so: realignkit train --out nowhere" in done.output
    assert "--without tuned" in done.output.replace("\n", " ")
    assert not (tmp_path / "out").exists()
    assert call(*asked, "--check").exit_code == 0


def test_a_finished_table_is_printed_again_without_what_it_was_made_with(measured, monkeypatch):
    root, _ = measured
    monkeypatch.setattr("realignkit.named.Named.out_of_reach", lambda self: "nobody has it.")
    asked = (
        "--rows", root / "rows.yaml", "--prompts", root / "prompts.txt", "--out", root / "out",
        "--metric", "micro_oracle", "--metric", "clip", "--set", "sampling.num_inference_steps=2", "--seed", 3,
    )  # fmt: skip
    done = call(*asked)
    assert done.exit_code == 0, done.output
    assert "nobody has it" not in done.output
    assert "metric 'micro_oracle' cannot work: nobody has it." in " ".join(call(*asked, "--check").output.split())


ELSEWHERE = """
rows:
  base: {model: micro}
  chosen: {model: micro, candidates: 2, select_by: clip, set: {reward.model: nobody/clip}}
  guided: {model: micro, guide_by: clip, set: {reward.model: nobody/other}}
"""


def test_what_metrics_and_rewards_need_is_said_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "realignkit_plugins.loading.out_of_reach",
        lambda model, revision=None: "" if model.startswith("micro") else "(nobody has it).",
    )
    (tmp_path / "rows.yaml").write_text(ELSEWHERE)
    (tmp_path / "prompts.txt").write_text(PROMPTS)
    asked = (
        "--rows", tmp_path / "rows.yaml", "--prompts", tmp_path / "prompts.txt", "--out", tmp_path / "out",
        "--metric", "micro_oracle", "--metric", "fid", "--metric", "tifa", "--metric", "clip_score",
        "--set", "metric.fid.features=micro_oracle", "--set", "metric.fid.reference=nowhere",
        "--set", "metric.vqa=micro", "--set", "metric.questions=none.json",
    )  # fmt: skip
    done = call(*asked, "--check")
    said = " ".join(done.output.split())
    assert done.exit_code == 0, done.output
    assert "metric 'fid' cannot work: there is no reference 'nowhere'" in said
    assert "metric 'micro_tifa' cannot work: there is no file 'none.json'" in said
    assert "metric 'clip_score' cannot work: its checkpoint" in said
    assert "chosen: reward 'clip' cannot work: its checkpoint 'nobody/clip'" in said
    assert "guided: reward 'clip' cannot work: its checkpoint 'nobody/other'" in said
    assert "base: " not in said
    assert "every row has what it needs" not in said
    done = call(*asked, "--without", "chosen", "--without", "guided")
    assert done.exit_code == 2
    assert "some metrics cannot judge here: fid, micro_tifa, clip_score; the" in " ".join(done.output.split())
    assert not (tmp_path / "out").exists()


def test_a_metric_without_the_reference_that_it_needs_is_told_before_any_work(tmp_path):
    (tmp_path / "rows.yaml").write_text("rows: {base: {model: micro}}")
    (tmp_path / "prompts.txt").write_text(PROMPTS)
    asked = ("--rows", tmp_path / "rows.yaml", "--prompts", tmp_path / "prompts.txt", "--out", tmp_path / "out")
    done = call(*asked, "--metric", "fid", "--set", "metric.fid.features=micro_oracle", "--check")
    said = " ".join(done.output.split())
    assert "metric 'fid' cannot work: FID compares with real pictures: give reference=" in said
    assert "every row has what it needs" not in said


def test_a_metrics_options_go_by_its_name_and_by_that_of_what_stands_for_it(tmp_path):
    rows = "rows: {base: {model: micro}, other: {model: structure_diffusion, set: {generator.model: micro:base}}}"
    (tmp_path / "rows.yaml").write_text(rows)
    (tmp_path / "prompts.txt").write_text(PROMPTS)
    asked = ("--rows", tmp_path / "rows.yaml", "--prompts", tmp_path / "prompts.txt", "--out", tmp_path / "out")
    for name in ("tifa", "micro_tifa"):
        done = call(*asked, "--metric", "tifa", "--set", f"metric.{name}.questions=none.json", "--check")
        assert "metric 'micro_tifa' cannot work: there is no file 'none.json'" in " ".join(done.output.split())
    done = call(*asked, "--metric", "tifa", "--set", "metric.tifa.question=none.json", "--check")
    assert "there is no option 'metric.tifa.question'" in " ".join(done.output.split())


def test_numbers_of_whole_sets_are_paired_and_silence_is_said(tmp_path):
    (tmp_path / "rows.yaml").write_text(
        "rows: {base: {model: micro}, dense: {model: micro, fine: dense, note: Its layout is found.}}"
    )
    (tmp_path / "prompts.txt").write_text(PROMPTS + "a purple sphere on the beach\n")
    (tmp_path / "real").mkdir()
    for number in range(4):
        Image.new("RGB", (64, 64), (60 * number, 100, 50)).save(tmp_path / "real" / f"{number}.png")
    done = call(
        "--rows", tmp_path / "rows.yaml", "--prompts", tmp_path / "prompts.txt", "--out", tmp_path / "out",
        "--metric", "micro_oracle", "--metric", "fid", "--set", "metric.fid.features=micro_oracle",
        "--set", f"metric.fid.reference={tmp_path / 'real'}", "--set", "sampling.num_inference_steps=2",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    page, table = (tmp_path / "out" / "methods.md").read_text(), json.loads((tmp_path / "out/methods.json").read_text())
    assert page.startswith("3 prompts, 1 picture of each in every row, the same seeds (42).")
    assert "base: metric 'micro_oracle' knows nothing to say of 1 of 3 pictures." in page
    assert "dense: Its layout is found. metric 'micro_oracle' knows nothing" in page
    assert "knows nothing to say of 1 of 3 pictures." in (tmp_path / "out" / "base" / "metrics.md").read_text()
    (fid,) = (pair for pair in table["pairs"] if pair["metric"] == "fid")
    of = {each["system"]: each["value"] for each in table["systems"] if each["metric"] == "fid"}
    assert (fid["before"], fid["after"], fid["low"], fid["p"]) == (of["base"], of["dense"], None, None)
    assert "## Fid: every system with every other" in page


def test_what_metrics_fetch_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr("realignkit_plugins.loading.out_of_reach", lambda model, revision=None: "")
    monkeypatch.setattr(import_module("realignkit.cli.doctor"), "cached_models", frozenset)
    (tmp_path / "rows.yaml").write_text("rows: {base: {model: micro}}")
    (tmp_path / "prompts.txt").write_text(PROMPTS)
    asked = (
        "--rows",
        tmp_path / "rows.yaml",
        "--prompts",
        tmp_path / "prompts.txt",
        "--out",
        tmp_path / "out",
        "--check",
    )
    done = call(*asked, "--metric", "clip_score")
    said = " ".join(done.output.split())
    assert "metric 'clip_score': downloads openai/clip-vit-base-patch32 (0.6 GB) from the hub" in said
    assert "every row has what it needs, or can fetch it" in said


def test_the_table_says_what_its_numbers_depend_on(measured, tmp_path):
    root, _ = measured
    page = (root / "out" / "methods.md").read_text()
    known = json.loads((root / "out" / "base" / "eval.json").read_text())["metrics"]["micro_clip"]
    assert f"micro_clip: n 2, weights {known['weights']}." in page
    assert (
        json.loads((root / "out" / "methods.json").read_text())["measured"]["micro_clip"]["weights"] == known["weights"]
    )


def test_an_option_that_a_row_does_not_have_is_told_with_its_name(tmp_path):
    (tmp_path / "rows.yaml").write_text("rows: {mine: {model: micro, set: {modulation.shares: 1}}}")
    done = call("--rows", tmp_path / "rows.yaml", "--out", tmp_path / "out")
    assert done.exit_code != 0
    assert "row 'mine'" in done.output


@pytest.mark.parametrize(("rows", "lacking"), [("micro", "runs/pairs"), ("published", "prompts.txt")])
def test_the_commands_that_make_adapters_are_ones_that_train_takes(rows, lacking, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trained = [method for method in read_methods(rows).values() if method.lora]
    assert len(trained) == 2
    for method in trained:
        words = shlex.split(method.made_by.rpartition("&&")[2])
        assert words[:2] == ["realignkit", "train"]
        assert words[words.index("--out") + 1] == method.lora
        done = CliRunner().invoke(app, words[1:])  # every option is known; what they are to read is not here
        assert done.exit_code == 2
        assert lacking in done.output.replace("\n", "")
        assert "option" not in done.output
