"""For authors of plugins: the contract of each kind, held against a plugin of theirs.

:func:`check_plugin` raises what is wrong, :func:`findings` lists what was looked at. With pytest come the fixtures of
:mod:`realignkit.testing.fixtures`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from realignkit.testing.checks import Finding, check_plugin, findings
    from realignkit.testing.examples import HOSTILE_PROMPTS, PROMPTS, hostile_images, tiny_images

_HOME = {
    "checks": ("Finding", "check_plugin", "findings"),
    "examples": ("HOSTILE_PROMPTS", "PROMPTS", "hostile_images", "tiny_images"),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__all__ = ["HOSTILE_PROMPTS", "PROMPTS", "Finding", "check_plugin", "findings", "hostile_images", "tiny_images"]


def __getattr__(name: str) -> Any:
    # pytest imports this package in every session, of whatever project.
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'realignkit.testing' has no attribute '{name}'")
    return getattr(importlib.import_module(f"realignkit.testing.{_MODULE_OF[name]}"), name)
