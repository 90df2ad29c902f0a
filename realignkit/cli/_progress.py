"""What the commands share: consoles, progress bars, how errors look, exit codes, tables of results."""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import os
import re
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text
from typer.core import TyperCommand, TyperGroup

from realignkit.errors import PluginError, RealignKitError

if TYPE_CHECKING:
    from realignkit.named import Named
    from realignkit.realignment import Realignment
    from realignkit.registry import Registry

EXIT_SOME_FAILED = 1
EXIT_ERROR = 2
EXIT_INTERRUPTED = 130
GRACE = 5.0
"""Seconds that threads of others have to end when the program does."""

_USUALLY, _SELDOM = gc.get_threshold(), (20_000, 50, 100)
_STYLES = {"certain": "green", "possible": "yellow", "unlikely": "dim"}


class TerminalSafe(Console):
    """A console to which prompts, names and messages of others cannot send control sequences."""

    def render_str(self, text: str, **options: Any) -> Text:
        """Rich's own, with control characters made visible."""
        return super().render_str(_CONTROL.sub(lambda character: f"\\x{ord(character[0]):02x}", text), **options)


_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_results: TextIO | None = None


@contextlib.contextmanager
def results_only() -> Iterator[None]:
    """Keep standard output for results: what plugins and libraries print meanwhile goes to standard error."""
    global _results
    if _results is not None:
        yield
        return
    with _descriptor_kept(sys.stdout) as _results:
        try:
            with contextlib.redirect_stdout(sys.stderr):
                yield
        finally:
            _results = None


@contextlib.contextmanager
def _descriptor_kept(stream: TextIO) -> Iterator[TextIO]:
    """The stream, on a file descriptor of its own while number 1, which child processes inherit, is standard error."""
    try:
        is_process_output = stream.fileno() == 1
    except (OSError, ValueError, AttributeError):  # none: captured by a test or a notebook
        is_process_output = False
    if not is_process_output:
        yield stream
        return
    stream.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        with open(kept, "w", encoding=stream.encoding, errors=stream.errors, closefd=False) as copy:
            yield copy
    finally:
        stream.flush()  # what was written past the redirection
        os.dup2(kept, 1)
        os.close(kept)


def out() -> Console:
    """Where results go. Made anew each time, so that it follows a redirected ``sys.stdout``."""
    return TerminalSafe(file=_results, highlight=False, soft_wrap=True)


def print_json(values: Any) -> None:
    """Print a result for machines."""
    typer.echo(json.dumps(values, indent=2, ensure_ascii=False), file=_results)


def err() -> Console:
    """Where progress and errors go."""
    return TerminalSafe(stderr=True, highlight=False, soft_wrap=True)


def note(text: str) -> None:
    """Say what the user should know, beside the results."""
    err().print(f"[yellow]note:[/] {escape(text)}")


class Bars:
    """A bar for each step of a command, and lines above them; only a terminal is shown bars, and nothing stays of them.

    Args:
        shown: False for one of several processes that has nothing to say.
    """

    def __init__(self, shown: bool = True) -> None:
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        columns = TextColumn("{task.description:>10}", markup=False), BarColumn(), MofNCompleteColumn()
        times = TimeElapsedColumn(), TimeRemainingColumn()
        self._console, self._shown, self._tasks = err(), shown, dict[str, Any]()
        disable = not (shown and self._console.is_terminal)
        self._progress = Progress(*columns, *times, console=self._console, transient=True, disable=disable)

    def __enter__(self) -> Bars:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def step(self, name: str, done: int, total: int | None, label: str = "") -> None:
        """How far a step is: ``done`` of ``total`` (None: of nobody knows how many).

        Args:
            name: of the step; one that begins again starts its bar anew.
            done: how much of it.
            total: of how much.
            label: what to show instead of the name.
        """
        if name not in self._tasks:
            self._tasks[name] = self._progress.add_task(name, total=total)
        task = self._tasks[name]
        if self._progress.tasks[self._progress.task_ids.index(task)].completed > done:
            self._progress.reset(task)
        self._progress.update(task, completed=done, total=total, description=label or name)

    def say(self, text: str, style: str) -> None:
        """A line above the bars."""
        if self._shown:
            self._console.print(text, style=style, markup=False)


def collect_seldom() -> None:
    """Look for garbage seldom, until :func:`loading` is done.

    The libraries make some million objects that stay, and with Python's usual settings each search goes through all of
    them again: a quarter of the time that importing takes, and again while the program ends.
    """
    gc.set_threshold(*_SELDOM)


@contextlib.contextmanager
def loading() -> Iterator[None]:
    """Show that libraries and models are being loaded. What has been loaded is not looked through from then on."""
    with err().status("loading …"):
        yield
    if not gc.get_freeze_count():  # once: what a program loads later may have to go again
        gc.collect(0)
        gc.freeze()
    gc.set_threshold(*_USUALLY)


class Commands(TyperGroup):
    """Shows our errors as one line, without a traceback unless asked for."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command; see the class."""
        ctx.ensure_object(dict)  # here, so that what a command sets in it is seen when it has failed
        try:
            return super().invoke(ctx)
        except RealignKitError as error:
            if debugging(ctx):
                raise
            err().print(f"[bold red]Error:[/] [red]{escape(' '.join(str(error).split()))}[/]")
            raise typer.Exit(EXIT_ERROR) from None
        except KeyboardInterrupt:
            err().print(f"[yellow]Interrupted.[/] {escape(_left_behind(ctx.obj.get('folder')))}")
            raise typer.Exit(EXIT_INTERRUPTED) from None


def writes_into(ctx: typer.Context, folder: str | Path) -> AbstractContextManager[Path]:
    """:func:`realignkit.files.only_writer` of a command's results, which an interruption then tells of."""
    from realignkit.files import only_writer

    ctx.ensure_object(dict)["folder"] = Path(folder)
    return only_writer(folder)


def _left_behind(folder: Path | None) -> str:
    """What is there after an interruption, and what to do."""
    if folder is None or not any(path.is_file() for path in folder.rglob("[!.]*")):
        return "Nothing had been finished: the same command starts anew."
    return f"What is finished is saved in {folder}; resume with the same command."


class _ResultsAlone:
    """What standard output holds is the results of the command alone."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command; see the class."""
        try:
            with results_only():
                return super().invoke(ctx)  # type: ignore[misc]
        except SystemExit as stop:  # ours are typer's; whoever else ends the program must not look like success
            raise PluginError(
                f"a plugin or a library ended the program (exit code {stop.code}) before the command was done. "
                f"'realignkit plugins' lists what is installed; take out what is new, or tell its author."
            ) from stop


class Command(_ResultsAlone, TyperCommand):
    """A command whose standard output holds its results alone."""


class CommandGroup(_ResultsAlone, TyperGroup):
    """A command with others below it, whose standard output holds its results alone."""


def exit_now(code: int) -> None:
    """Leave although threads of plugins or libraries would keep Python waiting, and say whose they are.

    Args:
        code: the exit code. Returns where nothing would be waited for.
    """
    for thread in _waited_for():
        thread.join(GRACE / max(1, len(_waited_for())))  # what is about to end may do so in peace
    if names := [thread.name for thread in _waited_for()]:
        shown = ", ".join(names[:5]) + (" …" if len(names) > 5 else "")
        err().print(f"{len(names)} threads that plugins have started are not waited for: {shown}", markup=False)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _waited_for() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if not t.daemon and t is not threading.main_thread()]


def debugging(ctx: typer.Context) -> bool:
    """Whether tracebacks are wanted: ``--verbose`` or ``REALIGNKIT_DEBUG=1``."""
    return bool(ctx.ensure_object(dict).get("verbose")) or os.environ.get("REALIGNKIT_DEBUG", "") not in ("", "0")


def set_verbosity(ctx: typer.Context, verbose: bool) -> None:
    """Before heavy libraries are imported: let them talk, or keep their advice out of the user's way."""
    ctx.ensure_object(dict)["verbose"] = verbose
    if verbose:
        logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
        return
    for name in ("TRANSFORMERS_VERBOSITY", "DIFFUSERS_VERBOSITY"):
        os.environ.setdefault(name, "error")


def registry_to_list() -> Registry:
    """The registry of this process, for a command that lists what is broken, and so need not be warned of it."""
    from realignkit.registry import default_registry, skipped

    skipped.disabled = True
    try:
        return default_registry()
    finally:
        skipped.disabled = False


def print_usage(plugins: Iterable[Named]) -> None:
    """Say what plugins that ask services have used of them: requests, tokens, and US dollars where prices are known."""
    for asked in plugins:
        usage: Any = getattr(asked.plugin, "usage", None)
        if usage is not None and usage.requests:
            cost = f", {usage.cost:.4f} US dollars" if usage.cost is not None else ""
            out().print(f"{asked.name}: {usage.requests} requests, {usage.tokens} tokens{cost}", style="dim")


def new_table(*headings: str) -> Table:
    """An empty table, as all commands show theirs."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        table.add_column(escape(heading))
    return table


def print_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table; in a file or a pipe each row is one line, however long."""
    table = new_table(*headings)
    for row in rows:
        table.add_row(*map(escape, row))
    console = out()
    if not console.is_terminal:
        console.width = 1000
    console.print(table)


def caption_table(realignment: Realignment) -> Table:
    """Tags with likelihoods, local captions and how much of the image each mask covers."""
    table = new_table("tag", "confidence", "likelihood", "local caption", "mask")
    table.columns[-1].justify = "right"
    areas = {segment.caption.tag: f"{segment.area:.0%}" for segment in realignment.layout}
    captions = {caption.tag: caption for caption in realignment.captions}
    for tag in realignment.tags:
        caption = captions.get(tag.name)
        likelihood = caption.likelihood.value if caption else ""
        table.add_row(
            escape(tag.name),
            f"{tag.confidence:.2f}",
            f"[{_STYLES[likelihood]}]{likelihood}[/]" if likelihood else "",
            escape(caption.caption) if caption else "",
            areas.get(tag.name, "-"),
        )
    return table


def print_realignment(realignment: Realignment) -> None:
    """Prompt, table, notes and time of one realignment."""
    console = out()
    console.print(f"[bold]{escape(realignment.prompt)}[/]  (seed {realignment.seed})")
    if realignment.tags:
        console.print(caption_table(realignment))
    for note in realignment.notes:
        console.print(f"[yellow]note:[/] {escape(note)}")
    spent = ", ".join(f"{step} {seconds:.1f}" for step, seconds in realignment.timings.items())
    console.print(f"seconds: {spent}", style="dim")
