"""One check after the other, of a plugin that is made or of all that a module registers; each ends in a sentence."""

from __future__ import annotations

import functools
import inspect
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from realignkit import hookspecs
from realignkit.contracts import CONTRACTS, KINDS
from realignkit.errors import FOREIGN, TELL_AUTHOR, OptionError, PluginError, RealignKitError, said_by
from realignkit.hookspecs import PluginInfo
from realignkit.named import Named
from realignkit.registry import Registry, bounded
from realignkit.testing import hooks, judges, making, sources, steps
from realignkit.testing.making import check_documented, import_problem, made_quickly

CHECKS: Mapping[str, Mapping[str, Callable[[Named], object]]] = {
    "generator": sources.GENERATOR,
    "reward": judges.REWARD,
    "tagger": steps.TAGGER,
    "scorer": steps.SCORER,
    "segmenter": steps.SEGMENTER,
    "vqa": steps.VQA,
    "metric": judges.METRIC,
    "prompts": sources.PROMPTS,
}
"""By kind, what its plugins are asked, in this order, until something is wrong: one cause has many consequences."""

_CALLED_WITH: Mapping[str, tuple[str, ...]] = {
    "tagger": ("images",),
    "scorer": ("prompt", "tags"),
    "segmenter": ("image", "phrases"),
    "vqa": ("images", "questions", "choices"),
    "reward": ("images", "prompts"),
    "metric": ("images", "prompts"),
}
_WANTED: Mapping[str, str] = {
    "tagger": "every picture must get its tags, be they none",
    "scorer": "any prompt and any tags should be answered",
    "segmenter": "any picture and any phrases must be answered, with None for what is not found",
    "vqa": "any picture and any question must be answered",
    "reward": "any picture and any prompt must get a number",
    "metric": "any pictures and any prompts must be taken in",
    "": "whatever its contract allows must be answered",
}

Unready = Callable[[PluginInfo], str]


@dataclass(frozen=True)
class Finding:
    """What came of one check.

    Attributes:
        whose: kind and name, as messages have them.
        check: what was looked at, in a word or two.
        problem: what is wrong, a sentence; "" where nothing is.
        skipped: why it was not looked at; "" where it was.
        seconds: that it took.
    """

    whose: str
    check: str
    problem: str = ""
    skipped: str = ""
    seconds: float = 0.0


def check_plugin(plugin: Any, kind: str | None = None) -> None:
    """Hold a plugin against the contract of its kind, or everything that a module registers.

    Weights are loaded, and downloaded where they are not here. A check that takes longer than 60 seconds is given up
    (``REALIGNKIT_PLUGIN_TIMEOUT`` sets another number).

    Args:
        plugin: one that is made (``MyScorer()``), or a module or object with hooks.
        kind: of a plugin that is not derived from its contract's class.

    Raises:
        PluginError: it breaks the contract; a line per problem.
        OptionError: it is nothing of the kind.
    """
    problems = [finding.problem for finding in findings(plugin, kind) if finding.problem]
    if problems:
        raise PluginError("\n".join(problems))


def findings(plugin: Any, kind: str | None = None) -> Iterator[Finding]:
    """Each check of :func:`check_plugin` as it is done.

    Raises:
        OptionError: as there.
    """
    if isinstance(plugin, type):
        raise OptionError(f"check_plugin takes a plugin that is made: {plugin.__name__}().")
    kind = kind or next((kind for kind, contract in CONTRACTS.items() if isinstance(plugin, contract)), None)
    if kind is not None and kind not in KINDS:
        raise OptionError(f"'{kind}' is no kind of plugin. Kinds: {', '.join(KINDS)}.")
    if kind is not None:
        yield from _of_one(Named(kind, type(plugin).__name__, plugin))
    elif _has_hooks(plugin):
        yield from _of_module(plugin)
    else:
        raise OptionError(
            f"{type(plugin).__name__} is of no kind that is known, nor has it hooks. Derive it from its contract "
            f"(realignkit.{', realignkit.'.join(each.__name__ for each in CONTRACTS.values())}), or say kind=…"
        )


def always_ready(info: PluginInfo) -> str:
    """Whatever a plugin needs may be downloaded."""
    return ""


def of_registered(info: PluginInfo, unready: Unready = always_ready) -> Iterator[Finding]:
    """The checks of a plugin that is registered: how it is imported and made, and those of its kind.

    ``unready``: why a plugin cannot be asked here (its weights would have to be downloaded); "" where it can.
    """
    whose = f"{'prompt set' if info.kind == 'prompts' else info.kind} '{info.name}'"
    if not info.available:
        yield Finding(whose, "installed", skipped=f"not checked. Run: {info.remedy}")
        return
    if why := unready(info):
        yield Finding(whose, "ready", skipped=f"not checked: {why}")
        return
    made: list[Any] = []
    first = finding_of(whose, "made", lambda: made.append(made_quickly(info)))
    if first.problem or made[0] is None:
        lacks = first if first.problem else replace(first, skipped=f"not checked: {making.lacking(info)}")
        yield lacks
        return
    yield first
    yield from _of_one(Named(info.kind, info.name, made[0], info.options))


def of_plugin(registry: Registry, module: Any, unready: Unready = always_ready) -> Iterator[Finding]:
    """The checks of everything that a module or object registers in ``registry``; see :func:`of_registered`."""
    source = registry.manager.get_name(module) or ""
    if isinstance(module, ModuleType) and getattr(module, "__spec__", None) is not None:
        whose = f"plugin '{source}'"
        yield finding_of(whose, "imported", lambda: _raise(whose, import_problem(module.__name__)))
    for info in registry.infos():
        if info.source == source:
            yield from of_registered(info, unready)
    for hook, check in hooks.HOOKS.items():
        if any(implementation.plugin is module for implementation in getattr(registry.hook, hook).get_hookimpls()):
            yield finding_of(
                f"hook {hook} of plugin '{source}'", "answers", functools.partial(check, alone(module, source))
            )


def alone(module: Any, source: str) -> Registry:
    """A registry of this plugin and no other."""
    registry = Registry(discover=False)
    registry.register(module, source)
    return registry


def _of_one(plugin: Named) -> Iterator[Finding]:
    yield finding_of(plugin.whose, "documented", lambda: check_documented(plugin))
    for name, check in CHECKS[plugin.kind].items():
        finding = finding_of(plugin.whose, name, functools.partial(_asked, plugin, check))
        yield finding
        if finding.problem:
            return


def _asked(plugin: Named, check: Callable[[Named], object]) -> None:
    """A check; of what the plugin's own code raises it says where that is, and what was wanted."""
    try:
        check(plugin)
    except PluginError as error:
        cause = error.__cause__
        if cause is None or isinstance(cause, RealignKitError):
            raise
        if isinstance(cause, TypeError) and (problem := _signature_problem(plugin)):
            raise plugin.breach(problem) from cause
        if not (place := _place(plugin, cause)):
            raise
        said = str(error).removesuffix(TELL_AUTHOR).rstrip()
        raise PluginError(f"{said} It was raised in {place}: {_WANTED.get(plugin.kind, _WANTED[''])}.") from cause


def _signature_problem(plugin: Named) -> str:
    called = plugin.plugin.update if plugin.kind == "metric" else plugin.plugin
    try:
        signature = inspect.signature(called)
        names = _CALLED_WITH[plugin.kind]
    except (TypeError, ValueError, KeyError):
        return ""
    try:
        signature.bind(*names)
    except TypeError:
        return f"it is called with ({', '.join(names)}), and takes ({', '.join(signature.parameters)})"
    return ""


def _place(plugin: Named, error: BaseException) -> str:
    """The last line of the plugin's own file on the way to an error; "" where none is."""
    made_by = plugin.plugin if inspect.isfunction(plugin.plugin) else type(plugin.plugin)
    try:
        file = inspect.getsourcefile(made_by)
    except TypeError:
        return ""
    lines = [line for frame, line in traceback.walk_tb(error.__traceback__) if frame.f_code.co_filename == file]
    return f"{Path(file).name}, line {lines[-1]}" if file and lines else ""


def _of_module(module: Any) -> Iterator[Finding]:
    name = getattr(module, "__name__", type(module).__name__)
    registry = Registry(discover=False)
    registered = finding_of(f"plugin '{name}'", "registered", lambda: registry.register(module, name))
    yield registered
    if not registered.problem:
        yield from of_plugin(registry, module)


def _has_hooks(plugin: Any) -> bool:
    known = [name for name, value in vars(hookspecs).items() if hasattr(value, "realignkit_spec")]
    return isinstance(plugin, ModuleType) or any(callable(getattr(plugin, name, None)) for name in known)


def _raise(whose: str, problem: str) -> None:
    if problem:
        raise PluginError(f"{whose} {problem}")


def finding_of(whose: str, name: str, check: Callable[[], object]) -> Finding:
    """One check, done in a thread of its own that is left behind where it does not end."""
    start, problem = time.perf_counter(), ""
    try:
        bounded(check)
    except RealignKitError as error:
        problem = str(error).removesuffix(TELL_AUTHOR).rstrip()
        problem = problem if whose in problem else f"{whose}: {problem}"
    except FOREIGN as error:  # of the plugin, outside of what is blamed on it
        problem = f"{whose} failed: {said_by(type(error).__name__, error)}."
    return Finding(whose, name, problem, seconds=time.perf_counter() - start)
