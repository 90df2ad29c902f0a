"""``realignkit doctor``: what works on this machine, and what to do about the rest. No network, no weights."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from realignkit.cli.console import out
from realignkit.errors import RealignKitError

if TYPE_CHECKING:
    from realignkit.registry import PluginInfo

_STYLES = {"ready": "green", "on first use": "cyan", "not ready": "yellow", "not installed": "dim", "broken": "red"}
_GIB = 2**30


@dataclass(frozen=True)
class Finding:
    """A plugin's state: "ready", "on first use" (downloads then), "not ready", "not installed" or "broken"."""

    kind: str
    name: str
    state: str
    remedy: str = ""


def doctor(as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False) -> None:
    """Check device, memory, extras, keys and checkpoints, and say which commands will work."""
    from realignkit.assembly import versions
    from realignkit.registry import default_registry

    registry = default_registry()
    cached = cached_models()
    findings = [examine(info, cached) for info in registry.infos()]
    findings += [Finding("plugin", source, "broken", error) for source, error in registry.broken.items()]
    machine = {**versions(), **machine_facts()}
    working = commands(findings)
    if as_json:
        listing = {"machine": machine, "plugins": [asdict(finding) for finding in findings], "commands": working}
        typer.echo(json.dumps(listing, indent=2, ensure_ascii=False))
        return
    console = out()
    for name, value in machine.items():
        console.print(f"[bold]{name}[/] {escape(str(value))}")
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("kind", "name", "state", "what to do"):
        table.add_column(heading, no_wrap=heading != "what to do")
    for finding in findings:
        state = f"[{_STYLES[finding.state]}]{finding.state}[/]"
        table.add_row(finding.kind, escape(finding.name), state, escape(finding.remedy))
    console.print()
    console.print(table)
    console.print("\n[bold]These commands will work:[/]")
    for command in working:
        console.print(f"  {escape(command)}")


def examine(info: PluginInfo, cached: frozenset[str]) -> Finding:
    """What state a plugin is in, by its requirements, its own ``check`` and the models in the hub's cache."""
    if not info.available:
        return Finding(info.kind, info.name, "not installed", info.remedy)
    try:
        model = info.options_model()
        needed = [n for n, f in (model.model_fields.items() if model else ()) if f.is_required()]
        if missing := [name for name in needed if name not in info.options]:
            return Finding(info.kind, info.name, "ready", f"needs {', '.join(missing)} with each use")
        plugin = info.create()
        problem = plugin.check() if hasattr(plugin, "check") else ""
    except RealignKitError as error:
        return Finding(info.kind, info.name, "broken", " ".join(str(error).split()))
    except Exception as error:  # somebody else's code; the doctor must reach the next patient
        return Finding(info.kind, info.name, "broken", f"{type(error).__name__}: {error}. Tell its author.")
    if problem:
        return Finding(info.kind, info.name, "not ready", problem)
    source = getattr(getattr(plugin, "options", None), "model", None)
    repository = hub_repository(source) if _reads_checkpoints(plugin) else None
    if repository is not None and repository not in cached:
        return Finding(info.kind, info.name, "on first use", f"downloads {repository} from the hub")
    return Finding(info.kind, info.name, "ready")


def _reads_checkpoints(plugin: Any) -> bool:
    # The model of a service is a name there, and none of a checkpoint.
    return not hasattr(getattr(plugin, "options", None), "base_url")


def hub_repository(model: Any) -> str | None:
    """``owner/name`` of an option that means a model on the hub; None for a folder, a file, or an embedded one."""
    if not isinstance(model, str) or Path(model).expanduser().exists():
        return None
    repository = model.partition(":")[0]
    owner, slash, name = repository.partition("/")
    right = slash and owner and name and "/" not in name and not model.startswith((".", "/", "~"))
    return repository if right else None


def cached_models() -> frozenset[str]:
    """The models in the hub's cache on this machine, ``owner/name``."""
    from huggingface_hub import scan_cache_dir

    try:
        return frozenset(repository.repo_id for repository in scan_cache_dir().repos)
    except Exception:  # there is no cache yet, or it cannot be read: nothing is cached, as far as anybody can tell
        return frozenset()


def machine_facts() -> dict[str, Any]:
    """Device, memory, disk, and which keys are set (never their values)."""
    import torch

    facts: dict[str, Any] = {}
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        facts["device"] = f"{torch.cuda.get_device_name()}, {free / _GIB:.1f} of {total / _GIB:.1f} GiB free"
    else:
        facts["device"] = "mps" if torch.backends.mps.is_available() else "cpu (full-size models are slow on it)"
    facts["cpu cores"] = os.cpu_count() or 1
    if "SC_PHYS_PAGES" in os.sysconf_names:
        page = os.sysconf("SC_PAGE_SIZE") / _GIB
        total_memory = page * os.sysconf("SC_PHYS_PAGES")
        free_memory = f"{page * os.sysconf('SC_AVPHYS_PAGES'):.1f} GiB free of " if _can_tell_free() else ""
        facts["memory"] = f"{free_memory}{total_memory:.1f} GiB"
    facts["disk"] = f"{shutil.disk_usage(Path.cwd()).free / _GIB:.1f} GiB free here"
    for variable in ("OPENAI_API_KEY", "HF_TOKEN"):
        facts[variable] = "set" if os.environ.get(variable) else "not set"
    return facts


def _can_tell_free() -> bool:
    return "SC_AVPHYS_PAGES" in os.sysconf_names


def commands(findings: list[Finding]) -> list[str]:
    """Commands that can be typed as they are, those without a download first."""
    able = [finding for finding in findings if finding.state in ("ready", "on first use")]
    names = {kind: [f for f in able if f.kind == kind] for kind in ("generator", "scorer")}
    scorers = ",".join([f.name for f in names["scorer"] if f.state == "ready" and f.name != "lexical"])
    found = []
    for finding in sorted(names["generator"], key=lambda finding: finding.state != "ready"):
        if finding.remedy and finding.state == "ready":
            continue  # needs an option that nobody can guess
        note = f"   # {finding.remedy}" if finding.remedy else ""
        found.append(f'realignkit run "a red book and a yellow pen" --model {finding.name}{note}')
    if found and scorers:
        found.append(f'realignkit run "a red book and a yellow pen" --scorer {scorers},lexical')
    if any(finding.kind == "generator" and finding.name == "micro" and finding.state == "ready" for finding in able):
        found.append("realignkit ablate scorers --limit 20")
    return found
