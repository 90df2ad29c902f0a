"""Environments are made whole or not at all, listed, and taken away."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor

import pytest

from realignkit.cli.env import _stopped_by_signals
from realignkit.errors import OptionError, OutputError
from realignkit.isolation import environments
from tests.conftest import HANGS


def wheel(folder):
    """A package to install, without a network."""
    path = folder / "faraway-1.0-py3-none-any.whl"
    info = "faraway-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("faraway.py", "there = True\n")
        file.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: faraway\nVersion: 1.0\n")
        file.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(f"{info}/RECORD", f"faraway.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")
    return str(path)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv(environments.FOLDER_VARIABLE, str(tmp_path / "environments"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    return tmp_path / "environments"


@pytest.mark.slow
@pytest.mark.parametrize("tool", ["pip", "any"])
def test_made_with_what_it_is_to_hold(folder, tmp_path, monkeypatch, cli, tool):
    if tool == "pip":
        monkeypatch.setattr(environments.shutil, "which", lambda name: None)
    package = wheel(tmp_path)
    done = cli("env", "create", "far-away", "--requires", package)
    assert done.exit_code == 0, done.output
    environment = environments.find("far-away")
    assert environment.requires == (package,)
    command = [environment.python, "-c", "import faraway; print(faraway.there)"]
    assert subprocess.run(command, capture_output=True, text=True, timeout=HANGS).stdout == "True\n"
    assert "far-away" in cli("env", "list").stdout
    again = cli("env", "create", "far-away")
    assert "there is an environment 'far-away' already" in " ".join(again.stderr.split())
    assert cli("env", "remove", "far-away").exit_code == 0
    assert list(folder.iterdir()) == []


def test_half_of_one_is_none(folder):
    (folder / "half" / "bin").mkdir(parents=True)
    assert environments.find("half") is None
    assert environments.all_environments() == []


def test_nothing_stays_of_what_could_not_be_made(folder, monkeypatch):
    monkeypatch.setattr(environments.shutil, "which", lambda name: None)
    with pytest.raises(OutputError, match="'/nowhere/python' cannot be run: "):
        environments.create("x", [], "/nowhere/python")
    assert not (folder / "x").exists()
    with pytest.raises(OptionError, match="an interpreter needs a name"):
        environments.create("x", [], "")


def test_one_process_at_a_time_makes_or_removes_it(folder):
    (folder / "x").mkdir(parents=True)
    with environments.only_writer(folder / ".x"), ThreadPoolExecutor(1) as other:
        for work in (environments.remove, lambda name: environments.create(name, [])):
            with pytest.raises(OutputError, match=r"is in use: .* writes there\. Wait until it has ended"):
                other.submit(work, "x").result()
        assert environments.all_environments() == []
    environments.remove("x")
    assert list(folder.iterdir()) == []


def test_a_link_is_left_alone(folder, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    folder.mkdir()
    (folder / "x").symlink_to(tmp_path / "elsewhere")
    for work in (environments.remove, lambda name: environments.create(name, [])):
        with pytest.raises(OptionError, match="x is a link, which was not made here"):
            work("x")
    assert environments.halves() == []
    assert (folder / "x").is_symlink() and (tmp_path / "elsewhere").is_dir()


def test_other_folders_are_no_environments(folder):
    for name in (".hid", "a.b", "a b"):
        (folder / name).mkdir(parents=True)
    assert environments.all_environments() == [] == environments.halves()


def test_a_version_of_python_is_found_by_name(folder, monkeypatch):
    monkeypatch.setattr(environments.shutil, "which", lambda name: None)
    with pytest.raises(OutputError, match=r"'python3\.99' cannot be run: "):
        environments.create("x", [], "3.99")


@pytest.mark.parametrize("name", ["", "../x", "a b", "-x", "x_y"])
def test_names(folder, name):
    with pytest.raises(OptionError, match="will not do as the name of an environment"):
        environments.create(name, [])


def test_what_there_is_not_cannot_be_removed(folder, cli):
    assert "there is no environment 'x'" in cli("env", "remove", "x").stderr
    assert "no environments in" in cli("env", "list").stdout


# --- an interpreter that notes what it is asked -----------------------------------------------------------------------

NOTES = """#!/bin/sh
echo "$0 $*" >> "{notes}"
echo "index=$PIP_INDEX_URL extra=$PIP_EXTRA_INDEX_URL" >> "{notes}"
for last; do :; done; [ -f "$last" ] && cat "$last" > "{notes}.file"
case "$*" in
  *venv*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
  *) echo "Looking in indexes: $PIP_INDEX_URL"; {install} ;;
esac
"""


@pytest.fixture
def interpreter(folder, tmp_path, monkeypatch):
    """Write an interpreter: its path, and the file with its notes."""
    monkeypatch.setattr(environments.shutil, "which", lambda name: None)

    def write(install="true"):
        path, notes = tmp_path / "interpreter", tmp_path / "notes"
        path.write_text(NOTES.format(notes=notes, install=install))
        path.chmod(0o755)
        return path, notes

    return write


def test_an_index_with_a_key_is_handed_over_and_kept_nowhere(folder, interpreter, cli):
    python, notes = interpreter()
    index, extra = "https://me:hunter2-hunter2@pypi.example/simple", "https://cpu.example/whl/cpu"
    done = cli(
        *(
            "env",
            "create",
            "x",
            "--requires",
            "faraway",
            "--requires",
            "near @ git+https://hunter3-hunter3@git.example/x",
        ),
        *("--python", python, "--index-url", index, "--extra-index-url", extra, "--extra-index-url", f"{extra}2"),
    )
    assert done.exit_code == 0, done.output
    variables = notes.read_text()
    assert f"index={index} extra={extra} {extra}2" in variables
    assert index not in variables.replace(f"index={index}", "")  # in no command
    assert "install --disable-pip-version-check faraway -r " in variables and "hunter3" not in variables
    assert notes.with_suffix(".file").read_text() == "near @ git+https://hunter3-hunter3@git.example/x"
    assert "Looking in indexes: https://***@pypi.example/simple" in done.stderr
    made = environments.find("x")
    assert (made.index_url, made.extra_index_urls) == ("https://***@pypi.example/simple", (extra, f"{extra}2"))
    assert made.requires == ("faraway", "near @ git+https://***@git.example/x")
    assert "hunter" not in done.output + (folder / "x" / "environment.json").read_text()


def test_what_fails_ends_with_what_was_said(folder, interpreter):
    python, _ = interpreter("echo 'ERROR: no such thing.' && exit 1")
    lines = []
    with pytest.raises(OutputError, match=r"python -m pip install …' failed: ERROR: no such thing\. Nothing of"):
        environments.create("x", ["faraway"], str(python), say=lines.append)
    assert lines[-1] == "ERROR: no such thing."
    assert not (folder / "x").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_with_all_that_it_has_started(folder, interpreter, tmp_path, number):
    started = tmp_path / "started"
    python, _ = interpreter(f"echo $$ > {started}; echo on its way; sleep 1000")
    # Without the fixture 'command', whose processes take no signals.
    command = [
        sys.executable,
        "-m",
        "realignkit.cli",
        "env",
        "create",
        "x",
        "--requires",
        "faraway",
    ]
    variables = {**os.environ, environments.FOLDER_VARIABLE: str(folder), "PATH": "/usr/bin:/bin"}
    with subprocess.Popen([*command, "--python", python], env=variables, stderr=subprocess.PIPE, text=True) as process:
        assert any("on its way" in line for line in process.stderr)
        assert (folder / "x").exists()
        process.send_signal(number)
        said = process.stderr.read()
        assert process.wait(HANGS) == 130, said
    assert "Interrupted. Nothing had been finished" in said
    assert not (folder / "x").exists()
    with pytest.raises(ProcessLookupError):
        for _ in range(HANGS * 10):  # what was killed is in the group until init has taken note
            os.killpg(int(started.read_text()), 0)
            time.sleep(0.1)


def test_the_first_signal_is_the_last():
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), _stopped_by_signals():
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGINT) is before


def test_what_nohup_ignores_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with _stopped_by_signals():
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_what_does_not_listen_is_killed_though_the_wait_is_interrupted(monkeypatch):
    command = ["/bin/sh", "-c", "trap '' INT; echo ready; sleep 1000; sleep 1000"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stdout.readline() == "ready\n"
    wait = process.wait

    def interrupted(seconds=None):
        if seconds is not None:
            raise KeyboardInterrupt
        return wait(HANGS)

    monkeypatch.setattr(process, "wait", interrupted)
    with process.stdout, pytest.raises(KeyboardInterrupt):
        environments._end(process)
    assert process.returncode == -signal.SIGKILL


@pytest.mark.parametrize("end", ["simple/", "simple/?page=1"])
def test_a_token_in_the_path_of_an_index_is_kept_nowhere(folder, interpreter, end):
    python, _ = interpreter()
    index, lines = f"https://dl.example/WrzXvIjBQYdYQrMP/org/python/{end}", []
    made = environments.create(
        "x", ["faraway"], str(python), index_url=index, extra_index_urls=[index], say=lines.append
    )
    assert made.index_url.startswith("https://dl.example/***/org/python/simple/") and environments.find("x") == made
    assert any("https://dl.example/***/org/python/simple/" in line for line in lines)
    assert "WrzXvI" not in str(lines) + (folder / "x" / "environment.json").read_text()


@pytest.mark.parametrize("requirement", ["{}", "near @ {}", "near[all]@{} ; python_version > '3'", "git+{}#egg=near"])
@pytest.mark.parametrize("fails", [False, True])
def test_a_token_in_a_requirement_is_kept_nowhere(folder, interpreter, cli, requirement, fails):
    requirement = requirement.format("https://user:hunter2-token@host.example/near-1.0.zip?sig=hunter2")
    python, notes = interpreter('cat "$last"; echo "ERROR: hunter2-token is refused"' + ("; exit 1" if fails else ""))
    done = cli("env", "create", "x", "--requires", requirement, "--python", python)
    listed = cli("env", "list").output
    assert "host.example" in done.stderr and "*** is refused" in done.stderr
    assert fails or "host.example" in listed.replace("\n", "")
    recorded = [path.read_text() for path in folder.glob("x/environment.json")]
    assert len(recorded) == (not fails) == (done.exit_code == 0)
    assert "hunter2" not in done.output + listed + notes.read_text() + "".join(recorded)


@pytest.mark.parametrize(
    ("requirement", "said", "shown"),
    [
        ("git+ssh://git@host/x#egg=clip", "Cannot find command 'git' for clip", "Cannot find command 'git' for clip"),
        ("x @ git+https://me:token99@host/x", "refused: token99", "refused: ***"),
        ("x@git+https://token99@host/x", "refused: token99", "refused: ***"),
    ],
)
def test_messages_keep_all_but_the_keys_of_requirements(folder, interpreter, requirement, said, shown):
    python, _ = interpreter(f'echo "{said}"')
    lines = []
    environments.create("x", [requirement], str(python), say=lines.append)
    assert lines[-1] == shown


def test_uv_of_any_age_is_told_the_index(folder, tmp_path, monkeypatch):
    uv = tmp_path / "uv"
    uv.write_text('#!/bin/sh\n[ "$1" = venv ] && mkdir -p "$4/bin" && touch "$4/bin/python"\nenv | grep ^UV_\n:\n')
    uv.chmod(0o755)
    monkeypatch.setattr(environments.shutil, "which", lambda name: str(uv))
    lines, index, extra = [], "https://pypi.example/simple", ["https://cpu.example/whl", "https://more.example/whl"]
    environments.create("x", ["faraway"], index_url=index, extra_index_urls=extra, say=lines.append)
    assert {f"{name}={index}" for name in ("UV_DEFAULT_INDEX", "UV_INDEX_URL")} <= set(lines)
    assert {f"{name}={' '.join(extra)}" for name in ("UV_INDEX", "UV_EXTRA_INDEX_URL")} <= set(lines)


def test_one_without_its_interpreter_is_no_half(folder, cli):
    (folder / "old").mkdir(parents=True)
    environments.record(environments.Environment("old", folder / "old", ("faraway",)))
    assert environments.find("old") is None and environments.halves() == []
    said = " ".join(cli("env", "list").stderr.split())
    assert "old is gone: realignkit env remove old, then make it again" in said and "half" not in said


def test_half_of_one_is_listed_with_what_to_do(folder, cli):
    (folder / "half" / "bin").mkdir(parents=True)
    said = " ".join(cli("env", "list").stderr.split())
    assert "is half an environment, being made or cut off: realignkit env remove half" in said
