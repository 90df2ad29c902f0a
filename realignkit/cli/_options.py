"""Prompts that a command names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from realignkit.cli._progress import note

if TYPE_CHECKING:
    from realignkit.contracts import PromptSet
    from realignkit.registry import Registry


def prompt_set(registry: Registry, spec: str, options: dict[str, Any] | None = None) -> PromptSet:
    """:func:`realignkit.prompts.prompt_set`, with a line on what a file holds.

    Raises:
        OptionError, PluginError, PromptError: as for that.
    """
    from realignkit import prompts

    made: PromptSet = prompts.prompt_set(registry, spec, options).plugin
    if summary := getattr(made, "summary", ""):
        note(summary)
    return made


def read_prompts(registry: Registry, spec: str) -> list[str]:
    """The prompts of :func:`prompt_set`.

    Raises:
        OptionError, PluginError, PromptError: as for that.
    """
    from realignkit.calls import texts_of
    from realignkit.named import Named

    return texts_of(Named("prompts", spec, prompt_set(registry, spec)))
