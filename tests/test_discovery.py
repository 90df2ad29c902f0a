"""Plugins that misbehave while they are imported, or that end the program: named, skipped, and without effect."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading

import pytest

import realignkit.images
from realignkit import hookimpl
from realignkit.errors import PluginError
from realignkit.registry import Registry, bounded, default_registry
from tests.conftest import HANGS, ROOT

HOOK = """
import realignkit

@realignkit.hookimpl
def register_scorers(register):
    {body}
"""
SOURCE = "odd_dist:odd_dist_entry"


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import sys; sys.exit(0)", "ended the program (SystemExit: 0)"),
        ("raise KeyboardInterrupt", "ended the program (KeyboardInterrupt"),
        ("class Odd(BaseException): pass\nraise Odd('x')", "ended the program (Odd: x)"),
        (HOOK.format(body="import sys; sys.exit(0)"), "ended the program (SystemExit: 0)"),
        (HOOK.format(body="raise ValueError('no')"), "ValueError: no"),
    ],
)
def test_ending_the_program(installed, code, message):
    installed("odd_dist", code)
    registry = Registry()
    assert message in registry.broken[SOURCE]
    assert registry.info("scorer", "lexical")


@pytest.mark.parametrize(("name", "code"), [("endless_import", "{wait}"), ("endless_hook", HOOK.format(body="{wait}"))])
def test_not_coming_to_an_end(installed, monkeypatch, name, code):
    monkeypatch.setenv("REALIGNKIT_PLUGIN_TIMEOUT", "0.5")
    installed(name, code.format(wait="__import__('threading').Event().wait()"))
    assert "did not finish within 0.5 s" in Registry().broken[f"{name}:{name}_entry"]


@pytest.mark.parametrize("text", ["", "soon", "-1", "nan", "inf"])
def test_an_odd_timeout_is_the_default(monkeypatch, text):
    monkeypatch.setenv("REALIGNKIT_PLUGIN_TIMEOUT", text)
    assert bounded(lambda: 1) == 1


REPLACING = """
import json
import realignkit.images
json.dumps = lambda *a, **k: "{}"
realignkit.images.png = lambda image: b"no png"
"""


@pytest.mark.parametrize("ending", ["", "raise RuntimeError", HOOK.format(body="pass")])
def test_replacing_what_is_ours(installed, ending):
    png, dumps = realignkit.images.png, json.dumps
    installed("odd_dist", REPLACING + ending)
    broken = Registry().broken[SOURCE]
    if "raise" not in ending:
        assert "it replaced json.dumps, realignkit.images.png, which is put back" in broken
    assert realignkit.images.png is png
    assert json.dumps is dumps


def test_replacing_what_nobody_has_imported_yet(tmp_path, installed):
    installed("odd_dist", REPLACING)
    code = """
import realignkit, sys
from realignkit.registry import Registry
assert "realignkit.images" not in sys.modules
print(Registry().broken["odd_dist:odd_dist_entry"])
from realignkit import images
assert images.png.__module__ == "realignkit.images"
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT), str(ROOT / "plugins")])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=HANGS)
    assert done.returncode == 0, done.stderr
    assert "json.dumps" in done.stdout
    assert "realignkit.images.png" in done.stdout


def test_a_plugin_that_only_imports_ours_replaces_nothing(installed):
    installed("odd_dist", "from realignkit import calls, realignment\nimport torch, json" + HOOK.format(body="pass"))
    assert Registry().broken == {}


def test_threads_are_named_and_waited_for_by_nobody(installed, caplog):
    installed(
        "odd_dist",
        "import threading\n"
        + HOOK.format(body="pass")
        + """
stop = threading.Event()
for _ in range(3):
    threading.Thread(target=stop.wait).start()
""",
    )
    before = set(threading.enumerate())
    with caplog.at_level(logging.WARNING):
        Registry()
    assert "odd_dist_entry has started 3 threads" in caplog.text
    left = set(threading.enumerate()) - before
    assert len(left) == 3
    assert all(thread.daemon for thread in left)
    sys.modules["odd_dist"].stop.set()


def test_how_the_program_logs_stays(installed):
    level, handlers = logging.root.level, logging.root.handlers[:]
    installed("odd_dist", "import logging\nlogging.basicConfig(level=1, force=True)\n" + HOOK.format(body="pass"))
    Registry()
    assert (logging.root.level, logging.root.handlers) == (level, handlers)


def test_an_error_inside_is_raised_as_it_is():
    with pytest.raises(ZeroDivisionError):
        bounded(lambda: 1 / 0)
    with pytest.raises(PluginError, match="ended the program"):
        bounded(sys.exit)


QUITTER = """
import os, sys, threading
import realignkit
from realignkit.contracts import Scorer

class Quitter(Scorer):
    def __call__(self, prompt, tags):
        print("to standard output")
        os.system("echo from a child")
        threading.Thread(target=threading.Event().wait, name="endless").start()
        sys.exit(0)

print("while imported")

@realignkit.hookimpl
def register_scorers(register):
    print("while registered")
    register("quitter", Quitter, "ends the program")
"""


def command(tmp_path, *arguments):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT), str(ROOT / "plugins")])}
    return subprocess.run(
        [sys.executable, "-m", "realignkit.cli", *arguments],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=HANGS,
    )  # fmt: skip


def test_output_for_machines_has_nothing_of_a_plugin(installed, tmp_path):
    installed("odd_dist", QUITTER)
    done = command(tmp_path, "plugins", "--json")
    assert done.returncode == 0
    names = {info["name"] for info in json.loads(done.stdout)["plugins"]}
    assert "quitter" in names
    said = [line for line in done.stderr.splitlines() if "while" in line]
    assert said == [f"plugin {SOURCE} prints: while {what}" for what in ("imported", "registered")]


def test_a_scorer_that_ends_the_program_hands_over(installed, tmp_path):
    installed("odd_dist", QUITTER)
    more = ("--set", "sampling.num_inference_steps=5", "--out", "out")
    done = command(tmp_path, "run", "a red book and a yellow pen", "--seed", "42", "--scorer", "quitter", *more)
    assert done.returncode == 0, done.stderr
    assert "scorer 'quitter' did not answer: SystemExit: 0" in done.stdout
    assert not any(text in done.stdout for text in ("to standard output", "from a child", "while"))
    assert "1 threads that plugins have started are not waited for: endless" in done.stderr
    assert (tmp_path / "out" / "realignment.json").is_file()


class Quits:
    @hookimpl
    def register_taggers(self, register):
        register("quits", lambda **options: lambda images: sys.exit(0), "")


def test_a_step_that_ends_the_program_is_an_error(cli, tmp_path):
    quits = Quits()
    default_registry().register(quits, "quits")
    try:
        done = cli("run", "a red cup", "--model", "tiny", "--tagger", "quits", "--out", tmp_path / "out")
    finally:
        default_registry().unregister(quits)
    assert done.exit_code == 2
    assert "tagger 'quits' failed: SystemExit: 0" in done.stderr


class Ends:
    """A prompt set that fails in a way of the reader's choice, and is no subclass of ours."""

    source = ""

    def __init__(self, how):
        self.how = how

    def __len__(self):
        return 2

    def __iter__(self):
        yield "a red book"
        if self.how == "text":
            yield 5
        raise {"exit": SystemExit(0), "error": ValueError("odd"), "text": ValueError}[self.how]

    def truth(self, prompt, tags):
        return None


class Registers:
    @hookimpl
    def register_prompts(self, register):
        for how in ("exit", "error", "text"):
            register(f"ends_by_{how}", Ends, "", options={"how": how})


@pytest.mark.parametrize(
    ("how", "message"), [("exit", "SystemExit: 0"), ("error", "ValueError: odd"), ("text", "ValueError")]
)
def test_a_prompt_set_that_fails_is_named(cli, tmp_path, how, message):
    plugin = Registers()
    default_registry().register(plugin, "ends")
    try:
        done = cli("run", "--prompts", f"ends_by_{how}", "--model", "tiny", "--out", tmp_path / "out")
        other = cli("ablate", "scorers", "--prompts", f"ends_by_{how}", "--model", "tiny", "--out", tmp_path / "other")
    finally:
        default_registry().unregister(plugin)
    for result in (done, other):
        assert result.exit_code == 2
        assert f"prompt set 'ends_by_{how}' failed: {message}" in " ".join(result.stderr.split())
