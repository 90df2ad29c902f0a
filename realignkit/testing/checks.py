"""One check after the other, of a plugin that is made or of all that a module registers; each ends in a sentence."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

from realignkit import contracts, hookspecs
from realignkit.contracts import KINDS
from realignkit.errors import FOREIGN, TELL_AUTHOR, OptionError, PluginError, RealignKitError
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

CONTRACTS = {
    kind: getattr(contracts, {"prompts": "PromptSet", "vqa": "VQA"}.get(kind, kind.capitalize())) for kind in KINDS
}


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


def of_registered(info: PluginInfo) -> Iterator[Finding]:
    """The checks of a plugin that is registered: how it is imported and made, and those of its kind."""
    whose = f"{'prompt set' if info.kind == 'prompts' else info.kind} '{info.name}'"
    if not info.available:
        yield Finding(whose, "installed", skipped=f"not checked. Run: {info.remedy}")
        return
    made: list[Any] = []
    first = _finding(whose, "made", lambda: made.append(made_quickly(info)))
    if first.problem or made[0] is None:
        lacks = first if first.problem else replace(first, skipped=f"not checked: {making.lacking(info)}")
        yield lacks
        return
    yield first
    yield from _of_one(Named(info.kind, info.name, made[0], info.options))


def _of_one(plugin: Named) -> Iterator[Finding]:
    yield _finding(plugin.whose, "documented", lambda: check_documented(plugin))
    for name, check in CHECKS[plugin.kind].items():
        finding = _finding(plugin.whose, name, functools.partial(check, plugin))
        yield finding
        if finding.problem:
            return


def _of_module(module: Any) -> Iterator[Finding]:
    name = getattr(module, "__name__", type(module).__name__)
    registry = Registry(discover=False)
    registered = _finding(f"plugin '{name}'", "registered", lambda: registry.register(module, name))
    yield registered
    if registered.problem:
        return
    if isinstance(module, ModuleType) and getattr(module, "__spec__", None) is not None:
        yield _finding(f"plugin '{name}'", "imported", lambda: _raise(f"plugin '{name}'", import_problem(name)))
    for info in registry.infos():
        yield from of_registered(info)
    for hook, check in hooks.HOOKS.items():
        if getattr(registry.hook, hook).get_hookimpls():
            yield _finding(f"hook {hook} of plugin '{name}'", "answers", functools.partial(check, registry))


def _has_hooks(plugin: Any) -> bool:
    known = [name for name, value in vars(hookspecs).items() if hasattr(value, "realignkit_spec")]
    return isinstance(plugin, ModuleType) or any(callable(getattr(plugin, name, None)) for name in known)


def _raise(whose: str, problem: str) -> None:
    if problem:
        raise PluginError(f"{whose} {problem}")


def _finding(whose: str, name: str, check: Callable[[], object]) -> Finding:
    """One check, done in a thread of its own that is left behind where it does not end."""
    start, problem = time.perf_counter(), ""
    try:
        bounded(check)
    except RealignKitError as error:
        problem = str(error).removesuffix(TELL_AUTHOR).rstrip()
        problem = problem if whose in problem else f"{whose}: {problem}"
    except FOREIGN as error:  # of the plugin, outside of what is blamed on it
        problem = f"{whose} failed: {type(error).__name__}: {error}."
    return Finding(whose, name, problem, seconds=time.perf_counter() - start)
