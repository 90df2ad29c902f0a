"""Studies are made of what all systems have, blinded, the same for the same seed."""

from __future__ import annotations

import io
import json
import re

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from realignkit.errors import OptionError, PromptError
from realignkit.study.folder import NAME, PAGE, PICTURES, RECORD, picture_files, read_study
from realignkit.study.make import StudyOptions, make_study, named_systems
from tests.study.conftest import COLOURS, PROMPTS, system


def colour(path):
    with Image.open(path) as image:
        return image.getpixel((0, 0))


def test_each_prompt_has_a_picture_of_each_system_in_their_order(make):
    folder, study = make(prompts=3)
    assert study == read_study(folder)
    files = picture_files(folder, study)
    items = [item for item in study.items if not item.first]
    assert len({item.prompt for item in items}) == 3
    assert {item.prompt for item in items} <= set(PROMPTS)
    assert study.systems == list(COLOURS)
    for item in items:
        assert [colour(files[name]) for name in item.pictures] == list(COLOURS.values())


def test_the_same_seed_chooses_the_same_prompts(make, tmp_path):
    chosen = []
    for place, seed in (("a", 5), ("b", 5), ("c", 6)):
        folder, study = make(prompts=2, seed=seed)
        chosen.append([item.prompt for item in study.items])
        folder.rename(tmp_path / place)
    assert chosen[0] == chosen[1] != chosen[2]


def test_no_file_says_whose_it_is(tmp_path):
    """Neither by name, nor by what stands beside the pixels."""
    pictures = tmp_path / "pictures"
    for name in ("base", "ours"):
        system(pictures, name, ["a cow"])
        notes = PngInfo()
        notes.add_text("parameters", f"drawn by {name}")
        Image.new("RGB", (32, 32)).save(
            pictures / f"{name}-0.png", pnginfo=notes, icc_profile=name.encode(), dpi=(9, 9)
        )
    folder = tmp_path / "study"
    make_study(named_systems([str(pictures / "base.json"), str(pictures / "ours.json")]), folder, StudyOptions(1))
    for path in (folder / PICTURES).iterdir():
        assert re.fullmatch(NAME, path.stem)
        with Image.open(io.BytesIO(path.read_bytes())) as image:
            assert image.info == {}


def test_checks_say_what_comes_first(make):
    folder, study = make(prompts=4, checks=2)
    checks = [item for item in study.items if item.first]
    assert len(checks) == 2
    for item in checks:
        number = int(re.search(r"number (\d+)", item.prompt)[1])
        assert item.first == item.pictures[number - 1]
        assert len({picture_files(folder, study)[name].read_bytes() for name in item.pictures}) == 3


@pytest.mark.parametrize(("prompts", "checks"), [(5, 1), (1, 1)])
def test_one_check_for_ten_prompts(make, prompts, checks):
    _, study = make(prompts=prompts)
    assert sum(bool(item.first) for item in study.items) == checks
    assert [item.id for item in study.items] == [str(number) for number in range(1, prompts + checks + 1)]


def test_large_pictures_are_made_smaller_on_demand(make):
    folder, study = make(prompts=1, checks=0, side=32)
    for path in picture_files(folder, study).values():
        with Image.open(path) as image:
            assert image.size == (32, 32)


def test_fewer_prompts_than_asked_for_are_all(tmp_path, sources):
    made = make_study(named_systems(sources), tmp_path / "study", StudyOptions(prompts=50))
    assert made.common == len(PROMPTS)
    assert sum(not item.first for item in made.study.items) == len(PROMPTS)


def test_systems_without_a_common_prompt(tmp_path):
    one = system(tmp_path / "p", "base", ["a cow"])
    other = system(tmp_path / "p", "ours", ["a dog", "a bird"])
    with pytest.raises(PromptError, match=r"no prompt is common to all systems \(different prompts: base 1, ours 2\)"):
        make_study(named_systems([str(one), str(other)]), tmp_path / "study", StudyOptions(3))
    assert not (tmp_path / "study").exists()


def test_pictures_of_a_common_seed_are_compared(tmp_path):
    """``third`` has no picture of seed 1, so seed 2 is the one."""
    specs = []
    for name, seeds in {"base": (1, 2), "ours": (2, 1), "third": (2, 3)}.items():
        lines = []
        for seed in seeds:
            Image.new("RGB", (16, 16), (seed, 0, 0)).save(tmp_path / f"{name}{seed}.png")
            lines.append(json.dumps({"prompt": "a cow", "image_path": f"{name}{seed}.png", "seed": seed}))
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
        specs.append(str(tmp_path / f"{name}.jsonl"))
    for seed in range(4):
        folder = tmp_path / f"study{seed}"
        study = make_study(named_systems(specs), folder, StudyOptions(1, seed=seed, checks=0)).study
        assert {colour(path) for path in picture_files(folder, study).values()} == {(2, 0, 0)}


def test_numbers_of_an_evaluation_come_along(tmp_path):
    for name, score in {"a": 0.25, "b": 0.5}.items():
        folder = tmp_path / name
        folder.mkdir()
        Image.new("RGB", (16, 16)).save(folder / "0.png")
        line = {"id": "0001", "index": 1, "prompt": "a cow", "seed": 0, "number": 0, "image": "0.png", "sha256": ""}
        values = {"tifa": {"tifa": score}, "clip_score": {"cosine": 0.1}} if name == "a" else {"tifa": {"tifa": score}}
        (folder / "pictures.jsonl").write_text(json.dumps({**line, "values": values}) + "\n")
    specs = [str(tmp_path / "a"), str(tmp_path / "b")]
    study = make_study(named_systems(specs), tmp_path / "study", StudyOptions(1, checks=0)).study
    assert study.systems == ["a", "b"]
    assert study.items[0].values == {"tifa": [0.25, 0.5]}


def test_a_folder_that_holds_something_is_left_alone(make):
    folder, _ = make()
    before = (folder / RECORD).read_bytes()
    with pytest.raises(OptionError, match="is not empty"):
        make()
    assert (folder / RECORD).read_bytes() == before


def test_the_single_file_is_written_on_demand(make, tmp_path):
    folder, _ = make(static=True)
    assert (folder / PAGE).is_file()


@pytest.mark.parametrize(
    ("specs", "message"),
    [
        (["runs/a"], "2 to 12 systems, not 1"),
        (["runs/a", "others/a"], "a name that no other has, not 'a'. Name them"),
        (["x=runs/a", "=runs/b"], "a name that no other has, not ''"),
        ([f"runs/{number}" for number in range(13)], "not 13"),
    ],
)
def test_systems_that_are_no_study(specs, message):
    with pytest.raises(OptionError, match=message):
        named_systems(specs)


def test_systems_are_called_by_their_folders(tmp_path):
    (tmp_path / "sd-1.5").mkdir()
    (tmp_path / "list.json").touch()
    (tmp_path / "a=b").mkdir()
    specs = [str(tmp_path / "sd-1.5"), str(tmp_path / "list.json"), str(tmp_path / "a=b"), "ours=runs/x"]
    assert [system.name for system in named_systems(specs)] == ["sd-1.5", "list", "a=b", "ours"]
