from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import load_file, save

from realignkit.errors import DamagedError
from realignkit.integrity import check_file, check_manifest, read_lines, seal, sealed_notes, write_manifest


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


@pytest.mark.parametrize(
    ("content", "whole", "torn"),
    [
        (b'{"a": 1}\n{"a": 2}\n', 2, 0),
        (b'{"a": 1}\n{"a": 2', 1, 1),
        (b'{"a": 1}\n{"a": 2}', 1, 1),  # its line end is missing: more may have been meant to follow
        (b'{"a": 1}\n\xe2\x80', 1, 1),
        (b'{"a": 1}\n\0\0\0\0\n{"a": 3}\n', 2, 1),
        (b'{"a": "\xe2\x80\xa8"}\n', 1, 0),  # U+2028 is no line end
        (b'{"a": 1}\n[]\n\n', 1, 2),
        (b"", 0, 0),
        (None, 0, 0),
    ],
)
def test_lines_that_are_whole_are_read_and_the_file_is_left_alone(tmp_path: Path, content, whole: int, torn: int):
    path = tmp_path / "rows.jsonl"
    if content is not None:
        path.write_bytes(content)
    found, lost = read_lines(path)
    assert (len(found), lost) == (whole, torn)
    assert content is None or path.read_bytes() == content


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
    found = load_file(path)
    assert all(np.array_equal(found[name], tensor) for name, tensor in tensors.items())
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
