from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import realignkit
from realignkit.cli._settings import parse
from realignkit.errors import OptionError
from realignkit.realignment import Realignment
from realignkit.registry import default_registry
from tests.conftest import HANGS, ROOT

PROMPT = "a red book and a yellow pen"
FILES = {"coarse.png", "layout.png", "refined.png", "sheet.png", "realignment.json", "report.html"}


@pytest.fixture
def run(cli, tmp_path: Path):
    return lambda *arguments: cli("run", "--model", "tiny", "--out", tmp_path / "out", *arguments)


# --- one prompt -----------------------------------------------------------------------------------------------------


def test_run_writes_everything_and_says_where(run, tmp_path: Path, make_realigner):
    result = run(PROMPT, "--seed", 7, "--scorer", "wordy")
    assert result.exit_code == 0, result.output
    assert {path.name for path in (tmp_path / "out").iterdir() if path.is_file()} == FILES
    for name in FILES:
        assert str(tmp_path / "out" / name) in result.output
    saved = Realignment.load(tmp_path / "out")
    direct = make_realigner()(PROMPT, 7)
    assert (np.asarray(saved.refined) == np.asarray(direct.refined)).all()
    assert saved.captions == direct.captions
    rows = [line.split() for line in result.output.splitlines()]
    for caption in direct.captions:
        assert any(row[0] == caption.tag and caption.likelihood.value in row for row in rows if row)


def test_same_again_is_welcome_but_nothing_else_is_overwritten(run, tmp_path: Path):
    assert run(PROMPT).exit_code == 0
    assert run(PROMPT).exit_code == 0
    before = (tmp_path / "out" / "realignment.json").read_bytes()
    for other in ([PROMPT, "--seed", 7], ["a red book"], [PROMPT, "--set", "share=0.9"]):
        result = run(*other)
        assert result.exit_code == 2
        assert "--overwrite" in result.stderr
    assert (tmp_path / "out" / "realignment.json").read_bytes() == before
    assert run("a red book", "--overwrite").exit_code == 0
    assert Realignment.load(tmp_path / "out").prompt == "a red book"


def test_default_folder_is_named_after_prompt_and_seed(cli, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli("run", "--model", "tiny", "A red book!", "--seed", 3).exit_code == 0
    assert (tmp_path / "realignments" / "a-red-book-s3" / "report.html").is_file()


def test_heat_maps_of_words(run, cli, tmp_path: Path):
    result = run(PROMPT, "--heat-maps", "red, yellow")
    assert result.exit_code == 0, result.output
    assert [item.word for item in Realignment.load(tmp_path / "out").heat_maps] == ["red", "yellow"]
    pictures = {tmp_path / "out" / "heat_maps" / f"0{i}-{stage}.png" for i in (0, 1) for stage in ("coarse", "refined")}
    assert set((tmp_path / "out" / "heat_maps").iterdir()) == pictures
    assert str(tmp_path / "out" / "heat_maps.png") in result.output
    assert "heat map of red before" in (tmp_path / "out" / "report.html").read_text()
    (tmp_path / "out" / "heat_maps.png").unlink()
    assert cli("show", tmp_path / "out").exit_code == 0
    assert (tmp_path / "out" / "heat_maps.png").is_file()
    assert run(PROMPT, "--overwrite").exit_code == 0
    assert not any(path.is_file() for path in (tmp_path / "out").rglob("*heat_maps*/*")) and not list(
        (tmp_path / "out").glob("heat_maps.*")
    )


def test_a_word_that_is_not_in_the_prompt_has_no_heat_map(run, tmp_path: Path):
    result = run(PROMPT, "--heat-maps", "red,purple")
    assert result.exit_code == 2
    assert "'purple', which is not part of 'a red book and a yellow pen'" in result.stderr
    assert not (tmp_path / "out").exists()


def test_given_coarse_image(run, tmp_path: Path):
    Image.new("L", (50, 50), 200).save(tmp_path / "photo.png")
    result = run(PROMPT, "--coarse", tmp_path / "photo.png")
    assert result.exit_code == 0, result.output
    assert "cropped and resized" in result.output
    assert (np.asarray(Realignment.load(tmp_path / "out").coarse) == 200).all()
    (tmp_path / "photo.png").write_text("no image")
    assert "as an image" in run(PROMPT, "--coarse", tmp_path / "photo.png").stderr


def test_set_reaches_every_step(run, tmp_path: Path):
    assignments = {
        "share": "0.75",
        "modulation.size_term": "none",
        "sampling.num_inference_steps": "3",
        "threshold": "0.01",
        "segmenter.blind_to": '["pen"]',
        "scorer.wordy.max_tokens": "9",
        "segment_unlikely": "true",
    }
    options = [word for name, value in assignments.items() for word in ("--set", f"{name}={value}")]
    result = run(PROMPT, *options)
    assert result.exit_code == 0, result.output
    settings = Realignment.load(tmp_path / "out").settings
    assert (settings["modulation"]["share"], settings["modulation"]["size_term"]) == (0.75, "none")
    assert settings["sampling"]["num_inference_steps"] == 3
    assert settings["tagger"] == {"threshold": 0.01}
    assert settings["segmenter"] == {"blind_to": ["pen"]}
    assert settings["scorer"]["wordy"]["max_tokens"] == 9
    assert settings["segment_unlikely"] is True


# --- --set ----------------------------------------------------------------------------------------------------------

KNOWN = {
    "modulation": {"share", "power", "cross_weight", "size_weight"},
    "sampling": {"height"},
    "tagger": {"threshold"},
    "segmenter": {"threshold", "size"},
    "scorer": None,
    "training": {"batch_size", "lora", "lora.rank"},
    "judge": set(),
}


@pytest.mark.parametrize(
    ("text", "value"), [("0.5", 0.5), ("3", 3), ("true", True), ("null", None), ("[1]", [1]), ("a=b", "a=b"), ("", "")]
)
def test_values_are_json_or_text(text: str, value: object):
    assert parse([f"share={text}"], KNOWN).modulation == {"share": value}


def test_names_find_their_group():
    settings = parse(["power=1", "height=64", "tagger.threshold=0.1", "size=2", "scorer.anything=x", "power=2"], KNOWN)
    assert settings.modulation == {"power": 2}  # the later one
    assert settings.sampling == {"height": 64}
    assert settings.options["tagger"] == {"threshold": 0.1}
    assert settings.options["segmenter"] == {"size": 2}
    assert settings.options["scorer"] == {"anything": "x"}


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("threshold=1", "tagger.threshold or segmenter.threshold"),
        ("shar=1", "Did you mean share"),
        ("modulation.shar=1", "Did you mean modulation.share"),
        ("modulaton.share=1", "Did you mean modulation.share"),
        ("tagger.power=1", "Did you mean modulation.power"),
        ("tagger.tresh=1", r"Did you mean tagger.threshold\? Known: tagger.threshold\.$"),
        (
            "nothing.like.it=1",
            "like.it'. Groups of options here: .*tagger.*; a wrong name within a group lists what it has",
        ),
        ("tagger.size=1", "no option 'tagger.size'"),
        (
            "training.lora.rnk=1",
            r"mean training.lora.rank\b.*Known: training.lora.rank, training.batch_size, training.lora\.$",
        ),
        ("judge.power=1", r"Did you mean modulation.power\? Known: none\.$"),
        ("creg=1", "DenseDiffusion's creg is cross_weight here"),
        ("modulation.sizereg=1", "DenseDiffusion's sizereg is modulation.size_weight here"),
        ("share", "name=value"),
        ("=1", "name=value"),
    ],
)
def test_wrong_names_are_refused_with_advice(assignment: str, message: str):
    with pytest.raises(OptionError, match=message):
        parse([assignment], KNOWN)


# --- errors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([""], "prompt is empty"),
        (["book " * 60], "tokens"),
        ([PROMPT, "--tagger", "quadrant"], "Did you mean 'quadrants'"),
        ([PROMPT, "--model", "tinny"], "Did you mean 'tiny'"),
        ([PROMPT, "--model", "tiny-transformer"], "cannot be re-weighted"),
        ([PROMPT, "--model", "tiny-broken"], "NaN"),
        ([PROMPT, "--scorer", "distant"], "pip install 'distant-thing>=1'"),
        ([PROMPT, "--set", "shar=1"], "share"),
        ([PROMPT, "--set", "share=2"], "less than or equal to 1"),
        ([PROMPT, "--prompts", "file"], "either"),
        ([], "either"),
        (["--prompts", "no-such-file"], "no-such-file"),
    ],
)
def test_errors_are_one_message_and_leave_nothing_behind(cli, tmp_path: Path, arguments, message: str):
    result = cli("run", "--model", "tiny", "--scorer", "wordy", "--out", tmp_path / "out", *arguments)
    assert result.exit_code == 2
    text = " ".join(result.stderr.replace("│", " ").split())
    assert message in text
    assert "Traceback" not in result.output + result.stderr
    assert not (tmp_path / "out" / "realignment.json").exists()
    assert not (tmp_path / "out").exists() or "NaN" in message  # NaN shows only while sampling


def test_unwritable_folder(cli, tmp_path: Path):
    (tmp_path / "file").write_text("x")
    result = cli("run", "--model", "tiny", PROMPT, "--out", tmp_path / "file" / "out")
    assert result.exit_code == 2
    assert "choose another folder" in result.stderr
    assert (tmp_path / "file").read_text() == "x"


def test_markup_in_messages_is_text(cli, tmp_path: Path):
    result = cli("run", "--model", "tiny", "--tagger", "[bold]x[/nope]", PROMPT, "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert "[bold]x[/nope]" in result.stderr


def test_verbose_shows_the_traceback(cli, tmp_path: Path):
    result = cli("run", "--model", "nope", PROMPT, "--verbose", "--out", tmp_path / "out")
    assert isinstance(result.exception, realignkit.PluginError)


def test_interruption_promises_what_is_there(run, cli, tmp_path: Path):
    many = ["run", "--model", "tiny", "--prompts", tmp_path / "list.txt", "--out", tmp_path / "many"]

    class Stop:
        @realignkit.hookimpl
        def after_realign(self) -> None:
            raise KeyboardInterrupt

    stop = Stop()
    default_registry().register(stop, "stop")
    (tmp_path / "list.txt").write_text(f"{PROMPT}\n{PROMPT}\n")
    try:
        result = run(PROMPT)
        nothing_yet = cli(*many)
        default_registry().unregister(stop)
        assert cli(*many, "--seed", 1).exit_code == 0
        default_registry().register(stop, "stop")
        some = cli(*many, "--seed", 1, "--seed", 2)
    finally:
        default_registry().unregister(stop)
    for early in (result, nothing_yet):
        assert early.exit_code == 130
        assert "Nothing had been finished" in early.stderr
        assert "saved" not in early.stderr and "resume" not in early.stderr
    assert some.exit_code == 130
    assert f"saved in {tmp_path / 'many'}; resume with the same command" in some.stderr


# --- many prompts ---------------------------------------------------------------------------------------------------


def test_prompts_from_tables_and_standard_input(cli, tmp_path: Path):
    table = tmp_path / "list.csv"
    table.write_text("id;prompt\n1;a red book, a desk\n2;\n", encoding="utf-8-sig")
    arguments = ["run", "--model", "tiny", "--out", tmp_path / "run", "--prompts"]
    result = cli(*arguments, table)
    assert result.exit_code == 0, result.output
    assert f"read 1 prompt from {table}, column 'prompt'; 1 blank line left out" in result.stderr
    result = cli(*arguments, "-", given="a red book, a desk\n")
    assert result.exit_code == 0, result.output
    assert "read 1 prompt from standard input" in result.stderr
    assert "1 there already" in result.stdout


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes on this system")
def test_prompts_from_a_pipe(cli, tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_text, args=("a red book, a desk\n",))
    writer.start()
    result = cli("run", "--model", "tiny", "--out", tmp_path / "run", "--prompts", tmp_path / "pipe")
    writer.join()
    assert result.exit_code == 0, result.output
    assert "1 made" in result.stdout


def test_many_prompts(cli, tmp_path: Path):
    prompts = tmp_path / "list.txt"
    prompts.write_text("a red book\n\n" + "book " * 60 + "\na yellow pen\n", encoding="utf-8-sig")
    arguments = ["run", "--model", "tiny", "--prompts", prompts, "--seed", 1, "--seed", 2, "--out", tmp_path / "run"]
    result = cli(*arguments)
    assert result.exit_code == 1  # one prompt of three failed
    assert "4 made, 0 there already, 2 failed" in result.output
    assert "tokens" in result.stderr
    folder = tmp_path / "run" / "0003-a-yellow-pen-s2"
    assert {path.name for path in folder.iterdir() if path.is_file()} == FILES
    index = (tmp_path / "run" / "index.html").read_text()
    assert "0003-a-yellow-pen-s2/report.html" in index
    again = cli(*arguments)
    assert again.exit_code == 1
    assert "0 made, 4 there already, 2 failed" in again.output


def test_empty_prompt_file(cli, tmp_path: Path):
    (tmp_path / "list.txt").write_text("\n \n")
    result = cli("run", "--model", "tiny", "--prompts", tmp_path / "list.txt", "--out", tmp_path / "run")
    assert result.exit_code == 2
    assert "no prompts" in result.stderr


# --- the other commands ---------------------------------------------------------------------------------------------


def test_show_prints_again_and_remakes_the_report(cli, run, tmp_path: Path):
    first = run(PROMPT)
    (tmp_path / "out" / "report.html").unlink()
    (tmp_path / "out" / "layout.png").unlink()
    shown = cli("show", tmp_path / "out")
    assert shown.exit_code == 0, shown.output
    assert shown.stdout == first.stdout
    assert {path.name for path in (tmp_path / "out").iterdir() if path.is_file()} == FILES
    missing = cli("show", tmp_path / "nowhere")
    assert missing.exit_code == 2
    assert "no complete realignment" in missing.stderr


def test_plugins_lists_kind_name_description_and_remedy(cli):
    result = cli("plugins", "--kind", "scorer")
    assert result.exit_code == 0
    rows = {row[1]: row for line in result.output.splitlines() if len(row := line.split()) > 2}
    assert rows["wordy"][0] == "scorer"
    assert rows["wordy"][-1] == "yes"
    assert "distant-thing>=1" in result.output
    assert "quadrants" not in result.output
    assert cli("plugins", "--kind", "scorers").exit_code == 2


def test_plugins_for_machines(cli):
    listing = json.loads(cli("plugins", "--json").stdout)
    plugins = {(entry["kind"], entry["name"]): entry for entry in listing["plugins"]}
    assert plugins["tagger", "quadrants"]["available"] is True
    assert plugins["scorer", "distant"] == {
        "kind": "scorer",
        "name": "distant",
        "description": "not installed",
        "source": "tiny",
        "available": False,
        "missing": ["no_such_module_anywhere"],
        "remedy": "pip install 'distant-thing>=1'",
    }
    assert isinstance(listing["broken"], dict)


def test_plugins_show_lists_options(cli):
    result = cli("plugins", "show", "tagger", "quadrants")
    assert result.exit_code == 0, result.output
    row = next(line.split() for line in result.output.splitlines() if line.startswith("threshold"))
    assert row[:3] == ["threshold", "float", "0.0"]
    assert "how sure a tag must be" in result.output
    assert "pip install" in cli("plugins", "show", "scorer", "distant").output
    assert cli("plugins", "show", "tagger", "nope").exit_code == 2


def test_what_people_look_at_is_large_and_what_is_measured_or_trained_stays_small():
    from typer.main import get_command

    from realignkit import Realigner
    from realignkit.cli import app
    from realignkit.cli.train import DEFAULT_MODEL

    commands = get_command(app).commands
    ablations = {f"ablate {name}": command for name, command in commands["ablate"].commands.items()}
    drawn_by = {
        name: option.default
        for name, command in {**commands, **ablations}.items()
        for option in command.params
        if option.name == "model" and option.default is not None
    }
    for name in ("run", "dense"):
        assert drawn_by.pop(name) == "micro_256"
    assert (set(drawn_by.values()), DEFAULT_MODEL) == ({"micro"}, "micro")
    for make in (Realigner.from_pretrained, Realigner.drawing):
        assert inspect.signature(make).parameters["model"].default == "micro_256"


def test_version(cli):
    assert cli("--version").output.strip() == f"realignkit {realignkit.__version__}"


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["train", "--help"], ["plugins", "--json"]])
def test_help_and_lists_import_no_torch(arguments: list[str]):
    code = (
        "import sys\nfrom realignkit.cli import app\n"
        f"try:\n    app({arguments!r})\nexcept SystemExit as end:\n    assert not end.code\n"
        "heavy = {'torch', 'diffusers', 'transformers'} & set(sys.modules)\nassert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=HANGS)
    assert done.returncode == 0, done.stderr
