"""``realignkit plugin``: begin a plugin of one's own."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from realignkit import KINDS
from realignkit.cli._progress import Command, note, out
from realignkit.errors import OptionError

plugin_app = typer.Typer(help="Begin a plugin of your own.")


@plugin_app.callback()
def plugin() -> None:
    """Begin a plugin of your own."""


@plugin_app.command("new", cls=Command)
def new_plugin(
    name: Annotated[str, typer.Argument(help="What users will type: letters, digits and hyphens.")],
    kind: Annotated[str | None, typer.Option(help=f"{', '.join(KINDS)}, or hook.")] = None,
    folder: Annotated[Path | None, typer.Option("--out", help="Where; by default realignkit-NAME.")] = None,
    license: Annotated[str, typer.Option(help="Apache-2.0, MIT or BSD-3-Clause.")] = "Apache-2.0",
    author: Annotated[str, typer.Option(help="Whom the licence names.")] = "",
    publish: Annotated[bool, typer.Option(help="With a workflow that publishes releases on PyPI.")] = False,
    isolated: Annotated[
        bool, typer.Option("--isolated", help="Its work is done in an environment of its own.", show_default=False)
    ] = False,
) -> None:
    """Write a complete project: module, entry point, tests, licence, README, a CI workflow. It works as it is."""
    from realignkit.isolation.environments import remedy
    from realignkit.registry import default_registry
    from realignkit.scaffold import PROJECT_KINDS, isolated_requires, new_project, short_name

    if kind is None:
        if not sys.stdin.isatty():
            raise OptionError(f"say which kind of plugin it shall be: --kind {', '.join(PROJECT_KINDS)}.")
        kind = typer.prompt(f"Kind ({', '.join(PROJECT_KINDS)})", err=True)
    short = short_name(name)
    if taken := [info for info in default_registry().infos(kind) if info.name == short]:
        raise OptionError(f"a {kind} called '{short}' is installed already, from {taken[0].source}. Take another name.")
    target = new_project(name, kind, folder, license=license, author=author, publish=publish, isolated=isolated)
    if short != name:
        rules = [] if name.endswith(short) else ["are lower case, with hyphens"]
        rules += ["go without 'realignkit-' before them"] if len(short) < len(name.strip()) else []
        note(f"the plugin is called '{short}': names {', and '.join(rules)}.")
    console = out()
    for path in sorted(path for path in target.rglob("*") if path.is_file()):
        console.print(escape(str(path)), style="dim")
    steps = [f"cd {target}", "pip install -e '.[test]'", "pytest", "realignkit plugins validate ."]
    if isolated:
        steps.insert(2, remedy(short, isolated_requires(kind)))
    console.print("\nNext:\n" + escape("\n".join(f"  {step}" for step in steps)))
