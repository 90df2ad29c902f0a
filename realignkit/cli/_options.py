"""Options that several commands have, and the prompts that one of them names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from realignkit.cli._progress import note

if TYPE_CHECKING:
    from realignkit.contracts import PromptSet
    from realignkit.registry import Registry


MODEL_TO_SEE = "micro_256"
"""Draws, where no model is named, what people are going to look at. Commands that train or measure take ``micro``: the
same pictures, smaller, and decoded in a tenth of the time."""
ModelName = Annotated[str, typer.Option("--model", help="A generator's name, or a folder, file or hub id of a model.")]
TaggerName = Annotated[str | None, typer.Option("--tagger", help="Names the objects. Default: the model's companion.")]
ScorerNames = Annotated[str | None, typer.Option("--scorer", help="Judges the tags; a chain such as gpt4,lexical.")]
SegmenterName = Annotated[
    str | None, typer.Option("--segmenter", help="Finds the objects. Default: the model's companion.")
]
SelectBy = Annotated[str | None, typer.Option("--select-by", help="The reward that chooses the best candidate.")]
GuideBy = Annotated[
    str | None,
    typer.Option("--guide-by", metavar="REWARD", help="The reward whose gradient guides sampling; takes longer."),
]
Threads = Annotated[
    int | None, typer.Option("--threads", min=1, help="CPU threads. Default: 1 for tiny models, else the machine's.")
]
Isolate = Annotated[
    list[str] | None,
    typer.Option(
        "--isolate",
        metavar="KIND|NAME[=ENV]",
        help="Run plugins in processes of their own, also in an environment of 'realignkit env'; repeatable.",
    ),
]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Show logs and tracebacks.")]


def isolate_plugins(ctx: typer.Context, wishes: Sequence[str] | None) -> None:
    """Have ``--isolate`` hold until the command ends.

    Raises:
        OptionError, PluginError: as for :func:`realignkit.isolation.hosted.isolate`.
    """
    if wishes:
        from realignkit.isolation.hosted import isolated
        from realignkit.registry import default_registry

        ctx.with_resource(isolated(default_registry(), wishes))


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
