"""Files and folders that are there whole or not at all, lines that are added, and one writer per folder.

A second process is told who is there, and one that died leaves nothing to remove: the lock is the operating system's
(:mod:`filelock`: ``flock``, or its like on Windows), so it ends with its process, however that ends. On NFS it holds
between machines as well, as far as the server keeps locks.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
import socket
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from realignkit.errors import DamagedError, OutputError
from realignkit.parsing import parse_json

_DEBRIS = re.compile(r"\.(.+)\.(old|[a-z0-9_]{8})\.tmp")
"""What atomic writers name what they have not finished, and the folder that they are about to replace."""

_REMEDIES = {
    errno.ENOSPC: "The disk is full: free some space and run the same command again.",
    errno.EDQUOT: "Your disk quota is used up: free some space and run the same command again.",
    errno.ENOTDIR: "A part of the path is a file: choose another folder.",
    errno.EEXIST: "A file is in the way: choose another folder or remove it.",
    errno.EACCES: "You may not write there: choose another folder or change its permissions.",
    errno.EPERM: "You may not write there: choose another folder or change its permissions.",
    errno.EROFS: "The file system is read-only: choose another folder.",
    errno.ENAMETOOLONG: "The name is too long: choose a shorter one.",
}

LOCK, HOLDER = ".realignkit.lock", ".realignkit.lock.json"

_held: set[tuple[int, int, str]] = set()
"""(process, thread, folder) of what is locked here: whoever holds a folder may take it again."""


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """What the system refuses while ``path`` is written, as an :class:`OutputError` that says what to do."""
    try:
        yield
    except OSError as error:
        remedy = _REMEDIES.get(error.errno or 0, "Choose another folder.")
        raise OutputError(f"cannot write {path}: {error.strerror or error}. {remedy}") from error


def make_folder(folder: Path) -> Path:
    """Make ``folder`` and its parents where missing.

    Raises:
        OutputError: it cannot be made, or is a file.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


def atomic_write(path: str | Path, data: bytes | str) -> Path:
    """Write a file so that a reader, or a crash, sees all of it or nothing. Text is written as UTF-8.

    Raises:
        OutputError: the file cannot be written; what was there before is untouched.
    """
    path = Path(path)
    content = data.encode() if isinstance(data, str) else data
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        # In the same folder, because a rename is only atomic within one file system.
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            _apply_umask(name)
            os.replace(name, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(name)
            raise
    return path


@contextlib.contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Fill a folder so that a reader, or a crash, sees all of it or nothing: yields a folder to write into.

    What was at ``path`` is replaced once the new one is complete.

    Raises:
        OutputError: it cannot be written; what was there before is untouched.
    """
    path = Path(path)
    old = path.with_name(f".{path.name}.old.tmp")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        new = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent))
        try:
            try:
                yield new
            except Exception as error:
                if (number := _os_error_number(error)) is None:
                    raise
                raise OSError(number, os.strerror(number)) from error
            for file in (*new.rglob("*"), new):
                _sync(file)
            _apply_umask(str(new), 0o777)
            shutil.rmtree(old, ignore_errors=True)
            if path.exists():  # no system call replaces a full folder; for an instant there is none
                os.replace(path, old)
            os.replace(new, path)
            shutil.rmtree(old, ignore_errors=True)
        except BaseException:
            shutil.rmtree(new, ignore_errors=True)
            raise


def sweep(folder: Path) -> None:
    """Remove what killed atomic writers left directly in ``folder``; nobody else may be writing there.

    A folder that was moved aside when its replacement never came is put back.
    """
    for path in folder.iterdir():
        if match := _DEBRIS.fullmatch(path.name):
            place = folder / match[1]
            with contextlib.suppress(OSError):
                if match[2] == "old" and not place.exists():
                    os.replace(path, place)
                elif path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink()


def _os_error_number(error: Exception) -> int | None:
    # safetensors, written in Rust, reports a full disk as text: "… (os error 28)".
    match = re.search(r"\(os error (\d+)\)", str(error)) if type(error).__name__ == "SafetensorError" else None
    return int(match[1]) if match else None


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _apply_umask(name: str, most: int = 0o666) -> None:
    # mkstemp makes private files; results should be as readable as any file the user writes.
    umask = os.umask(0)
    os.umask(umask)
    os.chmod(name, most & ~umask)


def read_lines(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The JSON objects of a ``.jsonl`` file, one a line, and how many lines are none.

    A writer that was killed leaves its last line cut off; a disk that failed, any line. A missing file has no lines.
    The file is left as it is, because somebody may be writing it.

    Raises:
        DamagedError: it cannot be read at all.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return [], 0
    except OSError as error:
        raise DamagedError(f"{path} cannot be read: {error.strerror or error}") from error
    rows, torn = [], int(bool(lines.pop()))  # what follows the last line end was never finished
    for line in lines:
        try:
            row = parse_json(line)
        except ValueError:
            row = None
        if isinstance(row, dict):
            rows.append(row)
        else:
            torn += 1
    return rows, torn


def write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a ``.jsonl`` file, all of it or nothing.

    Raises:
        OutputError: it cannot be written; what was there before is untouched.
    """
    atomic_write(path, _lines(rows))


def append_lines(
    path: Path, rows: Iterable[Mapping[str, Any]], advice: str = "Free some space and run the same command again."
) -> None:
    """Add to a ``.jsonl`` file: on the disk when this returns. A last line that was cut off goes first.

    Args:
        path: the file; made where missing.
        rows: JSON values; without any, nothing is written.
        advice: what to do where the disk refuses, a sentence.

    Raises:
        OutputError: they cannot be written.
    """
    data = _lines(rows)
    if not data:
        return
    if not _ends_whole(path):
        keep_lines(path)
    try:
        with path.open("ab") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}. {advice}") from error


def keep_lines(path: Path, wanted: Callable[[Mapping[str, Any]], bool] = lambda row: True) -> int:
    """Take out of a ``.jsonl`` file what is damaged or not ``wanted``, before it is gone on with.

    Returns:
        How many lines were damaged.

    Raises:
        DamagedError: it cannot be read at all.
        OutputError: it cannot be written.
    """
    rows, torn = read_lines(path)
    kept = [row for row in rows if wanted(row)]
    if torn or len(kept) < len(rows):
        write_lines(path, kept)
    return torn


def _lines(rows: Iterable[Mapping[str, Any]]) -> bytes:
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    return text.encode(errors="backslashreplace")  # half a character, as a file's name may hold, as JSON escapes it


def _ends_whole(path: Path) -> bool:
    """Whether a file is missing, empty, or ends with a line end."""
    if not path.is_file() or not path.stat().st_size:
        return True
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read() == b"\n"


@contextlib.contextmanager
def only_writer(folder: str | Path) -> Iterator[Path]:
    """Be the only one that writes into ``folder``, for the while.

    The folder is made where missing, and gone again if nothing came of it. The same thread may nest this. What killed
    writers left half-written is removed first.

    Raises:
        OutputError: somebody else writes there (the message says who), or the folder cannot be written.
    """
    folder = Path(folder)
    made = _make(folder)
    key = (os.getpid(), threading.get_ident(), os.path.realpath(folder))
    if key in _held:
        yield folder
        return
    from filelock import FileLock, SoftFileLock, Timeout

    lock = FileLock(folder / LOCK, timeout=0.5)  # who has just ended may still be cleaning up
    try:
        try:
            lock.acquire()
        except FileNotFoundError:  # who has just ended has removed the folder as well
            made = _make(folder)
            lock.acquire()
    except Timeout:
        raise OutputError(
            f"{folder} is in use: {_holder(folder)} writes there. Wait until it has ended, stop it, or use another "
            f"folder."
        ) from None
    except OSError as error:
        raise OutputError(
            f"{folder} cannot be locked against a second writer: {error.strerror or error}. Use a folder that you may "
            f"write to, on a file system that has locks."
        ) from error
    _held.add(key)
    try:
        sweep(folder)
        since = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
        record = {"pid": os.getpid(), "host": socket.gethostname(), "since": since}
        atomic_write(folder / HOLDER, json.dumps(record) + "\n")
        yield folder
    finally:
        _held.discard(key)
        # While the lock is held: who has opened the file and waits for it sees that its name is gone. Windows removes
        # no open file, so there it is done afterwards.
        _remove(folder / HOLDER)
        if not isinstance(lock, SoftFileLock):
            _remove(folder / LOCK)
        lock.release()
        if os.name == "nt":
            _remove(folder / LOCK)
        with contextlib.suppress(OSError):  # as a rule, it is not empty
            for path in made:
                path.rmdir()


def _make(folder: Path) -> list[Path]:
    """Make a folder; the paths that were missing, the deepest first."""
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    make_folder(folder)
    return made


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()


def _holder(folder: Path) -> str:
    """Who has the lock, in words."""
    try:
        record = json.loads((folder / HOLDER).read_text(encoding="utf-8"))
        return f"process {int(record['pid'])} on {str(record['host'])[:80]} (since {str(record['since'])[:40]})"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
