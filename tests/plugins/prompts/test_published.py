"""Published prompt sets, on files made up in their formats: what is read, chosen, checked and refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from realignkit.calls import texts_of
from realignkit.errors import OptionError
from realignkit.prompts import labels_of, prompt_set
from realignkit.registry import default_registry
from realignkit_plugins.prompts import attributes, benchmarks, coco

SETS = [
    *(attributes.ABC6K, attributes.CC500, attributes.ViLG300),
    *(benchmarks.DrawBench, benchmarks.GenEval2, benchmarks.PartiPrompts, benchmarks.TifaPrompts),
]


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a small file of each set, which are taken for the published ones."""
    vilg = ["Prompt,文本,类别,来源"] + [
        f'"thing {i}, red",物,{"颜色" if i % 2 else "计数"},DrawBench' for i in range(10)
    ]
    files = {
        "ABC-6K.txt": "a red cup and a blue bowl\na blue cup and a red bowl .\n",
        "CC-500.txt": "a red cup and a blue bowl\na red cup and a blue bowl\n",
        "ViLG-300.csv": "\ufeff" + "\n".join(vilg) + "\n",
        "DrawBench.csv": 'Prompts,Category\n"a cup, red",Colors\ntwo cups,Counting\n',
        "geneval2_data.jsonl": json.dumps({"prompt": "two cups", "atom_count": 3, "vqa_list": [], "skills": []}) + "\n",
        "PartiPrompts.tsv": 'Prompt\tCategory\tChallenge\tNote\n"H E L L O" on a wall\tArts\tBasic\t\n',
        "tifa_v1.0_text_inputs.json": json.dumps([{"id": "coco_7", "caption": "a  cup", "coco_val_id": "7"}]),
    }
    counts = dict(zip((cls.file.name for cls in SETS), (2, 2, 10, 2, 1, 1, 1), strict=True))
    for cls in SETS:
        monkeypatch.setattr(cls, "count", counts[cls.file.name])
        monkeypatch.setattr(cls, "file", replace(cls.file, sha256=(), hub=""))
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    monkeypatch.setenv("REALIGNKIT_DATA", str(tmp_path))
    return tmp_path


def read(spec: str) -> list[tuple[str, dict[str, str]]]:
    prompts = prompt_set(default_registry(), spec)
    return list(zip(texts_of(prompts), labels_of(prompts), strict=True))


def test_each_set_is_read_with_what_its_file_says_of_its_prompts(data: Path):
    assert read("abc6k") == [
        ("a red cup and a blue bowl", {"wording": "caption"}),
        ("a blue cup and a red bowl .", {"wording": "swapped"}),
    ]
    assert read("cc500") == [("a red cup and a blue bowl", {})] * 2
    assert read("drawbench") == [("a cup, red", {"category": "Colors"}), ("two cups", {"category": "Counting"})]
    assert read("geneval2") == [("two cups", {"atom_count": "3"})]
    assert read("partiprompts") == [('"H E L L O" on a wall', {"category": "Arts", "challenge": "Basic"})]
    assert read("tifa") == [("a cup", {"id": "coco_7", "source": "coco"})]
    assert read("vilg300")[1] == ("thing 1, red", {"category": "colours", "source": "DrawBench"})


def test_the_split_is_80_to_20_always_the_same_and_whole(data: Path):
    train, test = read("vilg300:train"), read("vilg300:test")
    assert (len(train), len(test)) == (8, 2)
    assert sorted(text for text, _ in train + test) == sorted(text for text, _ in read("vilg300"))
    assert test == read("vilg300:split=test")
    assert read("vilg300:train,limit=3") == train[:3]


def test_files_are_given_by_path_too_with_or_without_the_options_name(data: Path, monkeypatch):
    monkeypatch.delenv("REALIGNKIT_DATA")
    with pytest.raises(
        OptionError, match=r"CC-500 is not on this machine: get CC-500.txt from https://github.com/weixi"
    ):
        read("cc500")
    for spec in (f"cc500:{data / 'CC-500.txt'}", f"cc500:path={data}", f"vilg300:test,path={data / 'ViLG-300.csv'}"):
        assert len(read(spec)) == 2
    assert prompt_set(default_registry(), f"cc500:{data}").plugin.source.startswith("CC-500.txt (https://github.com/")
    assert "REALIGNKIT_DATA" in attributes.CC500().check()
    assert attributes.CC500(path=str(data)).check() == ""


def test_what_is_not_what_was_published_is_refused_in_words(data: Path, monkeypatch):
    (data / "CC-500.txt").write_text("a red cup\n")
    with pytest.raises(OptionError, match=r"holds 1 prompts, CC-500.txt as it is published 2.* read as 'file:PATH'"):
        read("cc500")
    (data / "PartiPrompts.tsv").write_text("Text\tKind\na cup\tBasic\n")
    with pytest.raises(OptionError, match=r"is not PartiPrompts.tsv as it is published \(ValueError: its columns are"):
        read("partiprompts")
    (data / "tifa_v1.0_text_inputs.json").write_text('[{"id": 1, "caption": ""}]')
    with pytest.raises(OptionError, match=r"is not tifa_v1.0_text_inputs.json as it is published"):
        read("tifa")
    monkeypatch.setattr(attributes.ABC6K, "file", replace(attributes.ABC6K.file, sha256=("0" * 64,)))
    with pytest.raises(OptionError, match=r"its SHA-256 is [0-9a-f]{12}…, not 000000000000…. Get it again from"):
        read("abc6k")


def test_truths_are_by_rules(data: Path):
    truth = attributes.CC500().truth("a red cup and a blue bowl", ["cup"])
    assert truth.expected["cup"].attributes == (frozenset({"red"}),)


@pytest.fixture
def captions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    annotations = [
        {"id": 100 * picture + number, "image_id": picture, "caption": f"picture {picture},\n caption {number}"}
        for picture in range(30, 0, -1)
        for number in range(5)
    ]
    monkeypatch.setattr(coco, "_COUNTS", {2014: 150, 2017: 150})
    for year in ("2014", "2017"):
        (tmp_path / f"captions_val{year}.json").write_text(json.dumps({"images": [], "annotations": annotations}))
    monkeypatch.setenv("REALIGNKIT_DATA", str(tmp_path))
    return tmp_path


def test_cocos_captions_are_drawn_one_of_each_picture_by_a_seed(captions: Path):
    drawn = read("coco:2014,size=10")
    assert len({label["id"] for _, label in drawn}) == 10
    assert all(text.startswith(f"picture {label['id']}, caption ") for text, label in drawn)
    assert read("coco:size=10") == drawn
    assert read("coco:size=20")[:10] == drawn
    assert read("coco:2014,size=10,seed=1") != drawn
    assert len(read("coco:2017")) == 30
    assert len({text[-1] for text, _ in read("coco")}) > 1  # not always the first caption


def test_half_a_file_of_captions_is_refused(captions: Path):
    path = captions / "captions_val2014.json"
    for damaged in (path.read_text()[:500], "[" * 100_000):
        path.write_text(damaged)
        with pytest.raises(OptionError, match=r"is not captions_val2014.json as it is published"):
            read("coco")
