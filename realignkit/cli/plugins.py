"""``realignkit plugins``: what is installed, and which options it has."""

from __future__ import annotations

import typing
from typing import Annotated, Any

import typer
from rich.markup import escape

from realignkit import KINDS
from realignkit.cli._progress import Command, err, new_table, out, print_json, results_only
from realignkit.errors import PluginError

if typing.TYPE_CHECKING:
    from realignkit.registry import PluginInfo

plugins_app = typer.Typer(invoke_without_command=True, help="List plugins, or show the options of one.")


@plugins_app.callback()
def plugins(
    ctx: typer.Context,
    kind: Annotated[str | None, typer.Option(help=f"Only this kind: {', '.join(KINDS)}.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """List plugins: kind, name, what each does, and what to install where something is missing."""
    if ctx.invoked_subcommand is None:
        with results_only():
            _list(kind, as_json)


def _list(kind: str | None, as_json: bool) -> None:
    from realignkit.registry import default_registry

    if kind is not None and kind not in KINDS:
        raise PluginError(f"'{kind}' is no kind of plugin. Kinds: {', '.join(KINDS)}.")
    registry = default_registry()
    infos = registry.infos(kind)
    if as_json:
        listing = {"plugins": [_record(info) for info in infos], "broken": registry.broken}
        print_json(listing)
        return
    table = new_table("kind", "name", "what it does", "available")
    for column in table.columns[:2]:
        column.no_wrap = True
    for info in infos:
        status = "[green]yes[/]" if info.available else f"[yellow]{escape(info.remedy)}[/]"
        table.add_row(info.kind, escape(info.name), escape(info.description), status)
    out().print(table if infos else "no plugins found")
    for source, error in registry.broken.items():
        err().print(f"[red]broken, skipped:[/] {escape(source)}: {escape(error)}")


@plugins_app.command("show", cls=Command)
def show_plugin(
    kind: Annotated[str, typer.Argument(help="generator, tagger, scorer …")],
    name: Annotated[str, typer.Argument(help="As 'realignkit plugins' lists it.")],
) -> None:
    """Show a plugin's options: type, default, meaning."""
    from realignkit.registry import default_registry

    info = default_registry().info(kind, name)
    console = out()
    console.print(f"[bold]{info.kind} {escape(info.name)}[/]: {escape(info.description)}")
    console.print(f"from {escape(info.source)}", style="dim")
    if not info.available:
        console.print(f"[yellow]not available:[/] {escape(info.remedy)}")
        return
    model = info.options_model()
    if model is None or not model.model_fields:
        console.print("It declares no options." if model is None else "It has no options.")
        return
    table = new_table("option", "type", "default", "meaning")
    for option, field in model.model_fields.items():
        default = info.options.get(option, "required" if field.is_required() else _default(field))
        table.add_row(option, escape(_type(field.annotation)), escape(str(default)), escape(field.description or ""))
    console.print(table)
    console.print(f"set one with: realignkit run … --set {kind}.{next(iter(model.model_fields))}=…", style="dim")


def _record(info: PluginInfo) -> dict[str, Any]:
    return {
        "kind": info.kind,
        "name": info.name,
        "description": info.description,
        "source": info.source,
        "available": info.available,
        "missing": list(info.missing),
        "remedy": info.remedy,
    }


def _default(field: Any) -> Any:
    return field.get_default(call_default_factory=not field.default_factory_takes_validated_data)


def _type(annotation: Any) -> str:
    return annotation.__name__ if isinstance(annotation, type) else str(annotation).replace("typing.", "")
