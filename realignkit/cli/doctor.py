"""``realignkit doctor``: what works on this machine, and what to do about the rest. No network, no weights."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from realignkit.cli._progress import new_table, out, print_json, registry_to_list
from realignkit.errors import FOREIGN, PluginError, RealignKitError, said_by
from realignkit.machine import bf16_speedup

if TYPE_CHECKING:
    from realignkit.registry import PluginInfo, Registry

_STYLES = {"ready": "green", "on first use": "cyan", "not ready": "yellow", "not installed": "dim", "broken": "red"}
_GIB = 2**30


@dataclass(frozen=True)
class Finding:
    """A plugin's state: "ready", "on first use" (downloads then), "not ready", "not installed" or "broken"."""

    kind: str
    name: str
    state: str
    remedy: str = ""
    downloads: tuple[str, ...] = ()

    @property
    def usable(self) -> bool:
        """Whether it works as it is: "ready" with a remedy is short of an option that nobody can guess."""
        return self.state == "on first use" or (self.state == "ready" and not self.remedy)


def doctor(as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False) -> None:
    """Check device, memory, extras, keys and checkpoints, and say which commands will work."""
    from realignkit.provenance import versions

    registry = registry_to_list()
    cached = cached_models()
    findings = [examine(info, cached) for info in registry.infos()]
    findings += [Finding("plugin", source, "broken", error) for source, error in registry.broken.items()]
    machine = {**versions(), **machine_facts()}
    working = commands(findings, registry)
    if as_json:
        listing = {"machine": machine, "plugins": [asdict(finding) for finding in findings], "commands": working}
        print_json(listing)
        return
    console = out()
    for name, value in machine.items():
        console.print(f"[bold]{name}[/] {escape(str(value))}")
    table = new_table("kind", "name", "state", "what to do")
    for column in table.columns[:-1]:
        column.no_wrap = True
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
    except FOREIGN as error:  # somebody else's code; the doctor must reach the next patient
        return Finding(info.kind, info.name, "broken", f"{said_by(type(error).__name__, error)}. Tell its author.")
    if problem:
        return Finding(info.kind, info.name, "not ready", problem)
    if absent := absent_repositories([plugin], cached):
        return Finding(info.kind, info.name, "on first use", f"downloads {' and '.join(absent)} from the hub", absent)
    return Finding(info.kind, info.name, "ready")


def hub_repositories(plugin: Any) -> list[str]:
    """The models on the hub that a plugin's options name, ``owner/name`` each."""
    from pydantic import BaseModel

    options = getattr(plugin, "options", None)
    # The model of a service is a name there, and none of a checkpoint.
    names = type(options).model_fields if isinstance(options, BaseModel) and not hasattr(options, "base_url") else ()
    values = {name: getattr(options, name) for name in names if not name.endswith("revision")}
    if hub_repository(values.get("model")) is None:
        values.pop("tokenizer", None)  # a folder brings its own
    repositories = [hub_repository(value) for value in values.values()]
    for part in ("reward", "vqa"):
        if part in values:
            repositories += hub_repositories(getattr(plugin, part))  # what a metric measures with
    if (borrowed := getattr(plugin, "borrowed", None)) is not None:
        repositories += hub_repositories(borrowed)  # whose features it compares
    return [repository for repository in dict.fromkeys(repositories) if repository is not None]


def absent_repositories(plugins: Iterable[Any], cached: frozenset[str] | None = None) -> tuple[str, ...]:
    """Of the models on the hub that plugins' options name, those not in its cache (``cached``; None: look)."""
    named = dict.fromkeys(repository for plugin in plugins for repository in hub_repositories(plugin))
    if cached is None:
        cached = cached_models() if named else frozenset()
    return tuple(repository for repository in named if repository not in cached)


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
    facts["bf16 on the cpu"] = _bf16(bf16_speedup())
    if "SC_PHYS_PAGES" in os.sysconf_names:
        page = os.sysconf("SC_PAGE_SIZE") / _GIB
        total_memory = page * os.sysconf("SC_PHYS_PAGES")
        free_memory = f"{page * os.sysconf('SC_AVPHYS_PAGES'):.1f} GiB free of " if _can_tell_free() else ""
        facts["memory"] = f"{free_memory}{total_memory:.1f} GiB"
    facts["disk"] = f"{shutil.disk_usage(Path.cwd()).free / _GIB:.1f} GiB free here"
    for variable in ("OPENAI_API_KEY", "HF_TOKEN"):
        facts[variable] = "set" if os.environ.get(variable) else "not set"
    return facts


def _bf16(speedup: float) -> str:
    worth = "worth dtype=bf16, mixed_precision=bf16" if speedup > 1 else "leave dtype and mixed_precision to 'auto'"
    return f"{speedup:.2g} times as fast as float32, as measured now: {worth}"


def _can_tell_free() -> bool:
    return "SC_AVPHYS_PAGES" in os.sysconf_names


def commands(findings: list[Finding], registry: Registry) -> list[str]:
    """Commands that work as they are printed; those that download something first come later, and say what."""
    from realignkit.resolve import LAST_SCORER

    usable = {(finding.kind, finding.name): finding for finding in findings if finding.usable}
    runs = [run_command(registry, info, usable) for info in registry.infos("generator")]
    working = [command for command in runs if command and "#" not in command]
    working += [command for command in runs if command and "#" in command]
    scorers = [name for kind, name in usable if kind == "scorer" and name != LAST_SCORER]
    if working and scorers:
        working.append(f'realignkit run "a red book and a yellow pen" --scorer {",".join([*scorers, LAST_SCORER])}')
    if ("generator", "micro") in usable:
        working.append("realignkit ablate scorers --limit 20")
    return working


def run_command(registry: Registry, info: PluginInfo, usable: Mapping[tuple[str, str], Finding]) -> str | None:
    """``realignkit run`` with a generator; None where it cannot be refined, or what goes with it is missing."""
    from realignkit.resolve import choose, companions_of

    generator = usable.get((info.kind, info.name))
    if generator is None or getattr(info.create(), "attention_family", None) is None:
        return None
    # A folder of its own: what one model has drawn there another refuses to go on with.
    where = f"--model {info.name} --out realignments/{info.name}"
    parts, command = [generator], f'realignkit run "a red book and a yellow pen" {where}'
    for kind in ("tagger", "segmenter"):
        try:
            name = choose(registry, kind, None, companions_of(info))[0].name
        except PluginError:
            name = ""
        if (kind, name) not in usable:
            others = [other for known, other in usable if known == kind]
            if not others:
                return None
            name = others[0]
            command += f" --{kind} {name}"
        parts.append(usable[kind, name])
    downloads = dict.fromkeys(repository for part in parts for repository in part.downloads)
    return f"{command}   # downloads {' and '.join(downloads)} from the hub" if downloads else command
