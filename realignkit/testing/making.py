"""How a plugin comes to be: what its import costs and does, how it is made from options, what it says of itself."""

from __future__ import annotations

import copy
import inspect
import json
import os
import pickle
import subprocess
import sys
import time
from typing import Any

from realignkit.contracts import Options, Plugin
from realignkit.errors import OptionError, PluginError, said_by
from realignkit.hookspecs import PluginInfo
from realignkit.named import Named

HEAVY = (
    *("torch", "torchvision", "tensorflow", "jax", "diffusers", "transformers", "accelerate", "peft", "timm"),
    *("cv2", "matplotlib", "onnxruntime", "open_clip", "pandas", "scipy", "skimage", "sklearn"),
)
"""Packages that are slow to import: a plugin does it where it uses them, as 'realignkit plugins' imports every one."""

QUICK = 5.0
"""Processor seconds that no plugin needs that loads its weights at first use, however slow the machine."""

_PICKLING = ("__getstate__", "__setstate__", "__reduce__", "__reduce_ex__")

_IMPORT = """
import contextlib, io, json, logging, sys, threading
from importlib.metadata import EntryPoint
from realignkit.registry import load_plugin
before, printed = set(sys.modules), io.StringIO()
threads, error, real = threading.active_count(), "", sys.stdout
configured = []
logging.basicConfig = lambda *a, **k: configured.append(1)
try:
    with contextlib.redirect_stdout(printed):
        load_plugin(EntryPoint("it", sys.argv[1], "realignkit"))
except BaseException as problem:
    error = str(problem) if type(problem).__module__ == "realignkit.errors" else f"{type(problem).__name__}: {problem}"
facts = {
    "error": error, "printed": printed.getvalue(), "threads": threading.active_count() - threads,
    "modules": sorted({name.partition(".")[0] for name in set(sys.modules) - before}), "logs": bool(configured),
}
real.write("\\n" + json.dumps(facts))
real.flush()
import os; os._exit(0)
"""


def import_problem(value: str) -> str:
    """What is wrong with how a module is imported, in a process of its own; a sentence about it, "" where nothing is.

    ``value``: of an entry point: a module, or ``module:object``.
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
    command = [sys.executable, "-c", _IMPORT, value]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    try:
        facts = json.loads(done.stdout.rpartition("\n")[2])
    except ValueError:
        return f"ends the process that imports it (exit code {done.returncode}): do nothing at import but define."
    if facts["error"]:
        return f"cannot be imported: {facts['error'].rstrip('.')}."
    if heavy := [name for name in HEAVY if name in facts["modules"]]:
        return (
            f"imports {', '.join(heavy)}, and 'realignkit plugins' imports it: put the class into a module of its own, "
            f"or import inside of methods."
        )
    if facts["printed"].strip():
        line = facts["printed"].strip().splitlines()[0]
        return f"prints while it is imported ('{line[:60]}'): use logging.getLogger(__name__), which users can silence."
    if facts["threads"] > 0:
        return f"starts {facts['threads']} threads while it is imported: start them at first use, as daemons."
    if facts["logs"]:
        return "changes how the program logs (logging.basicConfig): leave that to the program."
    return ""


def lacking(info: PluginInfo) -> str:
    """The options that a plugin cannot be made without, as what to do; "" where there is none."""
    model = info.options_model()
    needed = [name for name, field in (model.model_fields.items() if model else ()) if field.is_required()]
    missing = [name for name in needed if name not in info.options]
    return f"it needs {', '.join(missing)} with each use" if missing else ""


def made_quickly(info: PluginInfo) -> Any:
    """The plugin with its default options; None where it needs some (see :func:`lacking`).

    Raises:
        PluginError, OptionError: it cannot be imported or made, or is slow to make.
    """
    if lacking(info):
        return None
    info.resolve()
    start = time.process_time()  # a machine with other things to do is not the plugin's fault
    plugin = info.create()
    if (seconds := time.process_time() - start) > QUICK:
        raise PluginError(
            f"{info.kind} '{info.name}' takes {seconds:.0f} s to be made: load weights at first use, not in __init__."
        )
    return plugin


def check_documented(plugin: Named) -> None:
    """Say what a plugin does, what each option means, and refuse others; ``check`` and ``out_of_reach`` give texts.

    Raises:
        PluginError: one of that is not so.
    """
    cls, problems = type(plugin.plugin), []
    if not inspect.isfunction(plugin.plugin) and not (cls.__doc__ or "").strip():
        problems.append(f"{plugin.whose} has no docstring: say in a line what {cls.__name__} does.")
    model = getattr(plugin.plugin, "Options", None)
    if isinstance(model, type):
        if not issubclass(model, Options):
            raise PluginError(f"{plugin.whose}: derive its Options from realignkit.Options, which refuses wrong names.")
        if bare := [name for name, field in model.model_fields.items() if not field.description]:
            options = f"option '{bare[0]}' has" if len(bare) == 1 else f"options {', '.join(map(repr, bare))} have"
            example = f'write {bare[0]}: … = Field(…, description="…").'
            problems.append(f"{plugin.whose}: {options} no description, which 'realignkit plugins' shows: {example}")
    if problems:
        raise PluginError(" ".join(problems))
    if isinstance(model, type) and isinstance(plugin.plugin, Plugin) and cls.__init__ is Plugin.__init__:
        _check_refusal(plugin, cls)
    for method in ("check", "out_of_reach"):
        if plugin.has(method):
            with plugin.blame():
                said = getattr(plugin.plugin, method)()
            if not isinstance(said, str):
                raise plugin.breach(f"{method}() must return text, empty where nothing is wrong, not {said!r}")


def _check_refusal(plugin: Named, cls: type) -> None:
    try:
        cls(no_such_option=1)
    except OptionError:
        return
    raise plugin.breach("it takes options that it does not have: let Options forbid others (extra='forbid')")


def check_pickled(plugin: Named) -> None:
    """A plugin that says how it is pickled comes back with the options that it went with.

    Raises:
        PluginError: it does not.
    """
    cls = type(plugin.plugin)
    if not any(name in vars(each) for each in cls.__mro__ if each is not object for name in _PICKLING):
        return
    with plugin.blame():
        back = pickle.loads(pickle.dumps(plugin.plugin))
    if getattr(back, "options", None) != getattr(plugin.plugin, "options", None):
        raise plugin.breach("pickled and read back it has other options")


def copied(plugin: Named) -> Any:
    """A copy that shares nothing, of a plugin that the engine copies.

    Raises:
        PluginError: it cannot be copied.
    """
    try:
        return copy.deepcopy(plugin.plugin)
    except Exception as error:
        said = said_by(type(error).__name__, error, plugin.secrets)
        raise plugin.breach(f"it cannot be copied (copy.deepcopy: {said})") from error
