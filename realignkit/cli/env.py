"""``realignkit env``: environments of their own, for plugins whose packages cannot live beside ours."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape

from realignkit.cli._progress import Command, err, out, print_table

env_app = typer.Typer(help="Environments of their own, for plugins whose packages cannot live beside ours.")


@env_app.command("create", cls=Command)
def create(
    name: Annotated[str, typer.Argument(help="As the plugin names it: letters, digits and hyphens.")],
    requires: Annotated[list[str] | None, typer.Option(help="What to install, as pip takes it; repeatable.")] = None,
    python: Annotated[str | None, typer.Option(help="Its interpreter: a path, or a version, such as 3.8.")] = None,
) -> None:
    """Make an environment, with uv where it is there, else with venv and pip. Downloads what it is told to install."""
    from realignkit.isolation import environments

    with err().status(f"installing {escape(', '.join(requires or []) or 'nothing')} …"):
        environment = environments.create(name, requires or [], python)
    out().print(f"environment {escape(name)}: {escape(str(environment.folder))}")


@env_app.command("list", cls=Command)
def list_environments() -> None:
    """List the environments, and what was installed into each."""
    from realignkit.isolation import environments

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
