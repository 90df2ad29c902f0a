"""What the terminal is sent."""

from __future__ import annotations

import io
import sys

import pytest
import typer
from rich.table import Table
from typer.testing import CliRunner

from realignkit.cli._progress import Bars, Command, Commands, TerminalSafe, out, results_only


@pytest.mark.parametrize("markup", [True, False])
def test_control_sequences_of_others_are_shown_not_sent(markup):
    file = io.StringIO()
    console = TerminalSafe(file=file, soft_wrap=True)
    console.print("a \x1b]0;title\x07red \x1b[2Jcar\x9b31m\nnew\tline", markup=markup)
    table = Table(box=None)
    table.add_column("name")
    table.add_row("\x1b[2Jrow")
    console.print(table)
    assert file.getvalue().startswith("a \\x1b]0;title\\x07red \\x1b[2Jcar\\x9b31m\nnew")
    assert "\\x1b[2Jrow" in file.getvalue()
    assert not {"\x1b", "\x07", "\x9b"} & set(file.getvalue())


def test_styles_are_still_styles():
    file = io.StringIO()
    TerminalSafe(file=file, force_terminal=True).print("[bold]red[/]")
    assert "\x1b[1mred" in file.getvalue()


def test_standard_output_is_for_results(capsys):
    with results_only():
        print("somebody else")
        with results_only():
            out().print("a result")
        print("somebody else", file=sys.stdout)
        out().print("another")
    print("after")
    assert capsys.readouterr() == ("a result\nanother\nafter\n", "somebody else\nsomebody else\n")


@pytest.mark.parametrize("code", [0, None, 3, "bye"])
def test_a_command_that_something_ends_is_no_success(code):
    app = typer.Typer(cls=Commands)

    @app.callback()
    def root() -> None: ...

    @app.command(cls=Command)
    def work() -> None:
        sys.exit(code)

    done = CliRunner().invoke(app, ["work"])
    assert done.exit_code == 2
    assert f"ended the program (exit code {code}) before the command was done" in " ".join(done.stderr.split())


def test_a_terminal_is_shown_a_bar_for_each_step(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    with Bars() as bars:
        bars.step("train", 0, None)
        bars.step("train", 3, 8, "train [loss 0.5]")
        bars.step("tag", 4, 4)
        bars.step("tag", 1, 2)  # the next batch
        bars.say("saved [so far]", "dim")
        assert [(task.completed, task.total, task.description) for task in bars._progress.tasks] == [
            (3, 8, "train [loss 0.5]"),
            (1, 2, "tag"),
        ]
    shown = capsys.readouterr()
    assert "saved [so far]" in shown.err
    assert "train [loss 0.5]" in shown.err
    assert shown.out == ""


def test_others_than_terminals_are_shown_lines_alone(capsys):
    with Bars() as bars:
        bars.step("tag", 1, 2)
        bars.say("saved", "dim")
    with Bars(shown=False) as bars:
        bars.say("nothing", "dim")
    assert capsys.readouterr() == ("", "saved\n")
