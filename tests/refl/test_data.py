from __future__ import annotations

import json
import math
from collections import Counter

import pytest
import torch
from PIL import Image

from realignkit.errors import OptionError, PromptError
from realignkit.refl import data, seeds
from realignkit.refl.data import read_pairs
from realignkit.refl.model import Networks


def test_held_out_prompts_are_never_trained_on():
    training, held_out = data.split(["a", "b ", "", "a", "c"], ["c", "d"], 10, 0)
    assert (training, held_out) == (("a", "b"), ("c", "d"))
    many = [f"prompt {i}" for i in range(100)]
    training, held_out = data.split(many, None, 7, 0)
    assert len(held_out) == 7
    assert sorted((*training, *held_out)) == sorted(many)
    assert data.split(many, None, 7, 0) == (training, held_out)
    assert data.split(many, None, 7, 1)[1] != held_out


@pytest.mark.parametrize(("prompts", "held_out"), [([], None), ([" ", ""], None), (["a"], ["a"])])
def test_nothing_to_train_on(prompts, held_out):
    with pytest.raises(PromptError):
        data.split(prompts, held_out, 5, 0)


def test_every_prompt_comes_once_an_epoch_in_another_order():
    order = data.Order(10, 3, "prompts")
    epochs = [[order.at(10 * epoch + i) for i in range(10)] for epoch in range(3)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert epochs[0] != epochs[1]
    again = data.Order(10, 3, "prompts")
    assert [again.at(i) for i in (25, 7, 0)] == [epochs[2][5], epochs[0][7], epochs[0][0]]


def test_randomness_depends_on_the_place_alone():
    together = seeds.normal((2, 3), 5, "noise", [4, 5, 6])
    assert torch.equal(together[1:2], seeds.normal((2, 3), 5, "noise", [5]))
    assert not torch.equal(together[0], together[1])
    assert seeds.derive(5, "a", 1) != seeds.derive(5, "b", 1) != seeds.derive(5, "b", 2)


def test_somebody_elses_randomness_leaves_no_trace():
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    with seeds.seeded(7, "reward", 1):
        first = torch.rand(3)
    assert torch.equal(torch.rand(3), expected)
    with seeds.seeded(7, "reward", 1):
        assert torch.equal(torch.rand(3), first)


@pytest.fixture
def networks(pipeline):
    return Networks(pipeline, torch.device("cpu"), "no")


def write_images(folder):
    folder.mkdir()
    for i, colour in enumerate(("red", "blue", "green")):
        Image.new("RGB", (40, 32), colour).save(folder / f"{i}.png")


@pytest.mark.parametrize("form", ["jsonl", "csv", "txt"])
def test_pairs_in_each_form(tmp_path, networks, form):
    folder = tmp_path / "pairs"
    write_images(folder)
    texts = ["a red thing", "a thing, blue", "green"]
    if form == "jsonl":
        lines = [json.dumps({"file_name": f"{i}.png", "text": text}) for i, text in enumerate(texts)]
        (folder / "metadata.jsonl").write_text("\n".join(lines))
    elif form == "csv":
        (folder / "metadata.csv").write_text(
            "file_name,text\n" + "".join(f'{i}.png,"{t}"\n' for i, t in enumerate(texts))
        )
    else:
        for i, text in enumerate(texts):
            (folder / f"{i}.txt").write_text(text + "\n")
    pairs = data.Pairs(folder, networks)
    latents, captions = pairs.get([2, 0])
    assert captions == ["green", "a red thing"]
    assert latents.shape == (2, *networks.latent_shape)
    green = torch.tensor([0.0, 128 / 255, 0.0]).view(1, 3, 1, 1).expand(1, 3, 32, 32)
    torch.testing.assert_close(latents[:1], networks.encode(green))
    (folder / "0.png").unlink()
    assert torch.equal(pairs.get([0])[0], latents[1:])  # from memory


def test_bad_pairs_are_named(tmp_path, networks):
    with pytest.raises(OptionError, match="no folder"):
        data.Pairs(tmp_path / "nowhere", networks)
    (tmp_path / "empty").mkdir()
    with pytest.raises(OptionError, match="no images with captions"):
        data.Pairs(tmp_path / "empty", networks)
    (tmp_path / "empty" / "metadata.jsonl").write_text('{"file": "0.png"}\n')
    with pytest.raises(OptionError, match="needs file_name"):
        data.Pairs(tmp_path / "empty", networks)
    (tmp_path / "empty" / "metadata.jsonl").write_text('{"file_name": "0.png", "text": "a"}\n')
    with pytest.raises(OptionError, match=r"cannot read .*0\.png"):
        data.Pairs(tmp_path / "empty", networks)


def test_weights_say_how_often_each_comes_up_and_equal_ones_change_nothing():
    plain, equal = data.Order(10, 3, "pairs"), data.Order(10, 3, "pairs", [0.2] * 10)
    assert [plain.at(i) for i in range(30)] == [equal.at(i) for i in range(30)]
    weights = [0.0, 5.0, 1.0, 0.0, 2.5, 0.5, 1.0, 0.0]
    order = data.Order(8, 3, "pairs", weights)
    for epoch in range(50):
        counts = Counter(order.at(8 * epoch + i) for i in range(8))
        for i, weight in enumerate(weights):
            share = 8 * weight / sum(weights)
            assert math.floor(share) <= counts[i] <= math.ceil(share)
    many = Counter(order.at(i) for i in range(8000))
    assert all(many[i] == pytest.approx(8000 * w / sum(weights), abs=100) for i, w in enumerate(weights))
    assert [order.at(i) for i in range(16)] != [order.at(i) for i in range(16, 32)]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"prompts": 3}, "prompts come in a list"),
        ({"prompts": "a red book"}, "prompts come in a list"),
        ({"prompts": [3]}, "a prompt is text, not 3"),
        ({"held_out": "a red book"}, "held-out prompts come in a list"),
        ({"held_out": [None]}, "a prompt is text, not None"),
        ({"reward": 3}, "reward takes a plugin"),
        ({"out": 3}, "out takes a path"),
        ({"registry": 3}, "registry takes a Registry"),
        ({"names": 3}, "names takes a dict"),
    ],
)
def test_arguments_of_the_wrong_kind(make_trainer, given, message):
    with pytest.raises((OptionError, PromptError), match=message):
        make_trainer(**given)


# --- pairs as people have them: read whole, or refused at the start by file and line ----------------------------------


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "pairs"
    made.mkdir()
    for name in ("a.png", "b.bmp", "c.gif"):
        Image.new("RGB", (8, 8)).save(made / name)
    return made


def jsonl(folder, *rows):
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_tables_by_the_usual_names(folder):
    expected = (("a.png", "a red cup"), ("b.bmp", "a box, blue"))
    tables = {
        "metadata.jsonl": '\ufeff{"file_name": "a.png", "caption": "a red\\ncup"}\n{"file_name": "b.bmp", "caption": '
        '"a box, blue"}',
        "metadata.csv": "image;prompt\na.png;a red cup\n;\nb.bmp;a box, blue\n",
        "metadata.tsv": "file_name\ttext\r\na.png\ta red cup\r\nb.bmp\ta box, blue\r\n",
    }
    for name, content in tables.items():
        (folder / name).write_text(content)
        found = read_pairs(folder)
        assert found.pairs == expected
        column = {"metadata.jsonl": "caption", "metadata.csv": "prompt", "metadata.tsv": "text"}[name]
        assert found.summary == f"read 2 pairs from {folder / name}, column '{column}'"
        (folder / name).unlink()


def test_texts_beside_images(folder):
    (folder / "a.txt").write_text("\ufeffa red cup\non a table\n")
    (folder / "b.txt").write_text("a blue box")
    found = read_pairs(folder)
    assert found.pairs == (("a.png", "a red cup on a table"), ("b.bmp", "a blue box"))
    assert found.summary.endswith("; 1 image without a caption left out")


@pytest.mark.parametrize(
    "row, why",
    [
        ({"file_name": "a.png", "text": None}, "line 2 .*no text as its 'text', but null"),
        ({"file_name": "a.png", "text": ["a", "b"]}, "line 2 .*but a list"),
        ({"file_name": "a.png", "text": "  "}, "line 2 .*no caption"),
        ({"file_name": "a.png", "text": "a red \ud83d cup"}, "line 2 .*half a character"),
        ({"file_name": "a.png"}, "line 2 .*has no 'text'"),
        ({"file_name": "", "text": "a cup"}, "line 2 .*no file name"),
        ({"file_name": "z.png", "text": "a cup"}, r"line 2 .*z\.png.*no such file"),
        ({"file_name": "../out.png", "text": "a cup"}, "line 2 .*leads out of the folder"),
        ({"file_name": "..\\out.png", "text": "a cup"}, "line 2 .*leads out of the folder"),
        ({"file_name": "/etc/hostname", "text": "a cup"}, "line 2 .*leads out of the folder"),
        ({"file_name": "link.png", "text": "a cup"}, "line 2 .*leads out of the folder"),
        ({"file_name": "page.jpg", "text": "a cup"}, r"line 2 .*page\.jpg.*web page"),
        ({"file_name": "empty.png", "text": "a cup"}, r"line 2 .*empty\.png.*is empty"),
        ({"file_name": ".", "text": "a cup"}, "line 2 .*a folder"),
        ({"file_name": "a\0.png", "text": "a cup"}, "line 2 .*names no file"),
        ({"file_name": "a" * 5000, "text": "a cup"}, "line 2 .*File name too long"),
        ({"file_name": "loop.png", "text": "a cup"}, "line 2 "),
        ({"file_name": "a.png", "text": "NaN"}, "line 2 .*no text as its 'text', but NaN"),
    ],
)
def test_a_pair_that_cannot_be_used_is_named(folder, row, why):
    Image.new("RGB", (8, 8)).save(folder.parent / "out.png")
    (folder / "link.png").symlink_to(folder.parent / "out.png")
    (folder / "page.jpg").write_text("<html>")
    (folder / "empty.png").touch()
    (folder / "loop.png").symlink_to("loop.png")
    jsonl(folder, {"file_name": "a.png", "text": "a red cup"}, row)
    with pytest.raises(OptionError, match=why):
        read_pairs(folder)


def test_columns_that_are_not_there(folder):
    jsonl(folder, {"file_name": "a.png", "txt": "a red cup"})
    with pytest.raises(OptionError, match=r"no column 'text'.*Did you mean 'txt'.*needs file_name and text"):
        read_pairs(folder)


def test_a_table_without_a_header_is_told_so(folder):
    (folder / "metadata.csv").write_text("a.png,a red cup\nb.bmp,a box\n")
    with pytest.raises(OptionError, match=r"first line of '.*metadata\.csv' \('a\.png, a red cup'\) is no header"):
        read_pairs(folder)


@pytest.mark.parametrize(
    "names, places",
    [
        (("metadata.jsonl", "metadata.csv"), r"metadata\.jsonl, metadata\.csv\."),
        (("metadata.tsv", "a.txt"), r"metadata\.tsv, a\.txt\."),
        (("metadata.csv", "a.txt", "b.txt"), r"metadata\.csv, a\.txt and 1 more"),
    ],
)
def test_captions_in_several_places_are_refused(folder, names, places):
    for name in names:
        (folder / name).write_text('{"file_name": "a.png", "text": "a red cup"}\n')
    with pytest.raises(OptionError, match=f"captions in several places: {places}"):
        read_pairs(folder)


def test_other_texts_and_pictures_may_lie_beside_a_table(folder):
    jsonl(folder, {"file_name": "a.png", "text": "a red cup"})
    (folder / "README.txt").write_text("where they are from")
    (folder / "logo.svg").write_text("<svg/>")
    assert read_pairs(folder).pairs == (("a.png", "a red cup"),)


def test_a_caption_without_its_image_and_the_like(folder):
    (folder / "a.txt").write_text("a red cup")
    (folder / "z.txt").write_text("a blue box")
    with pytest.raises(OptionError, match=r"z\.txt' has no image"):
        read_pairs(folder)
    (folder / "z.txt").unlink()
    (folder / "b.txt").write_text(" \n")
    with pytest.raises(OptionError, match=r"b\.txt' is empty"):
        read_pairs(folder)
    (folder / "b.txt").write_text("None\n")
    with pytest.raises(OptionError, match=r"b\.txt' holds no caption, but None"):
        read_pairs(folder)
    (folder / "b.txt").write_bytes("a café".encode("latin-1"))
    with pytest.raises(OptionError, match=r"b\.txt' is no UTF-8"):
        read_pairs(folder)
    (folder / "b.txt").unlink()
    (folder / "secret").mkdir()
    (folder.parent / "key.txt").write_text("a key")
    (folder / "c.txt").symlink_to(folder.parent / "key.txt")
    with pytest.raises(OptionError, match=r"c\.txt' leads out"):
        read_pairs(folder)
    (folder / "c.txt").unlink()
    (folder / "d.heic").write_bytes(b"?")
    with pytest.raises(OptionError, match=r"d\.heic' is of a format that is not read"):
        read_pairs(folder)


def test_a_linked_folder_is_itself(folder):
    jsonl(folder, {"file_name": "a.png", "text": "a red cup"})
    (folder.parent / "link").symlink_to(folder)
    assert read_pairs(folder.parent / "link").pairs == (("a.png", "a red cup"),)
