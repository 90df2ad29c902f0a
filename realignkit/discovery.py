"""Importing other people's plugins so that none of them stops, stalls or changes the program that looks for them."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import EntryPoint
from types import ModuleType
from typing import Any, TypeVar

from realignkit.errors import PluginError

T = TypeVar("T")
logger = logging.getLogger(__name__)

TIMEOUT_VARIABLE = "REALIGNKIT_PLUGIN_TIMEOUT"
TIMEOUT = 60.0
"""Seconds that a plugin may take to be imported; the environment variable above sets another number."""

_GUARDED = ("realignkit", "realignkit_plugins", "builtins", "json")
"""Packages and modules in which nothing may be replaced: what we are made of, and what writes our files."""


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
