"""A command of :mod:`tests.commands` cannot be told from the real one."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

WHAT = """
import os, sys
print(sys.argv[1:], os.getcwd(), os.environ.get("MINE"), sys.path[0], sys.stdin.read(), __name__)
print("aside", file=sys.stderr)
"""


@pytest.fixture
def both(quick, tmp_path):
    """What a real Python and a quick one do."""

    def run(*arguments, **options):
        options = {"cwd": tmp_path, "capture_output": True, "text": True, **options}
        return [subprocess.run([python, *arguments], **options) for python in (sys.executable, quick / "python")]

    return run


@pytest.mark.parametrize("way", ["-c", "-m", "script"])
def test_arguments_folder_environment_and_streams(both, tmp_path, way):
    (tmp_path / "what.py").write_text(WHAT)
    command = {"-c": ["-c", WHAT], "-m": ["-m", "what"], "script": ["what.py"]}[way]
    real, quick = both(*command, "a b", "--c", input="read", env={**os.environ, "MINE": "ours"})
    assert (quick.returncode, quick.stdout, quick.stderr) == (real.returncode, real.stdout, real.stderr)
    assert f"['a b', '--c'] {tmp_path} ours" in quick.stdout


@pytest.mark.parametrize(
    "code",
    [
        "import sys; sys.exit(3)",
        "import sys; sys.exit('so')",
        "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
        "import os, signal; os.kill(os.getpid(), signal.SIGTERM)",
        "import atexit; atexit.register(print, 'last')",
        "import threading, time; threading.Thread(target=lambda: (time.sleep(0.1), print('waited for'))).start()",
    ],
)
def test_how_it_ends(both, code):
    real, quick = both("-c", code)
    assert (quick.returncode, quick.stdout, quick.stderr) == (real.returncode, real.stdout, real.stderr)


def test_an_error_is_a_traceback(both):
    real, quick = both("-c", "1 / 0")
    assert quick.returncode == real.returncode == 1
    assert quick.stderr.splitlines()[-1] == real.stderr.splitlines()[-1] == "ZeroDivisionError: division by zero"
