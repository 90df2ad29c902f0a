"""Prompt sets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from realignkit import hookimpl

if TYPE_CHECKING:
    from realignkit.hookspecs import Register


@hookimpl
def register_prompts(register: Register) -> None:
    """Prompts of your own, from a file."""
    register("file", "realignkit_plugins.prompts.file:FilePrompts", "a text file (a prompt a line) or a CSV column")
