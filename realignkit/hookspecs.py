"""Every hook, with its contract in the docstring; and what a registering one is handed.

A plugin is a module (or object) with functions of these names marked ``@realignkit.hookimpl``, announced
by an entry point of the group ``realignkit``. Implement as many as you like; arguments you do not need can
be left out (pluggy passes by name).

*Registering hooks* hand over a name, where the plugin lives, and one line about it. Nothing is imported
until somebody uses the plugin, so listing plugins stays fast and needs none of their dependencies::

    @realignkit.hookimpl
    def register_scorers(register):
        register("echo", "my_package.echo:EchoScorer", "every tag is certain; its caption is the tag")

``register(name, factory, description, *, requires=(), extra=None, options=None, license="")``:

- ``factory``: ``"module:attribute"`` or a callable; called with the options as keyword arguments;
- ``requires``: import names it needs; ``extra``: the ``realignkit[extra]`` (or any pip requirement) that brings
  them, for the message a user sees;
- ``options``: presets, so that one class can serve several names;
- ``license``: of the checkpoint that it loads by default, as its publisher names it.

*Lifecycle hooks* let a plugin look at, or change, what passes through.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import pluggy

from realignkit.arguments import mapping, words
from realignkit.contracts import CONTRACTS, Options
from realignkit.errors import (
    FOREIGN,
    TELL_AUTHOR,
    OptionError,
    PluginError,
    RealignKitError,
    option_secrets,
    said_by,
    with_article,
)

if TYPE_CHECKING:
    from realignkit.realignment import Realignment
    from realignkit.types import Layout, TrainState

Factory = Callable[..., Any]

hookspec = pluggy.HookspecMarker("realignkit")
hookimpl = pluggy.HookimplMarker("realignkit")
"""Marks a function of a plugin's module as one of the hooks below."""


@hookspec
def register_generators(register: Register) -> None:
    """Register text-to-image models: :class:`realignkit.contracts.Generator`."""


@hookspec
def register_rewards(register: Register) -> None:
    """Register rewards: :class:`realignkit.contracts.Reward`."""


@hookspec
def register_taggers(register: Register) -> None:
    """Register taggers: :class:`realignkit.contracts.Tagger`."""


@hookspec
def register_scorers(register: Register) -> None:
    """Register scorers: :class:`realignkit.contracts.Scorer`."""


@hookspec
def register_segmenters(register: Register) -> None:
    """Register segmenters: :class:`realignkit.contracts.Segmenter`."""


@hookspec
def register_vqa(register: Register) -> None:
    """Register what answers questions about images: :class:`realignkit.contracts.VQA`."""


@hookspec
def register_metrics(register: Register) -> None:
    """Register metrics: :class:`realignkit.contracts.Metric`."""


@hookspec
def register_prompts(register: Register) -> None:
    """Register prompt sets: :class:`realignkit.contracts.PromptSet`."""


@hookspec
def before_refine(prompt: str, layout: Layout) -> Layout | None:
    """Called with each image's layout just before re-sampling.

    Return a layout to use instead, or None to leave it. With several plugins each sees what the one
    before it returned (the order is pluggy's: last registered first, ``tryfirst``/``trylast`` to change it).
    """


@hookspec
def after_realign(realignment: Realignment) -> None:
    """Called with each finished realignment, before it is returned. Look, log, copy; it is frozen."""


@hookspec
def after_train_step(state: TrainState) -> bool | None:
    """Called after each optimizer step of a fine-tuning run, in its main process. Look, log, plot.

    Return True to end the run after this step: it is validated and saved as if it were the last.
    """


# --- what a registering hook is handed --------------------------------------------------------------------------------


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
    license: str = ""

    @property
    def distribution(self) -> str:
        """The package that brings it, with its version; "" where no installed one does."""
        name, _, entry_point = self.source.partition(":")
        try:
            return f"{name} {version(name)}" if entry_point else ""
        except PackageNotFoundError:
            return ""

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

    @property
    def fault(self) -> str:
        """What is wrong with the factory, as far as can be told without importing anything; "" where nothing is."""
        factory: Any = self.factory
        if isinstance(factory, str):
            module, _, attribute = factory.partition(":")
            parent = module.rpartition(".")[0]
            if module in sys.modules:
                imported = sys.modules[module]
                names = getattr(imported, "__dict__", {})
                # Its own __getattr__ (PEP 562) may import, and is not asked.
                if attribute in names or not hasattr(imported, "__getattr__"):
                    return self._fault_of(names.get(attribute))
            elif (not parent or parent in sys.modules) and not _importable(module):
                return f"there is no module '{module}'"
            return ""
        return self._fault_of(factory)

    def _fault_of(self, factory: Any) -> str:
        """What is wrong with what the factory's name stands for; "" where nothing is."""
        if not callable(factory):
            module, _, attribute = str(self.factory).partition(":")
            return f"{module} has no class '{attribute}'"
        kinds = [
            kind for kind, contract in CONTRACTS.items() if isinstance(factory, type) and issubclass(factory, contract)
        ]
        if kinds and self.kind not in kinds:
            return f"{getattr(factory, '__name__', factory)} is {with_article(kinds[0])}, no {self.kind}"
        return ""

    def resolve(self) -> Factory:
        """Import the factory.

        Raises:
            PluginError: a requirement is missing, importing fails, or it is of another kind.
        """
        if not self.available:
            raise PluginError(
                f"{self.kind} '{self.name}' needs {', '.join(self.missing)}, which is not installed. Run: {self.remedy}"
            )
        if callable(self.factory):
            self._check(self.factory)
            return self.factory
        module, _, attribute = self.factory.partition(":")
        try:
            factory: Factory = getattr(importlib.import_module(module), attribute)
        except FOREIGN as error:  # any plugin's import can fail in any way; the user must learn whose it was
            raise PluginError(
                f"{self.kind} '{self.name}' (from {self.source or module}) cannot be imported: "
                f"{said_by(type(error).__name__, error)}. Update or uninstall the package that provides it."
            ) from error
        self._check(factory)
        return factory

    def _check(self, factory: Any) -> None:
        if fault := self._fault_of(factory):
            raise PluginError(f"{self.kind} '{self.name}' (from {self.source}) cannot be used: {fault}. {TELL_AUTHOR}")

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
            said = said_by(type(error).__name__, error, option_secrets({**self.options, **options}))
            raise PluginError(
                f"{self.kind} '{self.name}' could not be made: {said}. "
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
        license: str = "",
    ) -> None:
        """Register one plugin; the arguments are as above.

        Raises:
            PluginError: one of them is not as above.
        """
        if not isinstance(name, str) or not name.replace("_", "").replace("-", "").replace(".", "").isalnum():
            raise PluginError(f"'{name}' is no plugin name: use letters, digits, '_', '-' and '.'.")
        whose = f"{self.kind} '{name}'"
        if not callable(factory) and not (isinstance(factory, str) and ":" in factory):
            raise PluginError(f"{whose}: factory must be callable or 'module:attribute', got {factory!r}.")
        for argument, text in {"description": description, "extra": extra or "", "license": license}.items():
            if not isinstance(text, str):
                raise PluginError(f"{whose}: {argument} must be text, got {text!r}.")
        try:
            needed, presets = words("requires", requires), mapping("options", options)
        except OptionError as error:
            raise PluginError(f"{whose}: {error}") from None
        info = PluginInfo(self.kind, name, description, factory, needed, extra, presets, self.source, license)
        self.infos.append(info)
