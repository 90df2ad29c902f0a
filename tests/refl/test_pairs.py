"""Image-caption pairs as people have them: read whole, or refused at the start by file and line."""

import json

import pytest
from PIL import Image

from realignkit.errors import OptionError
from realignkit.refl.pairs import read_pairs


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
