"""``realignkit plugins``: what is installed, which options it has, and whether it keeps its contract."""

from __future__ import annotations

import typing
from dataclasses import asdict
from difflib import get_close_matches
from typing import Annotated, Any

import typer
from rich.markup import escape
from typer.core import TyperGroup

from realignkit import KINDS
from realignkit.cli._progress import (
    EXIT_SOME_FAILED,
    Bars,
    Command,
    err,
    new_table,
    out,
    print_json,
    print_table,
    registry_to_list,
    results_only,
)
from realignkit.errors import PluginError

if typing.TYPE_CHECKING:
    from realignkit.registry import PluginInfo


class _NamesToo(TyperGroup):
    """A group where a plugin's name stands for showing it: ``realignkit plugins clip``."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command of a name; see the class."""
        known = args[0] in self.commands or args[0].startswith("-")
        return super().resolve_command(ctx, args if known else ["show", *args])


plugins_app = typer.Typer(
    cls=_NamesToo,
    invoke_without_command=True,
    help="List plugins, show one (realignkit plugins NAME), or hold it against its contract.",
    subcommand_metavar="[NAME | COMMAND] [ARGS]...",
)


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
    if kind is not None and kind not in KINDS:
        raise PluginError(f"'{kind}' is no kind of plugin. Kinds: {', '.join(KINDS)}.")
    registry = registry_to_list()
    infos = registry.infos(kind)
    if as_json:
        listing = {"plugins": [_record(info) for info in infos], "broken": registry.broken}
        print_json(listing)
        return
    table = new_table("kind", "name", "what it does", "available")
    for column in table.columns[:2]:
        column.no_wrap = True
    for info in infos:
        lacks = info.remedy or info.fault
        status = f"[yellow]{escape(lacks)}[/]" if lacks else "[green]yes[/]"
        table.add_row(info.kind, escape(info.name), escape(info.description), status)
    out().print(table if infos else "no plugins found")
    for source, error in registry.broken.items():
        err().print(f"[red]broken, skipped:[/] {escape(source)}: {escape(error)}")


@plugins_app.command("show", cls=Command)
def show_plugin(
    kind: Annotated[str, typer.Argument(metavar="[KIND]", help="generator, tagger, scorer …; may be left out.")],
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="As 'realignkit plugins' lists it.")] = None,
) -> None:
    """Show a plugin: options with type, default and meaning, the package it is from, the licence of its checkpoint."""
    from realignkit.registry import default_registry

    registry = default_registry()
    if name is not None:
        _show(registry.info(kind, name))
        return
    named = [info for info in registry.infos() if info.name == kind]
    if not named:
        names = sorted({info.name for info in registry.infos()})
        near = get_close_matches(kind, names, n=1)
        hint = f"Did you mean '{near[0]}'? " if near else ""
        raise PluginError(f"no plugin is called '{kind}'. {hint}'realignkit plugins' lists them all.")
    for number, info in enumerate(named):
        if number:
            out().print()
        _show(info)


def _show(info: PluginInfo) -> None:
    console = out()
    console.print(f"[bold]{info.kind} {escape(info.name)}[/]: {escape(info.description)}")
    package = f", package {info.distribution}" if info.distribution else ""
    console.print(f"from {escape(info.source)}{escape(package)}", style="dim")
    if info.license:
        console.print(f"licence of its checkpoint: {escape(info.license)}", style="dim")
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
    console.print(f"set one with: realignkit run … --set {info.kind}.{next(iter(model.model_fields))}=…", style="dim")


@plugins_app.command("validate", cls=Command)
def validate_plugin(
    target: Annotated[
        str,
        typer.Argument(metavar="PATH|NAME", help="A project's folder, a Python file, an installed package or plugin."),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """Hold plugins against their contracts; exit code 1 where one breaks it. Downloads nothing."""
    from realignkit.registry import default_registry
    from realignkit.testing.targets import validate

    bars, findings = Bars(), []
    with bars:
        for finding in validate(target, default_registry(), _unready):
            findings.append(finding)
            bars.step("checking", len(findings), None, f"{finding.whose} {finding.check}")
    if as_json:
        print_json([asdict(finding) for finding in findings])
    else:
        rows = [
            (finding.whose, finding.check, finding.problem or finding.skipped or "ok", f"{finding.seconds:.1f}")
            for finding in findings
        ]
        print_table(("plugin", "check", "result", "s"), rows)
    problems = sum(bool(finding.problem) for finding in findings)
    skipped = sum(bool(finding.skipped) for finding in findings)
    err().print(
        f"{len(findings)} checks: {f'{problems} found something' if problems else 'nothing is wrong'}"
        + (f", {skipped} could not be made here" if skipped else "")
    )
    if problems:
        raise typer.Exit(EXIT_SOME_FAILED)


def _unready(info: PluginInfo) -> str:
    """Why a plugin cannot work here without a download, a key or an option."""
    from realignkit.cli.doctor import cached_models, examine

    finding = examine(info, cached_models())
    return finding.remedy if finding.state in ("on first use", "not ready", "ready") else ""


def _record(info: PluginInfo) -> dict[str, Any]:
    return {
        "kind": info.kind,
        "name": info.name,
        "description": info.description,
        "source": info.source,
        "available": info.available and not info.fault,
        "missing": list(info.missing),
        "remedy": info.remedy or info.fault,
    }


def _default(field: Any) -> Any:
    return field.get_default(call_default_factory=not field.default_factory_takes_validated_data)


def _type(annotation: Any) -> str:
    return annotation.__name__ if isinstance(annotation, type) else str(annotation).replace("typing.", "")
