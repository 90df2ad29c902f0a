"""However a worker ends there is one message, nothing is left behind, and the next question starts it anew."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import namedtuple
from multiprocessing.connection import Connection
from types import SimpleNamespace

import numpy as np
import pytest

from realignkit import PluginError
from realignkit.errors import ModelError
from realignkit.isolation import environments
from realignkit.isolation.process import Process, _end
from tests.conftest import HANGS, ROOT

CODE = """
import os, sys, time

class Plugin:
    def __call__(self, what):
        if not isinstance(what, str):
            return what
        if what == "pid":
            return os.getpid()
        if what == "hang":
            time.sleep(3600)
        if what == "exit":
            print("so long", file=sys.stderr)
            os._exit(3)
        if what == "memory":
            raise MemoryError("no more")
        if what == "much":
            import numpy
            return numpy.zeros((1 << 20, 1 << 20, 1 << 10))
        if what == "quit":
            sys.exit(0)
        if what == "child":
            import subprocess
            return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"]).pid
        if what == "lines":
            raise ValueError("first\\nsecond" + 5000 * " more")
        return {"asked": what}[what]
"""


@pytest.fixture
def process(program):
    made = Process(environments.find("far"), program(CODE), "Plugin", {}, timeout=3600)
    yield made
    made.close()


def test_another_system_is_refused(process, monkeypatch):
    monkeypatch.delattr(os, "killpg")
    with pytest.raises(ModelError, match="need Linux or macOS"):
        process.ask("call", what="pid")


def gone(pid):
    """Whether a process is no more, or about to be nobody's."""
    for _ in range(HANGS * 10):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        with open(f"/proc/{pid}/stat") as file:
            if file.read().rpartition(")")[2].split()[0] == "Z":
                return True
        time.sleep(0.1)
    return False


def test_killed_while_it_is_idle(process):
    pid = process.ask("call", what="pid")
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(
        PluginError, match=r"in environment 'far' was killed \(SIGKILL\) before it had answered\. Where"
    ):
        process.ask("call", what="asked")
    again = process.ask("call", what="pid")
    assert again != pid and gone(pid)


def test_ending_while_it_answers(process):
    with pytest.raises(
        PluginError, match=r"ended \(exit code 3\) before it had answered: so long\. What is finished is"
    ):
        process.ask("call", what="exit")
    assert process.ask("call", what="asked") == "asked"


def test_a_hang(program):
    process = Process(environments.find("far"), program(CODE), "Plugin", {}, timeout=3600)
    pid = process.ask("call", what="pid")
    process._timeout = 0.5
    with pytest.raises(
        PluginError, match=r"did not answer within 0\.5 s, and was ended\. Give it longer \(option timeout"
    ):
        process.ask("call", what="hang")
    assert gone(pid)


@pytest.mark.parametrize(
    ("what", "error", "message"),
    [
        ("memory", ModelError, r"in environment 'far' needs more memory than there is \(no more\)"),
        ("much", ModelError, r"in environment 'far' needs more memory than there is \(Unable to allocate"),
        (
            "nonsense",
            PluginError,
            r"in environment 'far' failed: KeyError: 'nonsense'\. Choose another plugin, or tell",
        ),
        ("quit", PluginError, r"failed: SystemExit: 0\."),
        ("lines", PluginError, r"failed: ValueError: first second( more){20,60} …\. Choose another plugin, or tell"),
    ],
)
def test_errors_inside(process, what, error, message):
    with pytest.raises(error, match=message):
        process.ask("call", what=what)
    assert process.ask("call", what="asked") == "asked"


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import no_such_module", "failed: ModuleNotFoundError: No module named 'no_such_module'"),
        ("x = 1", "failed: AttributeError: .*has no attribute 'Plugin'"),
        ("import os; os._exit(9)", r"ended \(exit code 9\) before it had answered"),
        ("def broken(:", "failed: SyntaxError: "),
    ],
)
def test_crashing_while_it_is_imported(program, code, message):
    process = Process(environments.find("far"), program(code), "Plugin", {}, timeout=3600)
    for _ in range(2):  # each time, and not something else the second time
        with pytest.raises(PluginError, match=message):
            process.ask("call", what="pid")


def test_ctrl_c_is_for_whoever_asks(process):
    pid = process.ask("call", what="pid")
    os.kill(pid, signal.SIGINT)
    assert process.ask("call", what="pid") == pid


def test_no_room_for_arrays(process, monkeypatch):
    process.ask("call", what="pid")
    process._running.channel._out = os.open("/dev/full", os.O_WRONLY)
    with pytest.raises(
        PluginError, match=r"in environment 'far' cannot be asked: .*No space left on device\. What goes"
    ):
        process.ask("call", what=np.zeros(100_000))
    assert process.ask("call", what="asked") == "asked"


def test_memory_that_is_too_small_is_not_used(process, monkeypatch, tmp_path):
    nearly_full = namedtuple("Usage", "free")(2**20)
    monkeypatch.setattr("realignkit.isolation.process.shutil.disk_usage", lambda path: nearly_full)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert process.ask("call", what="asked") == "asked"
    assert process._running.memory == tmp_path


def test_nothing_is_left_of_it(process):
    pid = process.ask("call", what="pid")
    child = process.ask("call", what="child")
    process.close()
    assert gone(pid) and gone(child)


def test_a_number_that_has_passed_to_another_process_is_not_killed():
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, process_group=0) as another:
        ended = SimpleNamespace(pid=another.pid, returncode=0, wait=lambda: 0, stdin=None)
        _end(ended, Connection(os.open(os.devnull, os.O_RDWR)), [])
        assert another.poll() is None
        another.communicate(b"\n")
        assert another.returncode == 0


ASKS = """
import sys
from pathlib import Path
import numpy as np
from realignkit.isolation import environments, process
process._SHARED = Path(sys.argv[2])
process._ROOM = 0
asking = process.Process(environments.find("far"), Path(sys.argv[1]), "Plugin", {}, timeout=3600)
assert asking.ask("call", what=np.ones(1000)).sum() == 1000
print(asking.ask("call", what="pid"), asking.ask("call", what="child"), flush=True)
asking.ask("call", what=sys.argv[3])
sys.stdin.read()
"""


@pytest.mark.parametrize("what", ["hang", "asked"], ids=["busy", "idle"])
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_no_orphan_and_no_file_when_this_process_is_killed(program, tmp_path, how, what):
    memory = tmp_path / "memory"
    memory.mkdir()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "plugins")])}
    command = [sys.executable, "-c", ASKS, str(program(CODE)), str(memory), what]
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as asking:
        pids = asking.stdout.readline().split()
        assert not list(memory.iterdir())  # not even while they work: both could be killed at once
        asking.send_signal(how)
    assert len(pids) == 2 and all(gone(int(pid)) for pid in pids)
