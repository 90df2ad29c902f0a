"""Results on disk: they come back exactly, survive being cut off, and are never mixed."""

from __future__ import annotations

import json

import numpy as np
import pytest

from realignkit.errors import OptionError, OutputError
from realignkit.evaluation.measure import join
from realignkit.evaluation.results import AblationFolder, Measurement, digest
from realignkit.evaluation.write import write_tables

SETTINGS = {"metric": {"name": "m"}, "sampling": {"num_inference_steps": 3}}
ROWS = {"base": [{"weights": None}], "one": [{"weights": "a"}, {"weights": "b"}]}


def measured(row="base", index=1, seed=0, right=1.0, features=(0.1, 1e-30, -3.0)):
    vector = None if features is None else np.array(features, np.float32)
    prompt = digest(f"prompt {index}")
    return Measurement(row, seed % 2, index, prompt, seed, {"right": right, "part": 0.5}, {"clip": 0.25}, vector)


@pytest.fixture
def folder(tmp_path):
    found = AblationFolder(tmp_path / "one")
    found.open("rewards", SETTINGS, ROWS, "mine")
    return found


def same(one, two):
    return one.line() == two.line() and one.features_line() == two.features_line()


def test_what_is_added_comes_back(folder):
    parts = [measured(index=i, seed=s, right=float(i == s)) for i in (1, 2) for s in (0, 1)]
    folder.add(parts[:1])
    folder.add(parts[1:])
    assert all(same(a, b) for a, b in zip(folder.read(), parts, strict=True))
    assert folder.read()[0].pair == (1, 0)
    folder.write_reference(np.eye(3, dtype=np.float32))
    assert (folder.reference() == np.eye(3)).all()


def test_a_line_that_was_cut_off_is_dropped_for_good(folder):
    folder.add([measured(index=1), measured(index=2)])
    for name in ("rows.jsonl", "features.jsonl"):
        path = folder.folder / name
        path.write_text(path.read_text()[:-20])
    assert [m.index for m in folder.read()] == [1]
    folder.add([measured(index=2), measured(index=3)])
    assert [m.index for m in folder.read()] == [1, 2, 3]
    assert all(m.features is not None for m in folder.read())


def test_reading_changes_nothing_and_opening_mends(folder):
    """Somebody may be writing while others read."""
    folder.add([measured(index=1), measured(index=2)])
    for name in ("rows.jsonl", "features.jsonl"):
        path = folder.folder / name
        damaged = path.read_bytes().replace(b"\n", b"\n\0\0\0\n", 1)[:-9] + "é".encode()[:1]
        path.write_bytes(damaged)
        assert [m.index for m in folder.read()] == [1] if name == "rows.jsonl" else True
        assert path.read_bytes() == damaged
    folder.open("rewards", SETTINGS, ROWS, "mine")
    for name in ("rows.jsonl", "features.jsonl"):
        assert len((folder.folder / name).read_bytes().splitlines()) == 1
    (found,) = folder.read()
    assert same(found, measured(index=1))


def test_reference_pictures_are_those_of_the_prompts(folder):
    folder.write_reference(np.eye(3, dtype=np.float32), "ten prompts")
    assert (folder.reference("ten prompts") == np.eye(3)).all()
    assert folder.reference("a hundred prompts") is None
    folder.open("rewards", SETTINGS, ROWS, "mine")  # goes on knowing it
    assert folder.reference("ten prompts") is not None
    (folder.folder / "reference.npy").write_bytes(b"")
    assert folder.reference("ten prompts") is None


def test_a_model_that_moved_is_the_same_and_one_that_changed_is_not(tmp_path):
    def opened(path, inside):
        settings = {"model": path, "generator": {"model": path}, "contents": {"generator.model": inside}}
        return AblationFolder(tmp_path / "moved").open("rewards", settings, ROWS, "mine")

    opened("/here/model", "2 files, x")
    opened("/there/model", "2 files, x")
    with pytest.raises(OptionError, match=r"what is in generator\.model"):
        opened("/there/model", "2 files, y")


def test_damage_elsewhere_is_told(folder):
    folder.add([measured(index=1), measured(index=2)])
    path = folder.folder / "rows.jsonl"
    path.write_text(path.read_text().replace('"seed"', '"sed"', 1))
    with pytest.raises(OutputError, match="damaged"):
        folder.read()


def test_other_settings_are_refused_and_more_rows_are_welcome(folder):
    folder.open("rewards", SETTINGS, {**ROWS, "two": [{"weights": "c"}]}, "mine")
    folder.open("rewards", SETTINGS, {"base": ROWS["base"]}, "mine")
    assert list(folder.existing()["rows"]) == ["base", "one", "two"]
    folder.open("rewards", {**SETTINGS, "metric": {"name": "m", "batch_size": 2, "max_cost": 1.0}}, ROWS, "mine")
    with pytest.raises(OptionError, match=r"sampling.num_inference_steps \(3 there, 4 now\)"):
        folder.open("rewards", {**SETTINGS, "sampling": {"num_inference_steps": 4}}, ROWS, "mine")
    with pytest.raises(OptionError, match="models of row 'one'"):
        folder.open("rewards", SETTINGS, {"one": [{"weights": "a"}, {"weights": "c"}]}, "mine")
    with pytest.raises(OptionError, match="kind"):
        folder.open("stages", SETTINGS, ROWS, "mine")
    (folder.folder / "ablation.json").write_text('{"format": "another"}')
    with pytest.raises(OutputError, match="no ablation"):
        folder.open("rewards", SETTINGS, ROWS, "mine")


def test_joined_is_as_if_measured_at_once(folder, tmp_path):
    whole = AblationFolder(tmp_path / "whole")
    whole.open("rewards", SETTINGS, ROWS, "mine")
    other = AblationFolder(tmp_path / "other")
    other.open("rewards", SETTINGS, ROWS, "mine")
    for seed, part in ((0, folder), (1, other)):
        for row in ROWS:
            found = [measured(row, index, seed, float((index + seed + len(row)) % 3 == 0)) for index in (1, 2, 3)]
            part.add(found)
            whole.add(found)
    folder.write_reference(np.eye(3, dtype=np.float32)[:2])
    other.write_reference(np.eye(3, dtype=np.float32))
    whole.write_reference(np.eye(3, dtype=np.float32))
    for _ in range(2):  # an earlier join may be replaced
        assert join([folder.folder, other.folder], tmp_path / "joined") == 12
    write_tables(whole.folder)
    write_tables(tmp_path / "joined")
    for name in ("table.json", "table.csv", "table.md", "plot.svg"):
        assert (tmp_path / "joined" / name).read_text() == (whole.folder / name).read_text()
    # The same results twice are one.
    assert join([folder.folder, folder.folder], tmp_path / "same") == 6


def test_what_does_not_go_together_is_not_joined(folder, tmp_path):
    folder.add([measured()])

    def other(name, settings=SETTINGS, rows=ROWS, measurement=None):
        made = AblationFolder(tmp_path / name)
        made.open("rewards", settings, rows, "mine")
        made.add([measurement or measured(seed=1)])
        return made.folder

    cases = {
        "otherwise": other("a", {**SETTINGS, "sampling": {"num_inference_steps": 9}}),
        "other models": other("b", rows={**ROWS, "one": [{"weights": "z"}]}),
        "something else": other("c", measurement=measured(right=0.0)),
        "other prompts": other("d", measurement=Measurement("base", 0, 1, "other", 1, {"right": 1.0})),
    }
    for message, path in cases.items():
        with pytest.raises(OptionError, match=message):
            join([folder.folder, path], tmp_path / "out")
    with pytest.raises(OptionError, match="of its own"):
        join([folder.folder], tmp_path / "a")
    with pytest.raises(OutputError, match="holds no ablation"):
        join([tmp_path / "nowhere"], tmp_path / "out")


def test_no_prompt_is_on_the_disk(folder):
    folder.add([measured()])
    line = json.loads((folder.folder / "rows.jsonl").read_text())
    assert line["prompt"] == digest("prompt 1")
    assert len(line["prompt"]) == 12


def test_where_a_score_runs_is_not_what_it_is(tmp_path):
    def settings(**score):
        return {**SETTINGS, "scores": {"clip": {"model": "m", **score}}}

    folder = AblationFolder(tmp_path)
    folder.open("rewards", settings(device="auto", dtype="auto"), ROWS, "mine")
    folder.open("rewards", settings(device="cuda", dtype="fp32"), ROWS, "mine")
    with pytest.raises(OptionError, match="model"):
        folder.open("rewards", settings(model="other"), ROWS, "mine")
