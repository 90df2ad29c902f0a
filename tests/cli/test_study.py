"""``realignkit study`` from pictures to results, as it is typed."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import pytest
from PIL import Image

from realignkit.study.answers import ANSWERS, FILE, Answers
from realignkit.study.folder import PAGE, read_study
from tests.study.conftest import COLOURS, PROMPTS, answer, dutiful, system


@pytest.fixture
def pictures(tmp_path):
    return [f"{name}={system(tmp_path / 'pictures', name)}" for name in COLOURS]


@pytest.fixture
def made(cli, pictures, tmp_path):
    """A study that the command has made."""
    folder = tmp_path / "study"
    assert cli("study", "make", *pictures, "--prompts", 3, "--out", folder).exit_code == 0
    return folder


def downloaded(folder, path, people=2):
    """What people would have downloaded."""
    study = read_study(folder)
    answers = [
        answer(study, item, dutiful(study, item, [1, 2, 0]), question.name, of=number).model_dump()
        for number in range(people)
        for item in study.items
        for question in study.questions
    ]
    path.write_text(ANSWERS.dumps({"study": study.id, "answers": answers}))
    return path


def test_from_pictures_to_results(cli, made, tmp_path):
    given = downloaded(made, tmp_path / "answers.json")
    result = cli("study", "import", made, given)
    assert (result.exit_code, result.stdout) == (0, f"{given}: 16 answers, 16 new\n")
    assert cli("study", "import", made, given).stdout == f"{given}: 16 answers, 0 new\n"
    result = cli("study", "report", made)
    assert result.exit_code == 0, result.output
    assert "People: 2 answered, 2 of them everything. 0 of 2 (0%) failed a check. 2 are counted." in result.stdout
    (row,) = [line.split() for line in result.stdout.splitlines() if line.startswith("ours") and "%" in line]
    assert row[:4] == ["ours", "1.00", "[1.00,", "1.00]"]
    for name in ("report.md", "report.csv", "report.json", "report.html"):
        assert str(made / name) in result.stdout
        assert (made / name).is_file()


def test_make_says_what_came_of_it(cli, pictures, tmp_path):
    folder = tmp_path / "study"
    result = cli("study", "make", *pictures, "--prompts", 9, "--out", folder, "--static", "--checks", 0, "--seed", 3)
    assert result.exit_code == 0, result.output
    assert f"only {len(PROMPTS)} prompts are common to all systems" in result.stderr
    assert f"3 systems, {len(PROMPTS)} prompts, 0 checks: {folder}" in result.stdout
    assert f"{folder / PAGE} (0.0 MB)" in result.stdout
    again = cli("study", "make", *pictures, "--prompts", 9, "--out", folder)
    assert (again.exit_code, "is not empty" in again.stderr) == (2, True)


def test_consent_in_other_words(cli, pictures, tmp_path):
    folder = tmp_path / "study"
    assert cli("study", "make", *pictures, "--prompts", 1, "--out", folder, "--consent", "All is well.").exit_code == 0
    assert read_study(folder).consent == "All is well."


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["study", "make", "a.json", "--prompts", "1", "--out", "x"], "2 to 12 systems"),
        (["study", "make", "a.json", "b.json", "--prompts", "1", "--out", "x"], "'a.json' cannot be read"),
        (["study", "serve", "nowhere"], "holds no study"),
        (["study", "report", "nowhere"], "holds no study"),
        (["study", "export", "nowhere"], "holds no study"),
        (["study", "import", "nowhere", "x.json"], "holds no study"),
        (["study", "make", "a", "b", "--prompts", "1", "--out", "x", "--stage", "third"], "refined or coarse"),
    ],
)
def test_what_cannot_be_done_is_said(cli, arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = cli(*arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())
    assert list(tmp_path.iterdir()) == []


def test_nobody_has_answered(cli, made):
    result = cli("study", "report", made)
    assert (result.exit_code, "nobody has answered yet" in result.stderr) == (2, True)
    assert cli("study", "export", made).stdout == ""


def test_answers_are_exported_as_lines_and_as_a_table(cli, made, tmp_path):
    cli("study", "import", made, downloaded(made, tmp_path / "answers.json"))
    printed = cli("study", "export", made).stdout
    records = [json.loads(line) for line in printed.splitlines()]
    assert len(records) == 16
    for name in ("a.jsonl", "a.csv"):
        assert cli("study", "export", made, "--out", tmp_path / name).exit_code == 0
    assert (tmp_path / "a.jsonl").read_text() == printed
    rows = list(csv.DictReader((tmp_path / "a.csv").open()))
    assert len(rows) == 16 * 3
    for record in records:
        mine = [
            r
            for r in rows
            if (r["person"], r["item"], r["question"]) == tuple(record[n] for n in ("person", "item", "question"))
        ]
        assert {row["system"]: float(row["rank"]) for row in mine} == record["ranks"]
        assert {row["system"]: int(row["place"]) for row in mine} == {s: n for n, s in enumerate(record["shown"], 1)}
    result = cli("study", "export", made, "--out", tmp_path / "a.xlsx")
    assert (result.exit_code, "choose one of the two" in result.stderr) == (2, True)


def test_what_people_ranked_is_exported_as_pictures_to_learn_from(cli, made, tmp_path):
    none = cli("study", "export", made, "--out", tmp_path / "ranked")
    assert (none.exit_code, "nobody who counts has answered the question" in none.stderr) == (2, True)
    cli("study", "import", made, downloaded(made, tmp_path / "answers.json"))
    result = cli("study", "export", made, "--out", tmp_path / "ranked")
    assert result.exit_code == 0, result.output
    study = read_study(made)
    items = [item for item in study.items if not item.first]
    assert f"{3 * len(items)} pictures of {len(items)} prompts" in result.stdout
    rows = [json.loads(line) for line in (tmp_path / "ranked" / "metadata.jsonl").read_text().splitlines()]
    picture_of = {name: item for item in items for name in item.pictures}
    for row in rows:
        name = row["file_name"].removesuffix(".png")
        assert (tmp_path / "ranked" / row["file_name"]).read_bytes() == (
            made / "pictures" / row["file_name"]
        ).read_bytes()
        assert row["prompt"] == picture_of[name].prompt
        assert row["system"] == study.systems[picture_of[name].pictures.index(name)]
        assert row["people"] == 2
    ours = [row["rank"] for row in rows if row["system"] == "ours"]
    assert ours == [1.0] * len(items)  # as all have put it first
    again = cli("study", "export", made, "--out", tmp_path / "ranked")
    assert (again.exit_code, "is not empty" in again.stderr) == (2, True)
    other = cli("study", "export", made, "--out", tmp_path / "other", "--question", "beauty")
    assert (other.exit_code, "does not ask for 'beauty'" in other.stderr) == (2, True)


def test_one_bad_file_is_named(cli, made, tmp_path):
    (tmp_path / "bad.json").write_text("{")
    result = cli("study", "import", made, tmp_path / "bad.json")
    assert (result.exit_code, "bad.json" in result.stderr) == (2, True)
    assert Answers(made, read_study(made)).read() == []


@pytest.mark.parametrize(("command", "missing"), [("serve", "fastapi"), ("serve", "uvicorn"), ("report", "scipy")])
def test_what_is_not_installed_is_named_with_its_extra(cli, made, monkeypatch, command, missing):
    for name in [
        name
        for name in sys.modules
        if name.partition(".")[0] == missing or name in ("realignkit.serving", "realignkit.study.server")
    ]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    result = cli("study", command, made)
    assert result.exit_code == 2
    assert missing in result.stderr
    assert "install realignkit[study]" in result.stderr


def test_a_database_of_others_is_left_alone(cli, made):
    (made / FILE).unlink(missing_ok=True)
    (made / FILE).write_text("not a database, whatever its name says" * 100)
    result = cli("study", "report", made)
    assert (result.exit_code, "cannot be read" in result.stderr) == (2, True)
    assert (made / FILE).read_text().startswith("not a database")


def pixels(path):
    with Image.open(path) as image:
        return image.convert("RGB").tobytes()


def test_runs_are_compared_in_the_folder_that_nobody_names(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("prompts.txt").write_text("a red book\na blue pen\n")
    for name, seed in {"one": 1, "two": 2}.items():
        made = cli("run", "--model", "tiny", "--prompts", "prompts.txt", "--seed", seed, "--out", f"runs/{name}")
        assert made.exit_code == 0, made.output
    for stage, folder in (("refined", "study"), ("coarse", "of-coarse")):
        where = [] if folder == "study" else ["--out", folder, "--stage", stage]
        result = cli("study", "make", "runs/one", "runs/two", "--prompts", 2, *where)
        assert result.exit_code == 0, result.output
        study = read_study(folder)
        assert study.systems == ["one", "two"]
        for item in (item for item in study.items if not item.first):
            for run, name in zip(study.systems, item.pictures, strict=True):
                (drawn,) = Path("runs", run).glob(f"*{item.prompt.replace(' ', '-')}*/{stage}.png")
                assert pixels(drawn) == pixels(Path(folder, "pictures", f"{name}.png"))
    assert cli("study", "export").stdout == ""
    assert "nobody has answered yet" in cli("study", "report").stderr


def test_make_without_what_it_needs_says_so_in_a_sentence(cli, pictures, tmp_path):
    for arguments, message in (
        ([], "a study compares 2 to 12 systems, not 0: name each one's pictures."),
        (pictures, "a study needs a number of prompts to ask about: give --prompts N."),
        ([*pictures, "--prompts", 3, "--stage", "late"], "--stage is refined or coarse, not 'late'."),
    ):
        result = cli("study", "make", *arguments, "--out", tmp_path / "study")
        assert result.exit_code == 2
        assert " ".join(result.output.split()) == f"Error: {message}"
