"""Prompts that a command names: a file, standard input, or a prompt set."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from realignkit.cli._progress import note
from realignkit.errors import OptionError, PluginError, PromptError

if TYPE_CHECKING:
    from realignkit.contracts import PromptSet
    from realignkit.registry import Registry


def is_file(spec: str) -> bool:
    """Whether a file is meant, which perhaps is not there, and no prompt set; ``-`` is standard input."""
    from realignkit.tables import STDIN, TABLES

    path = Path(spec).expanduser()
    # A pipe is a file too: --prompts <(command).
    there = path.exists() and not path.is_dir()
    return spec == STDIN or there or path.suffix.lower() in (".txt", *TABLES)


def prompt_set(registry: Registry, spec: str, options: dict[str, Any] | None = None) -> PromptSet:
    """The prompt set that is meant, and a line on what a file holds.

    Args:
        registry: where prompt sets are looked up.
        spec: a file, ``-`` (standard input), or a prompt set: ``micro``, ``micro:train``, ``micro:train,size=500``,
            ``file:prompts.csv,column=caption``. A value without a name is that of the set's first option.
        options: over those in ``spec``.

    Raises:
        OptionError: the file cannot be read, or an option is wrong.
        PluginError: there is no such prompt set.
        PromptError: there are no prompts in it.
    """
    from realignkit.calls import texts_of
    from realignkit.cli._settings import value_of
    from realignkit.named import Named

    given: dict[str, Any] = {}
    if is_file(spec):
        info = registry.info("prompts", "file")
        given["path"] = spec
    else:
        name, _, text = spec.partition(":")
        try:
            info = registry.info("prompts", name)
        except PluginError as error:
            raise PluginError(f"there is no file '{spec}', and {error}") from None
        model = info.options_model()
        first = next(iter(model.model_fields), None) if model is not None else None
        for part in filter(None, text.split(",")):
            option, equals, value = part.partition("=")
            if not equals and first is None:
                raise OptionError(f"prompt set '{name}' has no options: write '{name}' alone, not '{spec}'.")
            given[option if equals else str(first)] = value_of(value if equals else part)
    found: PromptSet = info.create(**given, **(options or {}))
    if not any(prompt.strip() for prompt in texts_of(Named("prompts", info.name, found))):
        raise PromptError(f"there are no prompts in '{spec}'. Write one a line, or give a prompt set that has some.")
    if summary := getattr(found, "summary", ""):
        note(summary)
    return found


def read_prompts(registry: Registry, spec: str) -> list[str]:
    """The prompts of :func:`prompt_set`.

    Raises:
        OptionError, PluginError, PromptError: see there.
    """
    from realignkit.calls import texts_of
    from realignkit.named import Named

    return texts_of(Named("prompts", spec, prompt_set(registry, spec)))
