"""Discovery, look-up by name, options and availability of plugins."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import pluggy

from realignkit import hookspecs
from realignkit.arguments import shown
from realignkit.contracts import KINDS, Options
from realignkit.discovery import bounded, load_plugin, prints_of
from realignkit.errors import FOREIGN, PluginError, RealignKitError, blame

ENTRY_POINT_GROUP = "realignkit"
logger = logging.getLogger(__name__)

Factory = Callable[..., Any]


@dataclass(frozen=True)
class PluginInfo:
    """A registered plugin: what ``realignkit plugins`` shows, and how to make one."""

    kind: str
    name: str
    description: str
    factory: Factory | str
    requires: tuple[str, ...] = ()
    extra: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""

    @property
    def missing(self) -> tuple[str, ...]:
        """The import names in ``requires`` that are not installed."""
        return tuple(name for name in self.requires if not _importable(name))

    @property
    def available(self) -> bool:
        """Whether everything in ``requires`` is installed."""
        return not self.missing

    @property
    def remedy(self) -> str:
        """What to install, as a command; empty when available."""
        if self.available:
            return ""
        if self.extra is None:
            return f"pip install {' '.join(self.missing)}"
        # An extra of ours by its bare name, anything else a pip requirement of the plugin's own.
        requirement = f"realignkit[{self.extra}]" if self.extra.isidentifier() else self.extra
        return f"pip install '{requirement}'"

    def resolve(self) -> Factory:
        """Import the factory.

        Raises:
            PluginError: a requirement is missing, or importing fails.
        """
        if not self.available:
            raise PluginError(
                f"{self.kind} '{self.name}' needs {', '.join(self.missing)}, which is not installed. Run: {self.remedy}"
            )
        if callable(self.factory):
            return self.factory
        module, _, attribute = self.factory.partition(":")
        try:
            factory: Factory = getattr(importlib.import_module(module), attribute)
        except FOREIGN as error:  # any plugin's import can fail in any way; the user must learn whose it was
            raise PluginError(
                f"{self.kind} '{self.name}' (from {self.source or module}) cannot be imported: "
                f"{type(error).__name__}: {error}. Update or uninstall the package that provides it."
            ) from error
        return factory

    def options_model(self) -> type[Options] | None:
        """The plugin's options class, if it declares one (imports the plugin)."""
        model = getattr(self.resolve(), "Options", None)
        return model if isinstance(model, type) and issubclass(model, Options) else None

    def create(self, **options: Any) -> Any:
        """Make the plugin with these options (over its presets).

        Raises:
            PluginError: it is unavailable or its constructor fails.
            OptionError: an option is unknown or has a bad value.
        """
        factory = self.resolve()
        try:
            return factory(**{**self.options, **options})
        except RealignKitError:
            raise
        except FOREIGN as error:  # as above: name the culprit, keep the cause
            raise PluginError(
                f"{self.kind} '{self.name}' could not be made: {type(error).__name__}: {error}. "
                f"Check its options ({', '.join(options) or 'none given'})."
            ) from error


@functools.cache
def _importable(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


@dataclass
class Register:
    """What a registering hook is handed: call it once per plugin."""

    kind: str
    source: str
    infos: list[PluginInfo] = field(default_factory=list)

    def __call__(
        self,
        name: str,
        factory: Factory | str,
        description: str,
        *,
        requires: Iterable[str] = (),
        extra: str | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        """Register one plugin; see :mod:`realignkit.hookspecs`."""
        if not name or not name.replace("_", "").replace("-", "").replace(".", "").isalnum():
            raise PluginError(f"'{name}' is no plugin name: use letters, digits, '_', '-' and '.'.")
        if not callable(factory) and ":" not in factory:
            raise PluginError(f"{self.kind} '{name}': factory must be callable or 'module:attribute', got {factory!r}.")
        presets = dict(options or {})
        info = PluginInfo(self.kind, name, description, factory, tuple(requires), extra, presets, self.source)
        self.infos.append(info)


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
            # Sorted, so that which of two plugins wins a name does not depend on the file system.
            for entry_point in sorted(entry_points(group=ENTRY_POINT_GROUP), key=lambda e: (e.value, e.name)):
                self._load(entry_point)

    def _load(self, entry_point: EntryPoint) -> None:
        distribution = entry_point.dist.name if entry_point.dist else ""
        source = f"{distribution}:{entry_point.name}" if distribution else entry_point.name
        try:
            with prints_of(source):
                plugin = load_plugin(entry_point)
            self.register(plugin, source)
        except Exception as error:  # somebody else's code; named, recorded, skipped
            ours = isinstance(error, RealignKitError)
            self.broken[source] = str(error) if ours else f"{type(error).__name__}: {error}"
            logger.warning("plugin %s is broken and was skipped: %s", source, self.broken[source])

    def register(self, plugin: object, name: str | None = None) -> None:
        """Add a module or object with hook implementations.

        Raises:
            PluginError: a name is taken, or the hooks do not fit their specifications. Nothing of the plugin stays.
        """
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
        """Remove a plugin and everything it registered."""
        source = self.manager.get_name(plugin)
        self.manager.unregister(plugin)
        self._infos = {key: info for key, info in self._infos.items() if info.source != source}

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
    return f"register_{kind.removesuffix('s')}s"


@functools.cache
def default_registry() -> Registry:
    """The process-wide registry, discovered at first use."""
    return Registry()
