"""One writer per folder: a second process is told who is there, and a process that died leaves nothing to remove.

The lock is the operating system's (:mod:`filelock`: ``flock``, or its like on Windows), so it ends with its process,
however that ends. On NFS it holds between machines as well, as far as the server keeps locks.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from realignkit.errors import OutputError
from realignkit.realignment import atomic_write, make_folder, sweep

LOCK, HOLDER = ".realignkit.lock", ".realignkit.lock.json"

_held: set[tuple[int, int, str]] = set()
"""(process, thread, folder) of what is locked here: whoever holds a folder may take it again."""


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
        found = json.loads((folder / HOLDER).read_text(encoding="utf-8"))
        return f"process {int(found['pid'])} on {str(found['host'])[:80]} (since {str(found['since'])[:40]})"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
