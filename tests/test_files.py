"""A folder has one writer: the second is told who, and a killed one leaves nothing behind."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from realignkit.errors import OutputError
from realignkit.files import (
    LOCK,
    append_lines,
    atomic_folder,
    atomic_write,
    keep_lines,
    only_writer,
    read_lines,
    write_lines,
    writing,
)

HOLD = """
import sys, time
from realignkit.files import only_writer
with only_writer(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def holder(tmp_path: Path):
    """Another process that writes into ``tmp_path / 'run'`` until its standard input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "run")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_the_second_process_is_told_who_is_there(tmp_path: Path, holder):
    with pytest.raises(OutputError, match="is in use") as caught, only_writer(tmp_path / "run"):
        pass
    text = str(caught.value)
    assert f"process {holder.pid} on {socket.gethostname()} (since 2" in text
    assert "another folder" in text
    with only_writer(tmp_path / "another"):
        pass
    holder.communicate("\n")
    with only_writer(tmp_path / "run"):
        pass


def test_a_killed_process_leaves_no_lock(tmp_path: Path, holder):
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    assert (tmp_path / "run" / LOCK).exists()
    with only_writer(tmp_path / "run"):
        pass
    assert os.listdir(tmp_path / "run") == []  # the killed one had made it


def test_a_thread_may_nest_and_another_may_not_join(tmp_path: Path):
    errors: list[BaseException] = []

    def other():
        try:
            with only_writer(tmp_path):
                pass
        except OutputError as error:
            errors.append(error)

    with only_writer(tmp_path), only_writer(str(tmp_path) + "/"):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert f"process {os.getpid()}" in str(errors[0])
    with only_writer(tmp_path):
        pass


def test_a_writer_that_fails_leaves_no_lock(tmp_path: Path):
    with pytest.raises(KeyError), only_writer(tmp_path / "deep" / "run"):
        raise KeyError
    assert os.listdir(tmp_path) == []
    (tmp_path / "run").mkdir()
    with pytest.raises(KeyError), only_writer(tmp_path / "run"):
        raise KeyError
    assert os.listdir(tmp_path / "run") == []


def test_what_killed_writers_left_is_removed_and_a_moved_folder_put_back(tmp_path: Path):
    (tmp_path / ".index.jsonl.a1b2c3d4.tmp").write_text("half")
    (tmp_path / ".model.x_9a8b7c.tmp").mkdir()
    (tmp_path / ".model.old.tmp").mkdir()  # killed between moving the old one aside and the new one in
    (tmp_path / ".model.old.tmp" / "weights").write_text("w")
    (tmp_path / ".mine.tmp").write_text("somebody's")
    (tmp_path / "notes.tmp").write_text("somebody's")
    with only_writer(tmp_path):
        pass
    assert sorted(os.listdir(tmp_path)) == [".mine.tmp", "model", "notes.tmp"]
    assert (tmp_path / "model" / "weights").read_text() == "w"


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="choose another folder"), only_writer(tmp_path / "file"):
        pass


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"pid": "x"}'])
def test_a_damaged_note_of_the_holder_is_no_obstacle(tmp_path: Path, holder, damage: str):
    (tmp_path / "run" / ".realignkit.lock.json").write_text(damage)
    with pytest.raises(OutputError, match="another process writes there"), only_writer(tmp_path / "run"):
        pass


def test_a_folder_that_its_last_writer_removed_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = tmp_path / "deep" / "run"
    folder.mkdir(parents=True)
    writer = FileLock(folder / LOCK)
    writer.acquire()

    def end(seconds: float) -> None:  # while the second one waits
        monkeypatch.undo()
        (folder / LOCK).unlink()
        writer.release()
        shutil.rmtree(folder.parent)

    monkeypatch.setattr("time.sleep", end)
    with only_writer(folder):
        assert (folder / LOCK).exists()
    assert os.listdir(tmp_path) == []


# --- files and folders, whole or not at all ---------------------------------------------------------------------------


def test_failed_write_leaves_the_old_file_and_no_debris(tmp_path: Path):
    # The kernel's own limit on file size stands in for a full disk: write() fails half way.
    path = atomic_write(tmp_path / "file", "old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OutputError, match="cannot write") as caught:
            atomic_write(path, b"x" * 5000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.__cause__.errno == errno.EFBIG
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
def test_full_disk_is_named(tmp_path: Path):
    with (
        pytest.raises(OutputError, match="disk is full: free some space"),
        writing(tmp_path),
        open("/dev/full", "w") as f,
    ):
        f.write("x" * 100_000)


def test_files_get_the_usual_permissions(tmp_path: Path):
    umask = os.umask(0o027)
    try:
        path = atomic_write(tmp_path / "new" / "file", "text – ü")
    finally:
        os.umask(umask)
    assert path.read_bytes() == "text – ü".encode()
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_folder_appears_whole_and_replaces_the_old_one(tmp_path: Path):
    for number in (1, 2):
        with atomic_folder(tmp_path / "deep" / "folder") as new:
            (new / "sub").mkdir()
            (new / "sub" / f"{number}.txt").write_text("x")
            assert (tmp_path / "deep" / "folder").exists() == (number == 2)
    assert [path.name for path in (tmp_path / "deep" / "folder" / "sub").iterdir()] == ["2.txt"]
    assert os.listdir(tmp_path / "deep") == ["folder"]
    assert (tmp_path / "deep" / "folder").stat().st_mode & 0o055 == 0o055 & ~_umask()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_failed_folder_leaves_the_old_one_and_no_debris(tmp_path: Path):
    with atomic_folder(tmp_path / "folder") as new:
        (new / "old.txt").write_text("old")
    with pytest.raises(KeyError), atomic_folder(tmp_path / "folder") as new:
        (new / "new.txt").write_text("new")
        raise KeyError
    assert os.listdir(tmp_path / "folder") == ["old.txt"]
    assert os.listdir(tmp_path) == ["folder"]
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="choose another folder"), atomic_folder(tmp_path / "file" / "folder"):
        pass


def test_full_disk_is_named_when_safetensors_meets_it(tmp_path: Path):
    from safetensors.numpy import save_file

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OutputError, match="cannot write"), atomic_folder(tmp_path / "folder") as new:
            save_file({"x": np.zeros(5000)}, new / "x.safetensors")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert os.listdir(tmp_path) == []


# --- lines ----------------------------------------------------------------------------------------------------------


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
    rows, lost = read_lines(path)
    assert (len(rows), lost) == (whole, torn)
    assert content is None or path.read_bytes() == content


def test_lines_are_added_and_one_that_was_cut_off_goes_first(tmp_path: Path):
    path = tmp_path / "a.jsonl"
    append_lines(path, [])
    assert not path.exists()
    append_lines(path, [{"n": 1}, {"n": 2, "text": "für"}])
    path.write_bytes(path.read_bytes()[:-6])
    append_lines(path, [{"n": 3, "name": "half \udce9"}])
    assert read_lines(path) == ([{"n": 1}, {"n": 3, "name": "half \udce9"}], 0)
    with pytest.raises(OutputError, match="Empty the bin"):
        append_lines(tmp_path, [{"n": 1}], "Empty the bin.")


def test_lines_that_are_not_wanted_or_damaged_are_taken_out(tmp_path: Path):
    path = tmp_path / "a.jsonl"
    assert keep_lines(path) == 0
    assert not path.exists()
    write_lines(path, ({"n": n} for n in range(4)))
    before = path.stat().st_ino
    assert keep_lines(path) == 0
    assert path.stat().st_ino == before  # nothing to do, nothing is written
    path.write_bytes(path.read_bytes().replace(b'{"n": 1}', b"{") + b'{"n"')
    assert keep_lines(path, lambda row: row["n"] != 2) == 2
    assert read_lines(path) == ([{"n": 0}, {"n": 3}], 0)
