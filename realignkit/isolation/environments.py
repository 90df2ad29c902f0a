"""Python environments of plugins' own, in the user's data folder: made, listed, taken away."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from realignkit.errors import URL, OptionError, OutputError, hidden_in, redacted, redacted_urls, url_secrets
from realignkit.files import atomic_write, only_writer

FOLDER_VARIABLE = "REALIGNKIT_ENVIRONMENTS"
_RECORD = "environment.json"
_NEEDED = ("name", "requires")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]*")
_GRACE = 5.0
"""Seconds that pip or uv have to clean up when they are stopped."""
_TOKEN = 16
"""Characters from which on a segment of an index's path may be a key."""

Say = Callable[[str], object]


@dataclass(frozen=True)
class Environment:
    """One that is whole: its record is written last.

    Attributes:
        name: as it is asked for.
        folder: where it is.
        requires: what was installed into it, as pip takes it.
        index_url: where from, instead of pip's or uv's own index; "": from that.
        extra_index_urls: where from, too.

    What may be a key is taken out of the addresses of all three: user, password and what follows the path, and of an
    index segments of its path that have 16 characters or more.
    """

    name: str
    folder: Path
    requires: tuple[str, ...]
    index_url: str = ""
    extra_index_urls: tuple[str, ...] = ()

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def environments_folder() -> Path:
    """Where they are: :data:`FOLDER_VARIABLE`, else in the user's data folder."""
    if given := os.environ.get(FOLDER_VARIABLE):
        return Path(given).expanduser()
    data = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(data) / "realignkit" / "environments"


def find(name: str) -> Environment | None:
    """The environment of this name; None where there is none, or half of one, or its interpreter is gone."""
    environment = _recorded(name)
    return environment if environment is not None and environment.python.exists() else None


def _recorded(name: str) -> Environment | None:
    folder = environments_folder() / _checked(name)
    try:
        record = json.loads((folder / _RECORD).read_text(encoding="utf-8"))
        requires, extra = (tuple(map(str, record.get(key, ()))) for key in ("requires", "extra_index_urls"))
        return Environment(name, folder, requires, str(record.get("index_url", "")), extra)
    except (OSError, ValueError, AttributeError, TypeError):
        return None


def all_environments() -> list[Environment]:
    """Those that are whole, by name."""
    return [environment for environment in map(find, _names()) if environment is not None]


def halves() -> list[Path]:
    """The folders of those that are not whole: being made just now, or cut off."""
    folders = [environments_folder() / name for name in _names() if _recorded(name) is None]
    return [folder for folder in folders if not folder.is_symlink()]


def without_interpreter() -> list[Path]:
    """The folders of those that were whole, and whose interpreter is gone since."""
    recorded = filter(None, map(_recorded, _names()))
    return [each.folder for each in recorded if not each.python.exists() and not each.folder.is_symlink()]


def _names() -> list[str]:
    folder = environments_folder()
    names = sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    return [name for name in names if _NAME.fullmatch(name)]


def create(
    name: str,
    requires: Sequence[str],
    python: str | None = None,
    *,
    index_url: str = "",
    extra_index_urls: Sequence[str] = (),
    say: Say = lambda line: None,
) -> Environment:
    """Make one and install into it: with uv where it is there, else with venv and pip. Takes minutes.

    Args:
        name: letters, digits and hyphens.
        requires: what to install, as pip takes it; what may be a key in an address is in no record and no message.
        python: its interpreter, a path or a version ("3.8"); None: the one that runs this.
        index_url: where packages come from; "": pip's or uv's own index. What may be a key in it (see
            :class:`Environment`) is in no record and no message.
        extra_index_urls: where they come from, too; likewise.
        say: called with each line that pip or uv print.

    Raises:
        OptionError: there is one of this name already, or it is a link, or a name will not do.
        OutputError: somebody else makes it just now; or it could not be made: what pip says is in the message, and
            nothing of it stays.
    """
    _check_python(python)
    with _alone_with(name) as folder:
        if find(name) is not None:
            raise OptionError(
                f"there is an environment '{name}' already, in {folder}. Remove it first: realignkit env remove {name}."
            )
        shutil.rmtree(folder, ignore_errors=True)  # half of one, or without an interpreter
        interpreter, uv = python or sys.executable, shutil.which("uv")
        if not uv and re.fullmatch(r"3\.\d+", interpreter):
            interpreter = f"python{interpreter}"
        shown = tuple(map(redacted_urls, requires))
        target = Environment(name, folder, shown, _shown(index_url), tuple(map(_shown, extra_index_urls)))
        if uv:
            make = [uv, "venv", "--python", interpreter, str(folder)]
            install = [uv, "pip", "install", "--python", str(target.python)]
        else:
            make = [interpreter, "-m", "venv", str(folder)]
            install = [str(target.python), "-m", "pip", "install", "--disable-pip-version-check"]
        # Not in the command, which everybody on the machine can read.
        variables = {"PYTHONUNBUFFERED": "1"}
        if index_url:
            variables |= dict.fromkeys(("PIP_INDEX_URL", "UV_DEFAULT_INDEX", "UV_INDEX_URL"), index_url)
        if extra_index_urls:
            names = ("PIP_EXTRA_INDEX_URL", "UV_INDEX", "UV_EXTRA_INDEX_URL")
            variables |= dict.fromkeys(names, " ".join(extra_index_urls))
        secrets = _secrets((index_url, *extra_index_urls), requires)
        try:
            with _as_arguments(requires) as arguments:
                for step in [make, [*install, *arguments]] if requires else [make]:
                    _run(step, variables, lambda line: hidden_in(line, secrets), say)
            return record(target)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise


@contextlib.contextmanager
def _as_arguments(requires: Sequence[str]) -> Iterator[list[str]]:
    """Requirements as pip and uv take them: those with a key in a file that nobody else can read."""
    keyed = [each for each in requires if _secrets((), [each])]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "requirements.txt"
        file.write_text("\n".join(keyed), encoding="utf-8")
        yield [each for each in requires if each not in keyed] + (["-r", str(file)] if keyed else [])


def _secrets(index_urls: Sequence[str], requires: Sequence[str]) -> list[str]:
    """What pip or uv may say and nobody may read, also outside an address."""
    urls = [*index_urls, *(url for requirement in requires for url in URL.findall(requirement))]
    # A fragment names a package or its folder, and 'git' is everybody's: messages would lose these words.
    plain = [url.partition("#")[0].replace("://git@", "://") for url in urls]
    secrets = [secret for url in plain for secret in url_secrets(url)]
    return secrets + [token for url in index_urls for token in _path_tokens(url)]


def _path_tokens(index_url: str) -> list[str]:
    return [part for part in re.split("[/?#;]", index_url.partition("://")[2])[1:] if len(part) >= _TOKEN]


def _shown(index_url: str) -> str:
    return redacted(redacted_urls(index_url), _path_tokens(index_url))


def record(environment: Environment) -> Environment:
    """Say that an environment is whole."""
    values = {field: getattr(environment, field) for field in ("name", "requires", "index_url", "extra_index_urls")}
    text = json.dumps({field: value for field, value in values.items() if value or field in _NEEDED}, indent=2)
    atomic_write(environment.folder / _RECORD, text + "\n")
    return environment


def remove(name: str) -> None:
    """Take an environment away, or half of one.

    Raises:
        OptionError: there is none, or it is a link.
        OutputError: somebody makes it just now.
    """
    if not (environments_folder() / _checked(name)).is_dir():
        raise OptionError(f"there is no environment '{name}'. 'realignkit env list' lists what there is.")
    with _alone_with(name) as folder:
        shutil.rmtree(folder)


def remedy(name: str, requires: Sequence[str], python: str = "") -> str:
    """The command that makes an environment."""
    of_python = [f"--python {python}"] if python else []
    return " ".join(["realignkit env create", name, *of_python, *(f"--requires '{each}'" for each in requires)])


def _checked(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise OptionError(f"'{name}' will not do as the name of an environment: take letters, digits and hyphens.")
    return name


@contextlib.contextmanager
def _alone_with(name: str) -> Iterator[Path]:
    """The folder of an environment, while nobody else makes it or takes it away."""
    folder = environments_folder() / _checked(name)
    if folder.is_symlink():
        raise OptionError(f"{folder} is a link, which was not made here. Remove it by hand, or take another name.")
    with only_writer(folder.with_name(f".{name}")):
        yield folder


def _check_python(python: str | None) -> None:
    if python is not None and not python.strip():
        raise OptionError("an interpreter needs a name: give a path or a version, such as 3.8, or leave python out.")


def _run(command: Sequence[str], variables: Mapping[str, str], hide: Callable[[str], str], say: Say) -> None:
    """Run a command to its end, and say what it prints, keys hidden.

    Whatever ends the wait for it ends the command too, and what that has started.
    """
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "stdin": subprocess.DEVNULL}
    environment = {**os.environ, **variables}
    try:
        process = subprocess.Popen(
            command, **pipes, text=True, errors="replace", env=environment, start_new_session=True
        )
    except OSError as error:
        raise OutputError(f"'{command[0]}' cannot be run: {error}. Give another --python.") from None
    said = []
    try:
        for line in process.stdout or ():
            if line.strip():
                said.append(hide(line.strip()))
                say(hide(line.rstrip()))
        code = process.wait()
    except BaseException:
        _end(process)
        raise
    if code:
        errors = [line for line in said if line.lower().startswith("error")] or said[-1:]
        why = " ".join(errors).rstrip(". ") or f"exit code {code}"
        raise OutputError(f"'{' '.join(command[:4])} …' failed: {why}. Nothing of the environment stays.")


def _end(process: subprocess.Popen[str]) -> None:
    """Stop a command and its children: as Ctrl-C does, so that pip takes away what it has unpacked, then for good."""
    try:
        with contextlib.suppress(ProcessLookupError, PermissionError, subprocess.TimeoutExpired):
            process.terminate() if os.name == "nt" else os.killpg(process.pid, signal.SIGINT)
            process.wait(_GRACE)
    finally:  # also where the wait is interrupted: nothing may write into a folder that is being taken away
        with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS refuses a group of zombies
            process.kill() if os.name == "nt" else os.killpg(process.pid, signal.SIGKILL)
        process.wait()
