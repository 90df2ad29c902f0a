"""The command line: a module per command. Thin: parse, call, print.

Nothing heavy is imported before a command needs it, so ``--help`` answers at once.
"""

from __future__ import annotations

from typing import Annotated

import typer

from realignkit import __version__
from realignkit.cli._progress import Command, Commands, collect_seldom, exit_now
from realignkit.cli.ablate import ablate_app
from realignkit.cli.dense import dense
from realignkit.cli.doctor import doctor
from realignkit.cli.env import env_app
from realignkit.cli.eval import eval_app
from realignkit.cli.figure import figure_app
from realignkit.cli.plugin import plugin_app
from realignkit.cli.plugins import plugins_app
from realignkit.cli.run import run
from realignkit.cli.show import show
from realignkit.cli.study import study_app
from realignkit.cli.train import train
from realignkit.cli.ui import ui

app = typer.Typer(
    name="realignkit",
    cls=Commands,
    help="Make text-to-image diffusion models draw what the prompt says (RealignDiff).",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"realignkit {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Make text-to-image diffusion models draw what the prompt says (RealignDiff)."""


for command in (run, ui, dense, train, show, doctor):
    app.command(cls=Command)(command)
app.add_typer(plugins_app, name="plugins")
app.add_typer(plugin_app, name="plugin")
app.add_typer(env_app, name="env")
app.add_typer(ablate_app, name="ablate")
app.add_typer(figure_app, name="figure")
app.add_typer(eval_app, name="eval")
app.add_typer(study_app, name="study")


def main() -> None:
    """The ``realignkit`` command."""
    collect_seldom()
    try:
        app()
    except SystemExit as stop:
        exit_now(stop.code if isinstance(stop.code, int) else int(stop.code is not None))
        raise
