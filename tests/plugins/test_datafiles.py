from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from realignkit.errors import OptionError
from realignkit_plugins.datafiles import DataFile

CONTENT = b"a red book\n"
FILE = DataFile(
    "made_up.txt",
    "the prompts of nobody",
    "https://example.org/made_up.txt",
    sha256=(hashlib.sha256(CONTENT).hexdigest(),),
)


@pytest.fixture(autouse=True)
def _no_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REALIGNKIT_DATA", raising=False)


def placed(folder: Path, content: bytes = CONTENT) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FILE.name).write_bytes(content)
    return folder / FILE.name


def test_a_path_is_the_file_or_a_folder_that_has_it(tmp_path: Path):
    path = placed(tmp_path / "data")
    other = tmp_path / "called-otherwise.txt"
    other.write_bytes(CONTENT)
    assert FILE.find(path) == FILE.find(str(tmp_path / "data")) == path
    assert FILE.find(other) == other
    with pytest.raises(OptionError, match=r"there is no file '.*none.txt'. Check the path, or get made_up.txt from"):
        FILE.find(tmp_path / "none.txt")
    (tmp_path / "empty").mkdir()
    with pytest.raises(OptionError, match=r"holds no made_up.txt"):
        FILE.find(tmp_path / "empty")


def test_the_folder_that_the_environment_names_is_looked_in_and_the_folders_in_it(tmp_path: Path, monkeypatch):
    message = FILE.missing()
    assert message == (
        "the prompts of nobody is not on this machine: get made_up.txt from https://example.org/made_up.txt, and give "
        "its path as path, or put it into the folder that REALIGNKIT_DATA names."
    )
    with pytest.raises(OptionError, match="is not on this machine"):
        FILE.find()
    monkeypatch.setenv("REALIGNKIT_DATA", str(tmp_path))
    with pytest.raises(OptionError, match="is not on this machine"):
        FILE.find()
    below = placed(tmp_path / "nobody")
    assert FILE.find() == below
    assert FILE.missing() == ""
    nearer = placed(tmp_path)
    assert FILE.find() == nearer
    monkeypatch.setenv("REALIGNKIT_DATA", str(nearer))
    with pytest.raises(OptionError, match=r"REALIGNKIT_DATA is '.*', which is no folder"):
        FILE.find()


def test_content_is_held_against_what_is_published(tmp_path: Path):
    assert FILE.check(placed(tmp_path)) == tmp_path / FILE.name
    with pytest.raises(OptionError, match=r"is not made_up.txt as it is published: its SHA-256 is [0-9a-f]{12}…, not"):
        FILE.check(placed(tmp_path, b"another"))


def test_a_file_on_the_hub_is_asked_for_last_and_its_absence_explained(tmp_path: Path, monkeypatch):
    asked = []

    def download(repository, file, repo_type):
        asked.append((repository, file, repo_type))
        if file == "lost.txt":
            raise ConnectionError("no network")
        return str(placed(tmp_path))

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    on_hub = DataFile("made_up.txt", "the prompts of nobody", "the hub", hub="datasets/some/prompts:made_up.txt")
    assert on_hub.missing() == ""
    assert on_hub.find() == tmp_path / FILE.name
    assert FILE.find("some/model:made_up.txt") == tmp_path / FILE.name
    assert asked == [("some/prompts", "made_up.txt", "dataset"), ("some/model", "made_up.txt", "model")]
    with pytest.raises(OptionError, match=r"\(some/model:lost.txt\) cannot be had .*the hub cannot be reached"):
        FILE.find("some/model:lost.txt")
