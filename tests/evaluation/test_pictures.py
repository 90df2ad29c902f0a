from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from realignkit.errors import OptionError, OutputError
from realignkit.evaluation import run_many
from realignkit.evaluation.evaluate import Evaluation
from realignkit.evaluation.pictures import read_pictures, read_runs
from realignkit.named import Named
from tests.evaluation.judges import Redness

ROW = '{"prompt": "a", "image_path": "0.png"}'
PROMPTS = ["a red book", "a yellow pen"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with four pictures, ``0.png`` … ``3.png``."""
    for number in range(4):
        Image.new("RGB", (8, 8), (40 * number, 0, 0)).save(tmp_path / f"{number}.png")
    return tmp_path


def written(folder: Path, name: str, value: object) -> Path:
    text = value if isinstance(value, str) else json.dumps(value)
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def brief(pictures) -> list[tuple]:
    return [(p.id, p.prompt, p.seed, p.path.name, p.index, p.number) for p in pictures]


def test_a_runs_final_pictures_and_its_coarse_ones(tmp_path: Path, realigner):
    run_many(realigner, PROMPTS, tmp_path / "run", seeds=[1, 2])
    pictures = read_pictures(tmp_path / "run")
    assert brief(pictures)[:3] == [
        ("0001-a-red-book-s1", "a red book", 1, "refined.png", 1, 0),
        ("0001-a-red-book-s2", "a red book", 2, "refined.png", 1, 0),
        ("0002-a-yellow-pen-s1", "a yellow pen", 1, "refined.png", 2, 0),
    ]
    assert {p.path.name for p in read_pictures(tmp_path / "run", stage="coarse")} == {"coarse.png"}
    record = tmp_path / "run" / "0001-a-red-book-s1" / "realignment.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"accepted": False}))
    assert read_pictures(record.parent)[0].path.name == "coarse.png"  # what verification kept
    record.unlink()
    with pytest.raises(OutputError, match=r"0001-a-red-book-s1 is not finished .* again, or remove it"):
        read_pictures(tmp_path / "run")


def test_an_evaluations_pictures_which_must_all_be_there(folder: Path, tmp_path: Path):
    rows = [{"prompt": prompt, "image_path": f"{i}.png", "seed": 3} for i, prompt in enumerate(PROMPTS)]
    listed = written(folder, "list.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    out = tmp_path / "out"
    Evaluation(read_pictures(listed), [Named("metric", "redness", Redness())], out)()
    assert brief(read_pictures(out)) == brief(read_pictures(listed))
    lines = (out / "pictures.jsonl").read_text().splitlines(keepends=True)
    (out / "pictures.jsonl").write_text(lines[0])
    with pytest.raises(OutputError, match="is not finished: 1 of 2 pictures are measured"):
        read_pictures(out)
    (out / "pictures.jsonl").write_text('{"id": 1}\n')
    with pytest.raises(OutputError, match=r"is damaged \('prompt'\)"):
        read_pictures(out)


def test_json_lines_say_prompt_and_path_and_perhaps_id_and_seed(folder: Path):
    rows = [
        {"id": "a", "prompt": PROMPTS[0], "image_path": "0.png", "seed": 7},
        {"id": "b", "prompt": PROMPTS[1], "image_path": str(folder / "1.png")},
        {"id": "b", "prompt": PROMPTS[1], "image_path": "2.png"},
    ]
    path = written(folder, "list.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    assert brief(read_pictures(path)) == [
        ("a", PROMPTS[0], 7, "0.png", 1, 0),
        ("b-1", PROMPTS[1], None, "1.png", 2, 0),
        ("b-2", PROMPTS[1], None, "2.png", 2, 1),
    ]


def test_a_folder_with_metadata_or_with_texts_beside_its_pictures(folder: Path):
    written(folder, "metadata.csv", 'file_name,text\n0.png,a red book\n1.png,"a pen, yellow"\n')
    assert brief(read_pictures(folder))[1] == ("0002", "a pen, yellow", None, "1.png", 2, 0)
    (folder / "metadata.csv").unlink()
    written(folder, "3.txt", "a yellow pen\n")
    assert brief(read_pictures(folder)) == [("0001", "a yellow pen", None, "3.png", 1, 0)]


def test_a_json_object_goes_by_prompt_or_by_id_to_one_path_or_several(folder: Path):
    by_prompt = written(folder, "a.json", {PROMPTS[0]: "0.png", PROMPTS[1]: ["1.png", "2.png"]})
    expected = [
        ("0001", PROMPTS[0], None, "0.png", 1, 0),
        ("0002-1", PROMPTS[1], None, "1.png", 2, 0),
        ("0002-2", PROMPTS[1], None, "2.png", 2, 1),
    ]
    assert brief(read_pictures(by_prompt)) == expected
    ids = {"first": PROMPTS[0], "second": PROMPTS[1], "third": "another"}
    assert brief(read_pictures(by_prompt, ids)) == expected
    with_blanks = {f" {PROMPTS[0]} ": "0.png", PROMPTS[1].replace(" ", "  "): ["1.png", "2.png"]}
    padded = written(folder, "padded.json", with_blanks)
    assert brief(read_pictures(padded, ids)) == brief(read_pictures(padded)) == expected
    by_id = written(folder, "b.json", {"second": "0.png", "first": "1.png"})
    assert brief(read_pictures(by_id, ids)) == [
        ("second", PROMPTS[1], None, "0.png", 1, 0),
        ("first", PROMPTS[0], None, "1.png", 2, 0),
    ]
    rows = written(folder, "c.jsonl", json.dumps({"id": "first", "image_path": "3.png"}))
    assert brief(read_pictures(rows, ids)) == [("first", PROMPTS[0], None, "3.png", 1, 0)]


def test_pictures_are_called_by_the_numbers_of_all_prompts(folder: Path):
    prompts = {f"#{number}": f"thing {number}" for number in range(1, 5)}
    expected = [(f"{number}.png", f"thing {number + 1}", str(number)) for number in range(4)]  # from 0
    assert [(p.path.name, p.prompt, p.id) for p in read_pictures(folder, prompts)] == expected
    (folder / "prompts.txt").write_text("where the prompts are from, beside no picture")
    assert [(p.path.name, p.prompt, p.id) for p in read_pictures(folder, prompts)] == expected
    (folder / "0.png").rename(folder / "0004.png")
    (folder / "1.png").rename(folder / "1-1.png")
    Image.new("RGB", (8, 8)).save(folder / "1-2.png")
    assert [(p.path.name, p.prompt, p.number) for p in read_pictures(folder, prompts)][:3] == [
        ("0004.png", "thing 4", 0),
        ("1-1.png", "thing 1", 0),
        ("1-2.png", "thing 1", 1),
    ]


def test_pictures_are_called_by_the_ids_of_their_prompts(folder: Path):
    ids = {"coco_2": "a", "1": "b", "2": "c", "3": "d"}
    (folder / "0.png").rename(folder / "coco_2.png")
    assert [(p.id, p.prompt) for p in read_pictures(folder, ids)] == [
        ("1", "b"),
        ("2", "c"),
        ("3", "d"),
        ("coco_2", "a"),
    ]
    (folder / "2.png").rename(folder / "7.png")
    with pytest.raises(OptionError, match=r"7.png' is not called by the id of a prompt"):
        read_pictures(folder, ids)


def test_numbers_that_might_be_shifted_are_refused(folder: Path):
    (folder / "0.png").unlink()  # 1, 2 and 3 of four prompts: the second to fourth, or the first to third?
    with pytest.raises(OptionError, match="numbered like all 4 prompts, from 0 or from 1"):
        read_pictures(folder, {name: name for name in "abcd"})


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "a.jsonl",
            '{"prompt": "a", "image_path": "0.png"}\n{"prompt": "b", "image_path": "9.png"}',
            "line 2 of .*no such",
        ),
        (
            "a.jsonl",
            '{"prompt": "a", "image_path": "0.png"}\n{"prompt": "b", "image_path": "0.png"}',
            "line 2 .* again, ",
        ),
        ("a.jsonl", '{"prompt": "a", "image_path": "text.png"}', "line 1 of .*text.png.* format is not known"),
        ("a.jsonl", '{"prompt": "", "image_path": "0.png"}', "line 1 of .* has no prompt"),
        ("a.jsonl", '{"prompt": "a"}', "has no column 'image_path'"),
        ("a.jsonl", '{"prompt": "a", "image_path": "0.png", "seed": "x"}', "line 1 .* 'x' as its seed"),
        (
            "a.jsonl",
            '{"id": 1, "prompt": "a", "image_path": "0.png"}\n{"id": 1, "prompt": "b", "image_path": "1.png"}',
            "line 2 of .* id '1' of another prompt",
        ),
        ("a.json", '{"a": "0.png", "a": "1.png"}', "has 'a' twice"),
        ("a.json", '{"a": 3}', "'a' in .* has no path of a picture"),
        ("a.json", '{"a": "0.png", "b": ["1.png", "0.png"]}', "'b' in .* lists .*0.png' again, after 'a' in"),
        ("a.json", "{}", "lists no pictures"),
        ("a.json", "{", "is no JSON"),
        ("a.json", "[{", r"is no JSON \(.*\)\. Correct it\.$"),
        ("a.json", "[1, 2]", r"item 1 of .* is a number, no JSON object\. Give objects, or texts\.$"),
        ("a.json", '"text"', r"holds a text; it should be a list of texts, or of objects\.$"),
        ("a.csv", "", r"is empty\. Give it rows with a column 'image_path'\.$"),
        ("a.jsonl", '{"prompt": null, "image_path": "0.png"}', r"as its 'prompt', but null\. Write a text there\.$"),
        ("a.jsonl", '{"prompt": "a"}\n{"image_path": "0.png"}', r"line 1 .* has no 'image_path'\. Add it, or remove"),
        ("a.jsonl", '{"prompt": "a", "prompt": "b", "image_path": "0.png"}', "line 1 .*'prompt' is there twice"),
        ("a.json", '[{"prompt": "a", "image_path": "0.png", "image_path": "1.png"}]', "'image_path' is there twice"),
        ("a.csv", "prompt,Prompt,image_path\na,b,0.png", "has more than one column 'prompt'. Rename all but one"),
        (
            "a.jsonl",
            '{"prompt": "a", "image_path": "a\\u0000.png"}',
            r"'.*a\\0\.png' as an image: its name holds a zero",
        ),
        (
            "a.json",
            '["0.png"]',
            r"a\.json' is a list of texts\. Give for each picture an object with prompt and image_path",
        ),
        ("a.txt", "a", "is no list of pictures. Give a folder of 'realignkit run'"),
    ],
)
def test_what_is_wrong_with_a_list_is_said_with_its_place(folder: Path, name: str, content: str, message: str):
    written(folder, "text.png", "no picture")
    path = written(folder, name, content)
    with pytest.raises(OptionError, match=message):
        read_pictures(path)


def test_which_of_two_columns_is_taken_is_said_where_they_differ(folder: Path):
    rows = "prompt,caption,text,image_path,file_name\na,b,a,0.png,0.png\nc,,c,1.png,1.png\n"
    said: list[str] = []
    path = written(folder, "list.csv", rows)
    assert [picture.prompt for picture in read_pictures(path, say=said.append)] == ["a", "c"]
    assert said == [f"'{path}' has the columns 'prompt' and 'caption': 'prompt' is taken for the prompts"]


def test_a_folder_without_realignments_is_no_run(folder: Path, tmp_path: Path):
    for name, why in (("gone", "is not there"), (".", "holds no realignments"), ("0.png", "is no folder")):
        with pytest.raises(OptionError, match=rf"{why}\. Give a folder that 'realignkit run' has written\.$"):
            read_runs(folder / name)


def test_ids_that_a_prompt_set_does_not_know_are_refused(folder: Path):
    path = written(folder, "b.json", {"second": "0.png", "fifth": "1.png"})
    with pytest.raises(OptionError, match=r"'fifth' in .* is neither an id nor a prompt"):
        read_pictures(path, {"second": PROMPTS[1]})
    rows = written(folder, "c.jsonl", json.dumps({"id": "fifth", "image_path": "3.png"}))
    with pytest.raises(OptionError, match=r"line 1 of .* 'fifth' is no id"):
        read_pictures(rows, {"second": PROMPTS[1]})


def test_nothing_there_and_empty_folders_are_refused_in_words(tmp_path: Path):
    with pytest.raises(OptionError, match=r"is not there. Give a folder of"):
        read_pictures(tmp_path / "none")
    with pytest.raises(OptionError, match=r"lists no pictures. Give a folder of .* metadata.jsonl"):
        read_pictures(tmp_path)
    with pytest.raises(OptionError, match="is an address"):
        read_pictures("https://example.org/pictures.jsonl")
