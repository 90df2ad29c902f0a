"""Plugins found, made and looked up by name; and how none of them stops, stalls or changes the program meanwhile."""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from difflib import get_close_matches
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType
from typing import Any, TypeVar

import pluggy

from realignkit import hookspecs
from realignkit.arguments import shown
from realignkit.contracts import KINDS
from realignkit.errors import PluginError, RealignKitError, blame, said_by
from realignkit.hookspecs import PluginInfo as PluginInfo
from realignkit.hookspecs import Register as Register
from realignkit.requirements import NAME, check_version

ENTRY_POINT_GROUP = "realignkit"
logger = logging.getLogger(__name__)
skipped = logging.getLogger(f"{__name__}.skipped")
"""Warns of broken plugins as they are found; a command that lists them itself switches it off meanwhile."""

TIMEOUT_VARIABLE = "REALIGNKIT_PLUGIN_TIMEOUT"
TIMEOUT = 60.0
"""Seconds that a plugin may take to be imported; the environment variable above sets another number."""

_GUARDED = ("realignkit", "realignkit_plugins", "builtins", "json")
"""Packages and modules in which nothing may be replaced: what we are made of, and what writes our files."""

T = TypeVar("T")


class Registry:
    """All plugins of this process: first-party, installed, and registered by hand.

    A plugin that fails to load is kept in :attr:`broken` (name -> error) and never stops the others.
    """

    def __init__(self, *, discover: bool = True) -> None:
        self.manager = pluggy.PluginManager("realignkit")
        self.manager.add_hookspecs(hookspecs)
        self.broken: dict[str, str] = {}
        self._infos: dict[tuple[str, str], PluginInfo] = {}
        if discover:
            for entry_point in sorted(entry_points(group=ENTRY_POINT_GROUP), key=_rank):
                self._load(entry_point)

    def _load(self, entry_point: EntryPoint) -> None:
        distribution = entry_point.dist.name if entry_point.dist else ""
        source = f"{distribution}:{entry_point.name}" if distribution else entry_point.name
        try:
            check_version(entry_point.dist)
            with prints_of(source):
                plugin = load_plugin(entry_point)
            self.register(plugin, source)
        except Exception as error:  # somebody else's code; named, recorded, skipped
            self.broken[source] = str(error) if isinstance(error, RealignKitError) else failure(error, entry_point)
            skipped.warning("plugin %s is broken and was skipped: %s", source, self.broken[source])

    def register(self, plugin: object, name: str | None = None) -> None:
        """Add a module or object with hook implementations.

        Raises:
            PluginError: a name is taken, or the hooks do not fit their specifications. Nothing of the plugin stays.
        """
        if plugin is None:
            raise PluginError("a plugin is a module or an object with hooks, not None.")
        try:
            source = self.manager.register(plugin, name) or name or repr(plugin)
        except (ValueError, pluggy.PluginValidationError) as error:
            raise PluginError(f"{name or plugin!r}: {error}") from error
        try:
            _check_hooks(self.manager, plugin)
            infos = self._collect(plugin, source)
        except Exception:
            self.manager.unregister(plugin)
            raise
        self._infos.update(infos)

    def _collect(self, plugin: object, source: str) -> dict[tuple[str, str], PluginInfo]:
        collected: dict[tuple[str, str], PluginInfo] = {}
        for kind in KINDS:
            register = Register(kind, source)
            hook = self._alone(hook_name(kind), plugin)
            if hook.get_hookimpls():
                with prints_of(source):
                    bounded(functools.partial(hook, register=register))
            for info in register.infos:
                key = (kind, info.name)
                taken = self._infos.get(key) or collected.get(key)
                if taken:
                    raise PluginError(
                        f"{kind} '{info.name}' is already registered by {taken.source}; "
                        f"rename it or uninstall one of the two."
                    )
                collected[key] = info
        return collected

    def unregister(self, plugin: object) -> None:
        """Remove a plugin and everything it registered.

        Raises:
            PluginError: it is not registered.
        """
        source = self.manager.get_name(plugin)
        if source is None or plugin is None:
            raise PluginError(f"{shown(plugin)} is not registered here: give the very plugin that was.")
        self.manager.unregister(plugin)
        self._infos = {key: info for key, info in self._infos.items() if info.source != source}

    def substitute(self, infos: Iterable[PluginInfo]) -> None:
        """Have plugins stand for those that are registered under the same kinds and names."""
        self._infos |= {(info.kind, info.name): info for info in infos}

    def infos(self, kind: str | None = None) -> list[PluginInfo]:
        """What is registered, by kind then name."""
        infos = [info for info in self._infos.values() if kind in (None, info.kind)]
        return sorted(infos, key=lambda info: (KINDS.index(info.kind), info.name))

    def info(self, kind: str, name: str) -> PluginInfo:
        """Look a plugin up.

        Raises:
            PluginError: no plugin of that kind has the name; the message suggests near ones.
        """
        if kind not in KINDS:
            raise PluginError(f"'{kind}' is no kind of plugin. Kinds: {', '.join(KINDS)}.")
        if not isinstance(name, str):
            raise PluginError(f"a {kind}'s name is text, not {shown(name)}.")
        info = self._infos.get((kind, name))
        if info is None:
            names = [info.name for info in self.infos(kind)]
            near = get_close_matches(name, names, n=1)
            hint = f"Did you mean '{near[0]}'? " if near else ""
            broken = f" Skipped as broken: {', '.join(self.broken)}." if self.broken else ""
            raise PluginError(
                f"no {kind} is called '{name}'. {hint}Known: {', '.join(names) or 'none'}.{broken} "
                f"'realignkit plugins' shows them all."
            )
        return info

    def create(self, kind: str, name: str, **options: Any) -> Any:
        """Make a plugin by name; see :meth:`PluginInfo.create`."""
        return self.info(kind, name).create(**options)

    def call_each(self, hook: str, arguments: Callable[[], Mapping[str, Any]]) -> Iterator[tuple[str, Any]]:
        """Call a lifecycle hook of one plugin after the other, in pluggy's order: who it is, and a result of it.

        Args:
            hook: its name.
            arguments: asked before each plugin, so that each can get copies, or what came of the one before.

        Raises:
            PluginError: a plugin failed.
        """
        # One at a time, so that an error has a name and results can be chained; wrappers still work.
        implementations = getattr(self.hook, hook).get_hookimpls()
        for plugin in [implementation.plugin for implementation in reversed(implementations)]:
            whose = f"hook {hook} of plugin '{self.manager.get_name(plugin) or repr(plugin)}'"
            with blame(whose):
                results = self._alone(hook, plugin)(**arguments())
            yield from ((whose, result) for result in (results if isinstance(results, list) else [results]))

    @property
    def hook(self) -> pluggy.HookRelay:
        """The lifecycle hooks of all plugins, to be called."""
        return self.manager.hook

    def _alone(self, hook: str, plugin: object) -> pluggy.HookCaller:
        others = [other for other in self.manager.get_plugins() if other is not plugin]
        return self.manager.subset_hook_caller(hook, remove_plugins=others)


def _rank(entry_point: EntryPoint) -> tuple[bool, str, str]:
    """Where an entry point stands: who comes later with a name that is taken is skipped.

    Realignkit's own come first, the others in an order that does not depend on the file system.
    """
    foreign = entry_point.dist is None or (entry_point.dist.name or "").lower() != NAME
    return foreign, entry_point.value, entry_point.name


def failure(error: Exception, entry_point: EntryPoint) -> str:
    """Why what an entry point names could not be loaded, and what to do."""
    if isinstance(error, ModuleNotFoundError) and error.name and f"{entry_point.module}.".startswith(f"{error.name}."):
        remedy = "Its entry point names a module that is not there: install the package again, or uninstall it."
    elif isinstance(error, ModuleNotFoundError):
        remedy = "Install the package that brings it, or uninstall the plugin."
    else:
        remedy = "Tell its author, or uninstall it."
    return f"{said_by(type(error).__name__, error)}. {remedy}"


def _check_hooks(manager: pluggy.PluginManager, plugin: object) -> None:
    """Refuse a plugin with a hook that would be passed over: unknown, or not marked as one."""
    known = [name for name, value in vars(hookspecs).items() if hasattr(value, "realignkit_spec")]
    options: dict[str, Any] = {name: manager.parse_hookimpl_opts(plugin, name) for name in dir(plugin)}
    marked = {name: given for name, given in options.items() if given is not None}
    for name, given in marked.items():
        if name not in known and not given["optionalhook"]:
            near = get_close_matches(name, known, n=1)
            hint = f"Did you mean '{near[0]}'?" if near else f"Hooks: {', '.join(known)}."
            raise PluginError(f"it implements '{name}', which is no hook. {hint}")
    if unmarked := [name for name in known if name not in marked and callable(getattr(plugin, name, None))]:
        raise PluginError(f"its '{unmarked[0]}' is not marked as a hook: write @realignkit.hookimpl above it.")
    if not marked:
        near = [name for name in dir(plugin) if get_close_matches(name, known, n=1)]
        hint = f" Did you mean '{get_close_matches(near[0], known, n=1)[0]}' by '{near[0]}'?" if near else ""
        raise PluginError(f"it implements no hook of realignkit.{hint} Hooks: {', '.join(known)}.")


def hook_name(kind: str) -> str:
    """The registering hook of a kind: ``register_scorers`` for ``scorer``."""
    return f"register_{kind if kind in ('vqa', 'prompts') else f'{kind}s'}"


@functools.cache
def default_registry() -> Registry:
    """The process-wide registry, discovered at first use."""
    return Registry()


# --- other people's code ----------------------------------------------------------------------------------------------


def load_plugin(entry_point: EntryPoint) -> Any:
    """Import what an entry point names.

    Raises:
        PluginError: it ended the program, took too long, or replaced something of ours, which is put back.
        Exception: whatever else importing it raises.
    """
    before, log = _guarded(), (logging.root.level, logging.root.handlers[:])
    threads = set(threading.enumerate())
    try:
        plugin = bounded(entry_point.load)
    finally:
        # Also of one that has failed half-way.
        replaced = _restore(before, entry_point.module.partition(".")[0])
        logging.root.level, logging.root.handlers[:] = log  # how the program logs is not a plugin's to say
    if replaced:
        raise PluginError(f"it replaced {', '.join(replaced)}, which is put back. Tell its author.")
    if started := set(threading.enumerate()) - threads:
        logger.warning(
            "plugin %s has started %d threads while it was imported; they end with the program. Tell its author.",
            entry_point.name,
            len(started),
        )
    return plugin


@contextlib.contextmanager
def prints_of(name: str) -> Iterator[None]:
    """Send what is printed meanwhile to standard error, each line with whose it is."""
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            yield
    finally:
        for line in printed.getvalue().splitlines():
            print(f"plugin {name} prints: {line}", file=sys.stderr)


def bounded(work: Callable[[], T]) -> T:
    """``work()`` in a thread of its own, which is left behind where it does not come to an end in time.

    Threads that it starts are daemons as this one is, so nothing waits for them.

    Raises:
        PluginError: it ended the program (``sys.exit``), or took too long.
        Exception: whatever else it raises.
    """
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:  # raised again below, where somebody listens
            errors.append(error)

    seconds = _timeout()
    thread = threading.Thread(target=run, name="realignkit-plugin", daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise PluginError(
            f"it did not finish within {seconds:g} s. Uninstall it, or give it longer with {TIMEOUT_VARIABLE}."
        )
    if errors and isinstance(errors[0], Exception):
        raise errors[0]
    if errors:
        raise PluginError(f"it ended the program ({type(errors[0]).__name__}: {errors[0]}). Tell its author.")
    return results[0]


def _timeout() -> float:
    given = os.environ.get(TIMEOUT_VARIABLE, "")
    try:
        seconds = float(given or TIMEOUT)
    except ValueError:
        seconds = 0.0
    # Not NaN, and no more than a thread can wait for.
    return seconds if 0 < seconds < threading.TIMEOUT_MAX else TIMEOUT


def _guarded() -> dict[str, tuple[ModuleType, dict[str, Any]]]:
    return {
        name: (module, dict(vars(module)))
        for name, module in sys.modules.copy().items()
        if name.partition(".")[0] in _GUARDED and isinstance(module, ModuleType)
    }


def _restore(before: Mapping[str, tuple[ModuleType, Mapping[str, Any]]], package: str) -> list[str]:
    """Undo what the import of ``package`` has replaced in guarded modules; what that was."""
    if package in _GUARDED:
        return []
    replaced = []
    for name, (module, values) in before.items():
        for attribute, value in values.items():
            if vars(module).get(attribute, value) is not value or attribute not in vars(module):
                setattr(module, attribute, value)
                replaced.append(f"{name}.{attribute}")
    # Modules of ours that it was the first to import: nothing is known of how they were, so they are imported again.
    fresh = {name: module for name, (module, _) in _guarded().items() if name not in before}
    foreign = [
        f"{name}.{attribute}"
        for name, module in fresh.items()
        for attribute, value in vars(module).items()
        if str(getattr(value, "__module__", "")).partition(".")[0] == package
    ]
    if foreign:
        for name in fresh:
            del sys.modules[name]
            parent, _, child = name.rpartition(".")
            if parent in sys.modules:
                vars(sys.modules[parent]).pop(child, None)
    return replaced + foreign
