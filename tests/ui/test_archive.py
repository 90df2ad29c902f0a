"""Run folders as zip files, and by name."""

from __future__ import annotations

import io
import zipfile

import pytest

from realignkit.errors import OptionError, OutputError
from realignkit.realignment import Realignment
from realignkit.ui import archive as module
from realignkit.ui.archive import Runs, archive, name_of, read_archive

PROMPT = "a red book and a yellow pen"


@pytest.fixture
def realignment(realigner):
    return realigner(PROMPT, 3)


def zipped(path, **files):
    with zipfile.ZipFile(path, "w") as file:
        for name, data in files.items():
            file.writestr(name, data)
    return path


def test_an_archive_is_the_folder_that_run_writes(realignment, tmp_path, cli):
    path = tmp_path / "run.zip"
    path.write_bytes(archive(realignment, 2))
    assert read_archive(path) == realignment
    with zipfile.ZipFile(path) as file:
        file.extractall(tmp_path)
    unpacked = tmp_path / name_of(realignment, 2)
    assert unpacked.name == "a-red-book-and-a-yellow-pen-s3-2"
    assert Realignment.load(unpacked) == realignment
    result = cli("run", PROMPT, "--model", "tiny", "--seed", 3, "--out", tmp_path / "run", "--threads", 1)
    assert result.exit_code == 0, result.output
    names = [{str(p.relative_to(f)) for p in f.rglob("*") if p.is_file()} for f in (unpacked, tmp_path / "run")]
    assert names[0] == {name for name in names[1] if not name.startswith(".")}


def test_nothing_but_a_run_is_unpacked(realignment, tmp_path):
    path = tmp_path / "run.zip"
    path.write_bytes(archive(realignment))
    with zipfile.ZipFile(path, "a") as file:
        for name in ("../../escaped.txt", "/tmp/escaped.txt", "a-red-book-and-a-yellow-pen-s3/../escaped.txt"):
            file.writestr(name, "out")
    assert read_archive(path) == realignment
    assert not list(tmp_path.rglob("escaped.txt"))


def test_what_is_no_run_is_refused_in_words(realignment, tmp_path, monkeypatch):
    bad = tmp_path / "bad.zip"
    bad.write_text("no zip")
    with pytest.raises(OptionError, match="this is no zip file"):
        read_archive(bad)
    with pytest.raises(OptionError, match="holds 0 run folders"):
        read_archive(zipped(tmp_path / "none.zip", note="x"))
    monkeypatch.setattr(module, "LARGEST", 1000)
    path = tmp_path / "run.zip"
    path.write_bytes(archive(realignment))
    with pytest.raises(OptionError, match="unpacks to more than"):
        read_archive(path)


def test_runs_are_opened_by_name_and_by_nothing_else(realignment, tmp_path):
    runs = Runs(tmp_path / "runs")
    assert runs.names() == []
    realignment.save(tmp_path / "runs" / "mine")
    realignment.save(tmp_path / "elsewhere")
    (tmp_path / "runs" / "link").symlink_to(tmp_path / "elsewhere")
    assert runs.names() == ["mine"]
    assert runs.read("mine") == realignment
    for name in ("../elsewhere", "link", str(tmp_path / "elsewhere"), ""):
        with pytest.raises(OutputError, match="there is no run"):
            runs.read(name)


def test_an_encrypted_or_odd_archive_is_a_sentence(tmp_path):
    data = bytearray(io.BytesIO(zipped(tmp_path / "a.zip", **{"realignment.json": "{}"}).read_bytes()).getvalue())
    data[6] |= 1  # says that it is encrypted
    data[data.index(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "b.zip").write_bytes(data)
    with pytest.raises(OptionError, match="this is no zip file that can be read"):
        read_archive(tmp_path / "b.zip")
