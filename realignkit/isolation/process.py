"""A worker in another environment, seen from here: started at first use, asked in turn, never left behind."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import IO, Any

from realignkit import errors
from realignkit.errors import ModelError, PluginError, RealignKitError, hidden_in, memory_error, out_of_memory, said_by
from realignkit.isolation import worker
from realignkit.isolation.environments import Environment
from realignkit.machine import VARIABLES

_LOOK = 0.2
"""Seconds between two looks whether a worker that computes is still there."""
_SHARED = Path("/dev/shm")
"""Memory as files, where the system has it."""
_ROOM = 2**30
"""Bytes free in there from which on it is used: a container may have next to none."""


class Process:
    """A program in an environment; see :mod:`realignkit.isolation.worker`.

    Args:
        environment: whose interpreter runs it.
        program: the file.
        attribute: of the file, called with the options.
        options: JSON values.
        timeout: seconds that an answer may take, the first one, which loads the program, included.
        whose: the plugin, as messages call it ("reward 'clip'"); "": they name the environment, and the program.
        secrets: what no message may show of what the program says.

    Attributes:
        starts: how many workers it has had. What one of them remembered is gone with it.
    """

    def __init__(
        self,
        environment: Environment,
        program: Path,
        attribute: str,
        options: Mapping[str, Any],
        timeout: float,
        whose: str = "",
        secrets: Sequence[str] = (),
    ) -> None:
        self._environment, self._program, self._attribute = environment, program, attribute
        self._options, self._timeout, self.starts = dict(options), timeout, 0
        self._worker = f"the worker of {whose}" if whose else f"the worker in environment '{environment.name}'"
        self._author = f"the author of {whose or program.name}"
        self._secrets, self._lock = tuple(secrets), threading.RLock()
        self._running: _Running | None = None

    def ask(self, method: str, **arguments: Any) -> Any:
        """What a method of the program says; ``call`` is calling it. Arrays go and come as numpy's.

        Raises:
            PluginError: the program fails, ends, or does not answer in time. The next question starts it anew.
            ModelError: it runs out of memory.
        """
        with self._lock:
            if self._running is None:
                self._running = _Running(self._environment, self._program, self._attribute)
                self.starts += 1
                self._send(self._running, self._options)
                self._answer(self._running)  # that the program is loaded
                self._running.loaded = True
            running = self._running
            self._send(running, {"method": method, "arguments": arguments})
            return self._answer(running)

    def close(self) -> None:
        """End the worker, if there is one."""
        with self._lock:
            if self._running is not None:
                self._running.end()
                self._running = None

    def _send(self, running: _Running, message: Mapping[str, Any]) -> None:
        try:
            running.channel.send(message)
        except ConnectionError:
            raise self._ended(running) from None
        except OSError as error:
            self.close()
            raise PluginError(
                f"{self._worker} cannot be asked: {error}. What goes there lies in {running.memory}: make room, "
                f"or name another folder by TMPDIR."
            ) from None

    def _answer(self, running: _Running) -> Any:
        until = time.monotonic() + self._timeout
        try:
            while not running.channel.connection.poll(_LOOK):
                if running.process.poll() is not None and not running.channel.connection.poll(0):
                    raise self._ended(running)
                if time.monotonic() > until:
                    self.close()
                    raise PluginError(
                        f"{self._worker} did not answer within {self._timeout:g} s, and was ended. Give it longer "
                        f"(option timeout), or less to do at once."
                    )
            answer = running.channel.receive()
        except (EOFError, OSError):
            raise self._ended(running) from None
        except BaseException:
            self.close()  # interrupted half-way: its answer would be taken for the next one's
            raise
        if "error" in answer:
            raise self._failed(running, answer)
        return answer["result"]

    def _failed(self, running: _Running, answer: Mapping[str, Any]) -> Exception:
        kind, message = answer["error"], answer["message"]
        cause = type(kind, (RuntimeError,), {})(message)
        if kind == "MemoryError" or out_of_memory(cause):
            self.close()
            return memory_error(self._worker, cause)
        if not running.loaded:
            self.close()
        if (ours := _ours(kind, message, answer["details"])) is not None:
            return ours
        said = said_by(kind, cause, self._secrets)
        return PluginError(f"{self._worker} failed: {said}. Choose another plugin, or tell {self._author}.")

    def _ended(self, running: _Running) -> PluginError:
        with contextlib.suppress(subprocess.TimeoutExpired):
            running.process.wait(5)
        code, words = running.process.poll(), hidden_in(running.last_words(), self._secrets)
        self.close()
        killed = signal.Signals(-code).name if code is not None and code < 0 else ""
        how = f"was killed ({killed})" if killed else f"ended (exit code {code})"
        why = " Where memory runs out the system does that: take fewer images at once." if killed == "SIGKILL" else ""
        said = f": {words}" if words and not killed else ""
        return PluginError(
            f"{self._worker} {how} before it had answered{said}.{why} What is finished is kept; the same command goes "
            f"on."
        )


class _Running:
    """The process, and what is shared with it; gone with whoever holds this, and with this process, however it ends."""

    def __init__(self, environment: Environment, program: Path, attribute: str) -> None:
        if not hasattr(os, "killpg"):
            raise ModelError("plugins in processes of their own need Linux or macOS, and this is neither.")
        self.loaded = False
        shared = os.access(_SHARED, os.W_OK) and shutil.disk_usage(_SHARED).free > _ROOM
        self.memory = _SHARED if shared else Path(tempfile.gettempdir())
        # Files without a name: however and whenever the processes end, nothing is left of them.
        self._files = [tempfile.TemporaryFile(dir=self.memory) for _ in range(3)]  # noqa: SIM115 - _end closes them
        self._log, questions, answers = (file.fileno() for file in self._files)
        ours, theirs = socket.socketpair()
        variables = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
        descriptors = (theirs.fileno(), answers, questions)
        arguments = (*descriptors, program, attribute)  # not the options: others can read these
        command = [str(each) for each in (environment.python, worker.__file__, *arguments)]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,  # held open: its end tells the worker that we are gone
            stdout=self._log,
            stderr=self._log,
            env={**variables, "PYTHONUNBUFFERED": "1", **_threads()},
            pass_fds=descriptors,
            process_group=0,  # with what the program starts, which ends with it
        )
        theirs.close()
        connection = Connection(ours.detach())
        self.channel = worker.Channel(connection, questions, answers)
        self.end = weakref.finalize(self, _end, self.process, connection, self._files)

    def last_words(self) -> str:
        """The last line that the worker has printed."""
        text = os.pread(self._log, os.fstat(self._log).st_size, 0).decode("utf-8", errors="replace")
        return next((line.strip()[:300].rstrip(".") for line in reversed(text.split("\n")) if line.strip()), "")


def _ours(kind: str, message: str, details: Mapping[str, Any]) -> RealignKitError | None:
    """The error as it would be raised here, where it is one of ours."""
    cls = getattr(errors, kind, None)
    if not (isinstance(cls, type) and issubclass(cls, RealignKitError)):
        return None
    error = cls.__new__(cls, message)
    error.args = (message,)
    vars(error).update(details)
    return error


def _threads() -> dict[str, str]:
    """Variables by which a worker computes with as many threads as this process does."""
    torch = sys.modules.get("torch")
    return {} if torch is None else dict.fromkeys(VARIABLES, str(torch.get_num_threads()))


def _is_taken(pid: int) -> bool:
    """Whether a process has this number: one that has ended lends it to nobody while its group has members."""
    try:
        os.getpgid(pid)
    except ProcessLookupError:
        return False
    return True


def _end(process: subprocess.Popen[bytes], connection: Connection, files: Sequence[IO[bytes]]) -> None:
    with contextlib.suppress(OSError):
        connection.close()
    with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS refuses a group of zombies
        if process.returncode is None or not _is_taken(process.pid):
            os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if process.stdin is not None:
        process.stdin.close()
    for file in files:
        file.close()
