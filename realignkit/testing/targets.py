"""What ``realignkit plugins validate`` looks at: a project, a file, an installed package, or one plugin."""

from __future__ import annotations

import importlib
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path
from types import ModuleType
from typing import Any

from realignkit import __version__
from realignkit.errors import PluginError
from realignkit.registry import ENTRY_POINT_GROUP, Registry, bounded, prints_of
from realignkit.requirements import compatible, requirements_on_us
from realignkit.testing.checks import Finding, Unready, always_ready, finding_of, of_plugin, of_registered


def validate(target: str, registry: Registry, unready: Unready = always_ready) -> Iterator[Finding]:
    """Each check of a target as it is done.

    Args:
        target: a folder with a ``pyproject.toml``, a Python file with hooks; else the name of an installed package, of
            an entry point, or of a plugin of any kind.
        registry: of what is installed.
        unready: see :func:`realignkit.testing.checks.of_registered`.

    Raises:
        PluginError: there is no such thing.
    """
    path = Path(target).expanduser()
    if path.is_dir() or path.suffix == ".py":
        yield from _project(path, registry, unready) if path.is_dir() else _file(path, registry, unready)
        return
    named = [info for info in registry.infos() if info.name == target]
    sources = [source for source, _ in registry.manager.list_name_plugin() if target in (source, *source.split(":"))]
    broken = [source for source in registry.broken if target in (source, *source.split(":"))]
    if not (named or sources or broken):
        raise PluginError(
            f"'{target}' is no folder, no Python file, and nothing that is installed is called so. "
            f"'realignkit plugins' lists what is."
        )
    for source in broken:
        yield Finding(f"plugin '{source}'", "loaded", f"plugin '{source}' is skipped: {registry.broken[source]}")
    for distribution in dict.fromkeys(source.partition(":")[0] for source in sources if ":" in source):
        if distribution != ENTRY_POINT_GROUP:
            yield _requirement(distribution, _required(distribution))
    for source in sources:
        yield from of_plugin(registry, registry.manager.get_plugin(source), unready)
    for info in [] if sources else named:
        yield from of_registered(info, unready)


def _project(folder: Path, registry: Registry, unready: Unready) -> Iterator[Finding]:
    whose = f"project {folder.resolve().name}"
    file = folder / "pyproject.toml"
    try:
        project = tomllib.loads(file.read_text(encoding="utf-8"))["project"]
        points = dict(project.get("entry-points", {}).get(ENTRY_POINT_GROUP, {}))
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise PluginError(f"{file} does not describe a project: {type(error).__name__}: {error}.") from None
    if not points:
        yield Finding(
            whose,
            "entry points",
            f"{whose} announces no plugin: its pyproject.toml needs a table [project.entry-points.{ENTRY_POINT_GROUP}] "
            f'with a line such as {folder.resolve().name} = "module".',
        )
        return
    yield _requirement(whose, project.get("dependencies", []))
    paths = [str(each.resolve()) for each in (folder / "src", folder) if each.is_dir()]
    for name, value in points.items():
        yield from _imported(f"{project.get('name', whose)}:{name}", str(value), paths, registry, unready)


def _file(file: Path, registry: Registry, unready: Unready) -> Iterator[Finding]:
    if not file.is_file():
        raise PluginError(f"there is no file {file}.")
    yield from _imported(file.stem, file.stem, [str(file.resolve().parent)], registry, unready)


def _imported(source: str, value: str, paths: list[str], registry: Registry, unready: Unready) -> Iterator[Finding]:
    """The checks of what an entry point names, found on these paths; the registry has it meanwhile."""
    module, _, attribute = (part.strip() for part in value.partition(":"))
    top = module.partition(".")[0]
    if top in sys.stdlib_module_names:
        problem = f"plugin '{source}' is a module '{top}', as Python has one of its own: give it another name."
        yield Finding(f"plugin '{source}'", "loaded", problem)
        return
    known, made, others = registry.manager.get_plugin(source), list[Any](), _from_elsewhere(top, paths)
    if others and known is not None:
        registry.unregister(known)
    for name in others:
        del sys.modules[name]
    sys.path[:0] = paths
    importlib.invalidate_caches()

    def load() -> None:
        with prints_of(source):
            loaded: ModuleType = importlib.import_module(module)
        made.append(getattr(loaded, attribute) if attribute else loaded)
        if made[0] is not known:
            registry.register(made[0], source)

    try:
        loaded = finding_of(f"plugin '{source}'", "loaded", lambda: bounded(load))
        yield loaded
        if not loaded.problem:
            yield from of_plugin(registry, made[0], unready)
    finally:
        sys.path[:] = [path for path in sys.path if path not in paths]
        if made and made[0] is not known and registry.manager.is_registered(made[0]):
            registry.unregister(made[0])
        if others:
            for name in _modules_of(top):
                del sys.modules[name]
            sys.modules.update(others)
            if known is not None:
                registry.register(known, source)


def _modules_of(top: str) -> dict[str, ModuleType]:
    return {name: module for name, module in sys.modules.items() if name.partition(".")[0] == top}


def _from_elsewhere(top: str, paths: list[str]) -> dict[str, ModuleType]:
    """What has been imported by this name and below it, unless it lies on the paths (an installed copy, say)."""
    modules = _modules_of(top)
    file = getattr(modules.get(top), "__file__", None)
    here = file is not None and any(Path(file).resolve().is_relative_to(path) for path in paths)
    return {} if here else modules


def _requirement(whose: str, lines: list[str]) -> Finding:
    """Whether a package says which realignkit it is made for, and this one is."""
    wanted = requirements_on_us(lines)
    if not any(each.specifier for each in wanted):
        problem = (
            f'{whose} does not say which realignkit it is made for: add "realignkit{compatible(__version__)}" to its '
            f"dependencies, and another one skips it in a sentence."
        )
        return Finding(whose, "requires", problem)
    wrong = [each for each in wanted if not each.specifier.contains(__version__, prereleases=True)]
    return Finding(
        whose,
        "requires",
        f"{whose} requires realignkit {wrong[0].specifier}, and this is {__version__}." if wrong else "",
    )


def _required(distribution: str) -> list[str]:
    try:
        return requires(distribution) or []
    except PackageNotFoundError:
        return []
