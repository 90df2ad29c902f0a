"""Ordinary plugins in processes of their own: which ones a user means, and what stands in for them here."""

from __future__ import annotations

import contextlib
import functools
import importlib
import inspect
import sys
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from realignkit.arguments import words
from realignkit.contracts import KINDS
from realignkit.errors import OptionError, PluginError
from realignkit.isolation import Isolated, environments, resident
from realignkit.isolation.environments import Environment
from realignkit.isolation.process import Process
from realignkit.isolation.values import Held, pack, unpack
from realignkit.named import Named
from realignkit.registry import PluginInfo, Registry

if TYPE_CHECKING:
    from torch import Tensor

TIMEOUT = 3600.0
"""Seconds that an answer may take, the loading of weights included."""

_HERE = Environment("here", Path(sys.prefix), ())


@contextlib.contextmanager
def isolated(registry: Registry, wishes: Sequence[str] | None) -> Iterator[None]:
    """Have :func:`isolate` hold inside, and afterwards no more."""
    before = registry.infos()
    isolate(registry, wishes)
    try:
        yield
    finally:
        registry.substitute(before)


def isolate(registry: Registry, wishes: Sequence[str] | None) -> None:
    """Have plugins made in processes of their own from now on.

    Args:
        registry: where they are looked up.
        wishes: ``WHICH`` or ``WHICH=ENVIRONMENT``. Which is a kind, a name or ``kind.name``; without an environment it
            is the one that a plugin declares, or a process with the same packages as this one.

    Raises:
        PluginError: there is no such plugin.
        OptionError: it cannot be had in another process, or there is no such environment.
    """
    for wish in words("isolate", wishes or ()):
        which, equals, name = (part.strip() for part in wish.partition("="))
        environment = environments.find(name) if equals else None
        if equals and environment is None:
            raise OptionError(
                f"there is no environment '{name}': make it, with realignkit and what brings the plugin in it, by "
                f"{environments.remedy(name, ('realignkit', '…'))}."
            )
        infos = _meant(registry, which)
        if able := [info for info in infos if info.kind != "generator"]:
            registry.substitute([_hosted(info, environment) for info in able])
        else:
            meant = f"a {which}" if which in KINDS else f"{infos[0].kind} '{infos[0].name}'"
            raise OptionError(
                f"{meant} cannot work in another process: the fine stage and training change "
                f"its network layer by layer. Isolate the plugins beside it, by kind or name."
            )


def _meant(registry: Registry, which: str) -> list[PluginInfo]:
    infos = registry.infos()
    meant = [info for info in infos if which in (info.kind, info.name, f"{info.kind}.{info.name}")]
    if not meant:
        near = get_close_matches(which, [*KINDS, *(info.name for info in infos)], n=1)
        hint = f"Did you mean '{near[0]}'? " if near else ""
        raise PluginError(
            f"'{which}' is neither a kind of plugin nor the name of one. {hint}Kinds: {', '.join(KINDS)}; 'realignkit "
            f"plugins' shows the names."
        )
    return meant


def _hosted(info: PluginInfo, environment: Environment | None) -> PluginInfo:
    if isinstance(info.factory, _Factory):
        info = info.factory.info
    # What it needs is looked for where it works.
    return replace(info, factory=_Factory(info, environment), requires=info.requires if environment is None else ())


class _Factory:
    """Stands where the class of a plugin does."""

    def __init__(self, info: PluginInfo, environment: Environment | None) -> None:
        self.info, self._environment = info, environment

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._class, name)

    @functools.cached_property
    def _class(self) -> Any:
        requires = self.info.requires if self._environment is None else ()
        return replace(self.info, requires=requires).resolve()

    def __call__(self, **options: Any) -> Any:
        plugin = self._class(**options)
        if isinstance(plugin, Isolated):
            if self._environment is not None:
                plugin.__dict__["environment"] = self._environment.name
            return plugin
        if self.info.kind == "reward" and hasattr(plugin, "parts"):
            return plugin  # a sum: its parts are plugins, and isolated each by itself
        named = Named(self.info.kind, self.info.name, plugin, options)
        whose = f"{self.info.kind} '{self.info.name}'"
        here = self._environment is None
        told = {
            "paths": [path or str(Path.cwd()) for path in sys.path] if here else [],
            "factory": self._address(whose),
            "options": pack(options),
            "whose": whose,
        }
        program = Path(resident.__file__)
        process = Process(self._environment or _HERE, program, "Plugin", told, TIMEOUT, whose, named.secrets)
        return _STAND_INS.get(self.info.kind, _Called)(plugin, process)

    def _address(self, whose: str) -> str:
        """The factory as ``module:attribute``, under which another process finds it."""
        if isinstance(self.info.factory, str):
            return self.info.factory
        made = self.info.factory
        module, name = getattr(made, "__module__", None), getattr(made, "__qualname__", "<none>")
        if module in (None, "__main__") or "<" in name:
            raise OptionError(
                f"{whose} cannot be made in another process, which would have to import it: register it as "
                f"'module:attribute', of a module that can be imported."
            )
        importlib.import_module(str(module))
        return f"{module}:{name}"


class _StandIn:
    """A plugin in another process.

    Its methods are called there; its attributes are those of one that was made here, and loads nothing.
    """

    def __init__(self, plugin: Any, process: Process, number: int = 0) -> None:
        self._plugin, self._process, self._number = plugin, process, number
        self._start: int | None = None
        self._released: list[int] = []

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        """Whoever asks whether it is a reward is told so."""
        return type(self._plugin)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        value = getattr(self._plugin, name)
        return functools.partial(self._ask, name) if inspect.ismethod(value) else value

    def _ask(self, method: str, *arguments: Any, **named: Any) -> Any:
        given = [Held(each._number) if isinstance(each, _StandIn) else each for each in arguments]
        released, self._released[:] = self._released[:], []
        said = self._process.ask(
            "ask", number=self._number, by=method, arguments=pack(given), named=pack(named), released=released
        )
        return unpack(said)

    def weights_digest(self) -> str:
        """See :func:`realignkit.named.weights_digest`."""
        return str(self._process.ask("weights", number=self._number))

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        twin = type(self)(self._plugin, self._process, self._ask("copy"))
        twin._released = self._released
        weakref.finalize(twin, self._released.append, twin._number)
        return twin


class _Called(_StandIn):
    """One that is called."""

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return self._ask("__call__", *arguments, **named)


class _Reward(_Called):
    """A reward, whose gradient comes back."""

    def _ask(self, method: str, *arguments: Any, **named: Any) -> Any:
        asked: Any = self._rated if method in ("__call__", "guiding") else super()._ask
        return asked(method, *arguments, **named)

    def _rated(self, by: str, images: Tensor, prompts: Sequence[str]) -> Tensor:
        from realignkit.isolation.gradients import rate

        return rate(self._process, images, prompts, self._plugin.differentiable, by)


class _Metric(_StandIn):
    """A metric; what it has seen is in the other process."""

    def _ask(self, method: str, *arguments: Any, **named: Any) -> Any:
        # The process must be the same one all the time.
        if self._start is not None and self._process.starts != self._start:
            raise PluginError("what it had seen ended with its process. Run the same command again, which goes on.")
        said = super()._ask(method, *arguments, **named)
        self._start = self._process.starts
        return said


class _Prompts(_StandIn):
    """A prompt set."""

    def __iter__(self) -> Iterator[str]:
        return iter(self._ask("__iter__"))

    def __len__(self) -> int:
        return int(self._ask("__len__"))


_STAND_INS: dict[str, type[_StandIn]] = {"reward": _Reward, "metric": _Metric, "prompts": _Prompts}
