"""JSON read as what it should be."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydantic import Field
from safetensors import safe_open
from safetensors.numpy import load_file, save

from realignkit.errors import DamagedError, OutputError
from realignkit.records import (
    Format,
    Share,
    Text,
    Written,
    as_written,
    check_file,
    check_manifest,
    read_json,
    seal,
    sealed_notes,
    write_manifest,
)


@pytest.mark.parametrize("content", [b"[1]", b'"text"', b"null", b"\xff\xfe{}", b"", b'{"a": NaN}'])
def test_a_file_that_is_no_object_is_damaged(tmp_path, content):
    (tmp_path / "record.json").write_bytes(content)
    with pytest.raises(DamagedError, match=r"record\.json .*\. Draw it again\.$"):
        read_json(tmp_path / "record.json", "Draw it again.")


def test_a_byte_order_mark_is_seen_through(tmp_path):
    (tmp_path / "record.json").write_bytes(b"\xef\xbb\xbf" + json.dumps({"a": "\u00e9"}).encode())
    assert read_json(tmp_path / "record.json") == {"a": "\u00e9"}


def test_a_file_that_is_not_there_is_not_called_damaged(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "record.json")


class Thing(Written):
    name: Text
    share: Share = 0.5
    sizes: tuple[int, int] = (1, 1)
    count: int = Field(1, ge=1)
    done: bool = False


@pytest.mark.parametrize(
    ("record", "place"),
    [
        ({}, "name: is missing"),
        ({"name": ""}, "name: is empty"),
        ({"name": " "}, "name: is not of the form that it should have"),
        ({"name": 1}, "name: is no text (a string)"),
        ({"name": "x", "share": "0.5"}, "share: is no number"),
        ({"name": "x", "share": 1.01}, "share: is too large"),
        ({"name": "x", "share": float("nan")}, "share: is no finite number"),
        ({"name": "x", "sizes": [1]}, "sizes.1: is missing"),
        ({"name": "x", "sizes": [1, 2.5]}, "sizes.1: is no whole number (an integer)"),
        ({"name": "x", "count": True}, "count: is no whole number (an integer)"),
        ({"name": "x", "done": "false"}, "done: is neither true nor false (a boolean)"),
        ({"name": "x", "other": 1}, "other: is not known"),
    ],
)
def test_the_first_value_that_is_wrong_is_named(tmp_path, record, place):
    with pytest.raises(DamagedError, match=rf"record\.json is damaged \({re.escape(place)}\)\. Make it again"):
        as_written(Thing, record, tmp_path / "record.json")


def test_what_was_written_is_read(tmp_path):
    thing = as_written(Thing, {"name": "x", "share": 1, "sizes": [3, 4]}, tmp_path / "record.json")
    assert (thing.name, thing.share, thing.sizes, thing.done) == ("x", 1.0, (3, 4), False)


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.png", b""),
        ("a.png", b"\x89PNG\r\n"),
        ("report.html", b""),
        ("report.html", b"<html><body>cut"),
        ("a.txt", b" \n"),
        ("gone", None),
    ],
)
def test_files_that_are_cut_off(tmp_path: Path, name: str, content: bytes | None):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DamagedError, match=name):
        check_file(tmp_path / name)


def test_files_that_are_whole(tmp_path: Path):
    Image.new("RGB", (40, 30), "red").save(tmp_path / "a.png")
    (tmp_path / "report.html").write_text("<html></html>\n")
    check_file(tmp_path / "a.png")
    check_file(tmp_path / "report.html")
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:60])
    with pytest.raises(DamagedError):
        check_file(tmp_path / "a.png")


def test_a_flipped_bit_in_a_folder_is_found(tmp_path: Path):
    (tmp_path / "sub").mkdir()
    for name in ("one", "sub/two"):
        (tmp_path / name).write_bytes(bytes(range(200)))
    with pytest.raises(DamagedError, match=r"manifest\.json"):
        check_manifest(tmp_path)
    write_manifest(tmp_path)
    check_manifest(tmp_path)
    (tmp_path / "beside").write_text("not ours")
    check_manifest(tmp_path)
    flip(tmp_path / "sub" / "two", 77)
    with pytest.raises(DamagedError, match="content of sub/two"):
        check_manifest(tmp_path)
    flip(tmp_path / "sub" / "two", 77)
    (tmp_path / "one").write_bytes(b"short")
    with pytest.raises(DamagedError, match="one has 5 bytes, not 200"):
        check_manifest(tmp_path)
    (tmp_path / "one").unlink()
    with pytest.raises(DamagedError, match="one"):
        check_manifest(tmp_path)
    for text in ("", "[]", "{}", '{"files": 3}', '{"files": {"one": 3}}'):
        (tmp_path / "manifest.json").write_text(text)
        with pytest.raises(DamagedError):
            check_manifest(tmp_path)


def test_sealed_weights_are_read_by_everybody_and_know_when_they_were_changed(tmp_path: Path):
    tensors = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(5, np.float16)}
    path = tmp_path / "weights.safetensors"
    path.write_bytes(seal(save(tensors, metadata={"format": "pt"}), {"iteration": "7"}))
    loaded = load_file(path)
    assert all(np.array_equal(loaded[name], tensor) for name, tensor in tensors.items())
    with safe_open(path, "np") as file:
        assert file.metadata()["format"] == "pt"
    assert sealed_notes(path)["iteration"] == "7"
    flip(path, -3)
    with pytest.raises(DamagedError, match="not what was written"):
        sealed_notes(path)
    path.write_bytes(path.read_bytes()[:30])
    with pytest.raises(DamagedError):
        sealed_notes(path)
    path.write_bytes(save(tensors))  # somebody else's, with nothing to hold it against
    assert sealed_notes(path) == {}
    with pytest.raises(DamagedError):
        sealed_notes(tmp_path / "gone")


class Count(Written):
    count: int


COUNT = Format("test.count", 3, "count", Count, damaged="Count again.", foreign="Count elsewhere.")


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ('{"format": "test.count", "version": 3, "count": 2}', None, ""),
        ('{"format": "test.count", "version": 2, "count": 2}', OutputError, r"is no count .* Count elsewhere\."),
        ('{"format": "other", "version": 3, "count": 2}', OutputError, r"is no count .* Count elsewhere\."),
        ('{"format": "test.count", "version": 3}', DamagedError, r"count: .* Count again\."),
        ('{"format": "test.count", "version": 3, "count": "2"}', DamagedError, r"count: .* Count again\."),
        ("[]", DamagedError, r"no JSON object\. Count again\."),
    ],
)
def test_records_say_what_they_are(tmp_path: Path, text, error, message):
    path = tmp_path / "count.json"
    path.write_text(text)
    if error is None:
        assert COUNT.read(path)["count"] == 2
        path.write_text(COUNT.dumps({"count": 5}))
        assert COUNT.read(path) == {"format": "test.count", "version": 3, "count": 5}
        return
    with pytest.raises(error, match=message):
        COUNT.read(path)


def test_a_record_that_is_missing_is_the_callers_to_tell(tmp_path: Path):
    with pytest.raises(FileNotFoundError):
        COUNT.read(tmp_path / "count.json")
