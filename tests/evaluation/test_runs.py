from __future__ import annotations

import json
import signal
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import realignkit
from realignkit.contracts import Options
from realignkit.errors import ModelError, OutputError, PluginError
from realignkit.evaluation import run_many
from realignkit.evaluation.runs import Job, slug
from realignkit.files import only_writer
from realignkit.realignment import Realignment
from tests import tiny

PROMPTS = ["a red book and a yellow pen", "a red book", "a yellow pen on the desk"]


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a run, without what is allowed to differ between two runs: the time it took."""
    files = {}
    for path in sorted(folder.rglob("*")):
        if not path.is_file() or path.suffix == ".html":
            continue
        content = path.read_bytes()
        if path.name == "realignment.json":
            content = json.dumps({**json.loads(content), "timings": None}).encode()
        if path.name == "index.jsonl":
            content = json.dumps([{**row, "seconds": None} for row in lines(path)]).encode()
        files[str(path.relative_to(folder))] = content
    return files


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A red  book!", "a-red-book"),
        ("../../etc/passwd", "etc-passwd"),
        ("Ein grünes Café", "ein-grunes-cafe"),
        ("猫", "prompt"),
        ("one two three four five six seven eight nine", "one-two-three-four-five-six-seven-eight"),
        ("x" * 99, "x" * 40),
    ],
)
def test_slug(text: str, expected: str):
    assert slug(text) == expected


def test_folders_hold_what_the_realigner_makes(tmp_path: Path, realigner):
    summary = run_many(realigner, PROMPTS, tmp_path / "run", seeds=[1, 2])
    assert (summary.made, summary.skipped, summary.failures) == (6, 0, ())
    names = sorted(path.name for path in (tmp_path / "run").iterdir() if path.is_dir())
    assert names[:3] == [
        "0001-a-red-book-and-a-yellow-pen-s1",
        "0001-a-red-book-and-a-yellow-pen-s2",
        "0002-a-red-book-s1",
    ]
    saved = Realignment.load(tmp_path / "run" / "0002-a-red-book-s1")
    direct = realigner("a red book", 1)
    assert (saved.prompt, saved.seed, saved.captions) == ("a red book", 1, direct.captions)
    assert abs(np.asarray(saved.refined).astype(int) - np.asarray(direct.refined)).max() <= 2
    index = lines(tmp_path / "run" / "index.jsonl")
    assert [(row["index"], row["seed"], row["folder"]) for row in index][2] == (2, 1, "0002-a-red-book-s1")
    assert not (tmp_path / "run" / "errors.jsonl").exists()


def test_second_run_makes_only_what_is_missing(tmp_path: Path, realigner):
    run_many(realigner, PROMPTS[:2], tmp_path)
    marked = tmp_path / "0001-a-red-book-and-a-yellow-pen-s42" / "refined.png"
    Image.new("RGB", Image.open(marked).size, "red").save(marked)
    kept = marked.read_bytes()
    (tmp_path / "0002-a-red-book-s42" / "realignment.json").unlink()  # as if killed before its end
    summary = run_many(realigner, PROMPTS, tmp_path)
    assert (summary.made, summary.skipped) == (2, 1)
    assert marked.read_bytes() == kept
    assert len(lines(tmp_path / "index.jsonl")) == 3
    assert run_many(realigner, PROMPTS, tmp_path, overwrite=True).made == 3
    assert marked.read_bytes() != kept


def test_results_of_other_settings_or_prompts_are_not_mixed_up(tmp_path: Path, realigner, make_realigner):
    run_many(realigner, PROMPTS[:1], tmp_path)
    other = make_realigner(modulation={"share": 0.9})
    with pytest.raises(OutputError, match=r"modulation\.share \(0\.5 there, 0\.9 now\).*--overwrite"):
        run_many(other, PROMPTS[:1], tmp_path)
    record = tmp_path / Job(1, PROMPTS[0], 42).name / "realignment.json"
    earlier = json.loads(record.read_text())
    del earlier["settings"]["modulation"]["clamp"]
    record.write_text(json.dumps(earlier))
    with pytest.raises(OutputError, match=r"an earlier version of realignkit.*wrote it, without modulation\.clamp\."):
        run_many(realigner, PROMPTS[:1], tmp_path)
    with pytest.raises(OutputError, match="another list of prompts"):
        run_many(realigner, ["a pen"], tmp_path)
    with pytest.raises(OutputError, match="prompt"):  # same slug, other text
        run_many(realigner, [PROMPTS[0].upper()], tmp_path)
    run_many(other, ["a pen"], tmp_path, overwrite=True)
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["0001-a-pen-s42"]


def test_bad_prompts_are_recorded_and_the_others_made(tmp_path: Path, realigner):
    prompts = ["a red book", "book " * 60, "", "a yellow pen"]
    summary = run_many(realigner, prompts, tmp_path)
    assert summary.made == 2
    assert [(f.index, f.error) for f in summary.failures] == [(2, "PromptError"), (3, "PromptError")]
    errors = lines(tmp_path / "errors.jsonl")
    assert [row["index"] for row in errors] == [2, 3]
    assert "tokens" in errors[0]["message"]
    assert [row["index"] for row in lines(tmp_path / "index.jsonl")] == [1, 4]


def test_a_prompt_that_no_file_takes_is_recorded_readably(tmp_path: Path, realigner):
    assert run_many(realigner, ["a red \ud83d book", "a yellow pen"], tmp_path).made == 1
    (error,) = lines(tmp_path / "errors.jsonl")
    assert (error["error"], error["prompt"]) == ("PromptError", "a red \\ud83d book")


def test_a_broken_prompt_among_others_with_heat_maps_fails_by_itself(tmp_path: Path, realigner):
    mapped = realigner.with_(heat_maps=["pen"])
    summary = run_many(mapped, ["a red \ud83d book", "a yellow pen"], tmp_path)
    assert (summary.made, len(summary.failures)) == (1, 1)


def test_plugin_that_fails_for_one_image_spoils_only_that_one(tmp_path: Path, registry, realigner):
    class Picky:
        @realignkit.hookimpl
        def after_realign(self, realignment: Realignment) -> None:
            if realignment.prompt == "a red book":
                raise ValueError("not this one")

    registry.register(Picky(), "picky")
    summary = run_many(realigner, PROMPTS, tmp_path)
    assert [(f.index, f.error) for f in summary.failures] == [(2, PluginError.__name__)]
    assert summary.made == 2


def test_model_that_cannot_be_used_stops_the_run(tmp_path: Path, make_realigner):
    with pytest.raises(ModelError):
        run_many(make_realigner("tiny-transformer"), PROMPTS, tmp_path)


def test_seed_given_twice(tmp_path: Path, realigner):
    with pytest.raises(OutputError, match="twice"):
        run_many(realigner, PROMPTS, tmp_path, seeds=[1, 1])


def test_extras_are_part_of_being_complete(tmp_path: Path, realigner):
    def extras(realignment: Realignment, folder: Path) -> None:
        assert not (folder / "realignment.json").exists()
        (folder / "extra.txt").write_text(realignment.prompt)

    run_many(realigner, PROMPTS[:1], tmp_path, extras=extras)
    assert (tmp_path / "0001-a-red-book-and-a-yellow-pen-s42" / "extra.txt").read_text() == PROMPTS[0]


def test_interruption_loses_nothing_that_is_finished(tmp_path: Path, make_realigner):
    done: list[int] = []

    def interrupt(finished: int, total: int) -> None:
        done.append(finished)
        if finished == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_many(make_realigner(batch_size=1), PROMPTS, tmp_path, on_done=interrupt)
    assert len(lines(tmp_path / "index.jsonl")) == 2
    assert run_many(make_realigner(batch_size=1), PROMPTS, tmp_path).skipped == 2


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


DAMAGES = {
    "empty record": lambda folder: (folder / "realignment.json").write_bytes(b""),
    "cut record": lambda folder: truncate(folder / "realignment.json"),
    "deep record": lambda folder: (folder / "realignment.json").write_text("[" * 100_000),
    "no object": lambda folder: (folder / "realignment.json").write_text("[]"),
    "cut picture": lambda folder: truncate(folder / "refined.png"),
    "empty picture": lambda folder: (folder / "coarse.png").write_bytes(b""),
    "no mask": lambda folder: (folder / "masks" / "00.png").unlink(),
    "mask of another size": lambda folder: Image.new("1", (3, 3)).save(folder / "masks" / "00.png"),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_folder_is_made_again_and_blocks_no_other(tmp_path: Path, make_realigner, damage):
    realigner, prompts = make_realigner(batch_size=1), PROMPTS[:2]  # rounding depends on what shares a batch
    run_many(realigner, prompts, tmp_path)
    before = contents(tmp_path)
    damage(tmp_path / "0001-a-red-book-and-a-yellow-pen-s42")
    said: list[str] = []
    summary = run_many(realigner, prompts, tmp_path, say=said.append)
    assert (summary.made, summary.skipped, summary.failures) == (1, 1, ())
    assert contents(tmp_path) == before
    (text,) = said
    assert text.startswith("0001-a-red-book-and-a-yellow-pen-s42 is damaged and is made again: ")
    assert run_many(realigner, prompts, tmp_path, say=said.append).skipped == 2
    assert len(said) == 1


def test_a_damaged_folder_of_other_settings_is_not_replaced(tmp_path: Path, realigner, make_realigner):
    run_many(realigner, PROMPTS[:1], tmp_path)
    truncate(tmp_path / "0001-a-red-book-and-a-yellow-pen-s42" / "refined.png")
    with pytest.raises(OutputError, match=r"modulation\.share"):
        run_many(make_realigner(modulation={"share": 0.9}), PROMPTS[:1], tmp_path)
    record = tmp_path / "0001-a-red-book-and-a-yellow-pen-s42" / "realignment.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), "version": 99}))
    with pytest.raises(OutputError, match="version 99"):  # a newer realignkit's is no damage
        run_many(realigner, PROMPTS[:1], tmp_path)


def test_what_can_be_made_from_the_folder_itself_is(tmp_path: Path, realigner):
    """A report that is gone costs no new picture."""
    made: list[str] = []

    def extras(realignment: Realignment, folder: Path) -> None:
        made.append(folder.name)
        (folder / "report.html").write_text(f"<html>{realignment.prompt}</html>")

    run_many(realigner, PROMPTS[:2], tmp_path, extras=extras, extra_files=["report.html"])
    before = contents(tmp_path)
    record = tmp_path / "0002-a-red-book-s42" / "realignment.json"
    when = record.stat().st_mtime_ns
    for content in (None, "", "<html>cut"):
        report = record.with_name("report.html")
        report.unlink() if content is None else report.write_text(content)
        said: list[str] = []
        summary = run_many(
            realigner, PROMPTS[:2], tmp_path, extras=extras, extra_files=["report.html"], say=said.append
        )
        assert (summary.made, summary.skipped) == (0, 2)
        assert len(said) == 1
        assert "0002-a-red-book-s42 is completed" in said[0]
        assert report.read_text() == "<html>a red book</html>"
    assert made[2:] == ["0002-a-red-book-s42"] * 3
    assert record.stat().st_mtime_ns == when
    assert contents(tmp_path) == before


def test_only_what_is_on_the_disk_counts_as_made(tmp_path: Path, make_realigner):
    def lose(finished: int, total: int) -> None:
        if finished == 2:
            (tmp_path / "0001-a-red-book-and-a-yellow-pen-s42" / "realignment.json").unlink()

    summary = run_many(make_realigner(batch_size=1), PROMPTS, tmp_path, on_done=lose)
    assert summary.made == 2 == len(lines(tmp_path / "index.jsonl"))
    assert [(f.index, f.error) for f in summary.failures] == [(1, "OutputError")]
    assert [row["index"] for row in lines(tmp_path / "errors.jsonl")] == [1]


def test_a_run_goes_on_only_with_the_adapters_it_began_with(tmp_path: Path, registry, make_realigner):
    """By what is in the file, not by its path."""

    class Adapted(tiny.TinyGenerator):
        class Options(Options):
            lora: str | None = None

    class More:
        @realignkit.hookimpl
        def register_generators(self, register: Any) -> None:
            register("adapted", Adapted, "takes adapters")

    registry.register(More(), "more")
    lora = tmp_path / "first" / "lora.safetensors"
    lora.parent.mkdir()
    lora.write_bytes(b"one")

    def run(path: Path) -> int:
        realigner = make_realigner("adapted", options={"generator": {"lora": str(path)}})
        return run_many(realigner, PROMPTS[:1], tmp_path / "run").made

    assert run(lora) == 1
    moved = lora.rename(tmp_path / "lora.safetensors")
    assert run(moved) == 0
    moved.write_bytes(b"two")
    with pytest.raises(OutputError, match=r"what is in generator\.lora"):
        run(moved)


def test_a_second_writer_is_told_and_stops(tmp_path: Path, realigner):
    found: list[Exception] = []

    def second() -> None:
        try:
            run_many(realigner, PROMPTS[:1], tmp_path)
        except OutputError as error:
            found.append(error)

    with only_writer(tmp_path):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
    assert "is in use" in str(found[0])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_killed_run_resumes_to_the_same_results(tmp_path: Path, command, cli):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("\n".join(f"{colour} {noun}" for noun in ("book", "pen") for colour in ("red", "yellow")))
    arguments = ["run", "--prompts", str(prompts), "--model", "tiny", "--scorer", "wordy", "--batch-size", "1"]

    killed = command(*arguments, "--out", "killed", cwd=tmp_path, TINY_DIES_AFTER="2")
    _, errors = killed.communicate()
    assert killed.returncode == -signal.SIGKILL, errors
    first = {path: path.stat().st_mtime_ns for path in tmp_path.glob("killed/*/realignment.json")}
    assert len(first) == 1  # the second was finished, but not saved

    resumed = cli(*arguments, "--out", tmp_path / "killed")
    assert resumed.exit_code == 0, resumed.output
    assert f"{4 - len(first)} made, {len(first)} there already, 0 failed" in resumed.output
    straight = cli(*arguments, "--out", tmp_path / "straight")
    assert straight.exit_code == 0, straight.output
    assert contents(tmp_path / "killed") == contents(tmp_path / "straight")
    assert all(path.stat().st_mtime_ns == when for path, when in first.items())
