"""``realignkit env``: environments of their own, for plugins whose packages cannot live beside ours."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType
from typing import Annotated, NoReturn

import typer
from rich.markup import escape

from realignkit.cli._progress import Command, err, note, out, print_table

env_app = typer.Typer(help="Environments of their own, for plugins whose packages cannot live beside ours.")


@env_app.command("create", cls=Command)
def create(
    name: Annotated[str, typer.Argument(help="As the plugin names it: letters, digits and hyphens.")],
    requires: Annotated[list[str] | None, typer.Option(help="What to install, as pip takes it; repeatable.")] = None,
    python: Annotated[str | None, typer.Option(help="Its interpreter: a path, or a version, such as 3.8.")] = None,
    index_url: Annotated[
        str, typer.Option(help="Where packages come from, instead of pip's own index.", metavar="URL")
    ] = "",
    extra_index_url: Annotated[
        list[str] | None, typer.Option(help="Where they come from, too; repeatable.", metavar="URL")
    ] = None,
) -> None:
    """Make an environment, with uv where it is there, else with venv and pip. Downloads what it is told to install."""
    from realignkit.errors import redacted_urls
    from realignkit.isolation import environments

    console = err()
    with (
        _stopped_by_signals(),
        console.status(f"installing {escape(redacted_urls(', '.join(requires or [])) or 'nothing')} …"),
    ):
        environment = environments.create(
            name,
            requires or [],
            python,
            index_url=index_url,
            extra_index_urls=extra_index_url or [],
            say=lambda line: console.print(line, style="dim", markup=False),
        )
    out().print(f"environment {escape(name)}: {escape(str(environment.folder))}")


@contextlib.contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """SIGTERM is taken as Ctrl-C, and Ctrl-C as itself where a shell has a background job ignore it.

    What nohup has ignored stays so. After the first signal there are no more: the cleaning up is not interrupted.
    """
    numbers = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        numbers.remove(signal.SIGHUP)

    def stop(number: int, frame: FrameType | None) -> NoReturn:
        for each in numbers:
            signal.signal(each, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@env_app.command("list", cls=Command)
def list_environments() -> None:
    """List the environments, and what was installed into each."""
    from realignkit.isolation import environments

    for folder in environments.halves():
        note(f"{folder} is half an environment, being made or cut off: realignkit env remove {folder.name}")
    for folder in environments.without_interpreter():
        note(f"the interpreter of {folder} is gone: realignkit env remove {folder.name}, then make it again")
    known = environments.all_environments()
    if not known:
        out().print(f"no environments in {escape(str(environments.environments_folder()))}")
        return
    rows = [(each.name, ", ".join(each.requires), str(each.folder)) for each in known]
    print_table(("name", "requires", "folder"), rows)


@env_app.command("remove", cls=Command)
def remove(name: Annotated[str, typer.Argument(help="As 'realignkit env list' lists it.")]) -> None:
    """Take an environment away."""
    from realignkit.isolation import environments

    environments.remove(name)
