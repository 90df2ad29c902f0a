"""The program that runs an ordinary plugin, one written for realignkit's own process, in a process of its own.

It is started as any program of :mod:`realignkit.isolation` is, in an environment that holds realignkit too.
"""

from __future__ import annotations

import copy
import functools
import importlib
import itertools
import sys
from typing import Any


class PluginError(Exception):
    """Goes for realignkit's own, which may be missing here."""


class Plugin:
    """The plugin, and copies of it, by number; 0 is the first one.

    Args:
        paths: where modules are looked for beside this environment's own places.
        factory: ``module:attribute``.
        options: what it is called with, packed.
        whose: the plugin, as messages call it.
    """

    def __init__(self, paths: list[str], factory: str, options: Any, whose: str) -> None:
        sys.path.extend(path for path in paths if path not in sys.path)
        try:
            from realignkit.isolation import values
            from realignkit.machine import suited_threads
            from realignkit.named import weights_digest
        except ImportError as error:
            raise PluginError(
                f"{whose} is written for realignkit, which that environment lacks ({error}). Install realignkit there "
                f"too, or give it a program ('isolate a package' in the docs)."
            ) from None
        self._values, self._suited_threads, self._weights_digest = values, suited_threads, weights_digest
        self._numbers = itertools.count(1)
        module, _, attribute = factory.partition(":")
        make: Any = functools.reduce(getattr, attribute.split("."), importlib.import_module(module))
        self._plugins = {0: make(**values.unpack(options))}

    def ask(self, number: int, by: str, arguments: Any, named: Any, released: list[int]) -> Any:
        """What a method (``by``) says, packed; ``copy`` makes another one, and says its number.

        ``released``: the numbers of copies that nobody needs any more.
        """
        import torch

        for each in released:
            self._plugins.pop(each, None)
        plugin = self._plugins[number]
        if by == "copy":
            kept = next(self._numbers)
            self._plugins[kept] = copy.deepcopy(plugin)
            return kept
        held = self._values.Held
        given = [
            self._plugins[each.number] if isinstance(each, held) else each for each in self._values.unpack(arguments)
        ]
        with torch.no_grad(), self._suited_threads(plugin):
            return self._values.pack(getattr(plugin, by)(*given, **self._values.unpack(named)))

    def __call__(self, images: Any, prompts: list[str]) -> Any:
        """Rewards, with their gradient."""
        return self._plugins[0](images, prompts)

    def guiding(self, images: Any, prompts: list[str]) -> Any:
        """See :class:`realignkit.contracts.Reward`."""
        return self._plugins[0].guiding(images, prompts)

    def weights(self, number: int) -> str:
        """See :func:`realignkit.named.weights_digest`."""
        return str(self._weights_digest(self._plugins[number]))
