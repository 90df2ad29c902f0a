"""``realignkit ablate``: the paper's ablations, measured here."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from realignkit.cli._options import prompt_set
from realignkit.cli._progress import (
    EXIT_SOME_FAILED,
    Bars,
    Command,
    Threads,
    loading,
    out,
    set_verbosity,
    writes_into,
)
from realignkit.machine import suited_threads

if TYPE_CHECKING:
    from realignkit.evaluation.tables import Cell
    from realignkit.registry import Registry

ablate_app = typer.Typer(no_args_is_help=True, help="Measure what a part of the method is worth.")
_KINDS = ("generator", "tagger", "scorer")


@ablate_app.callback()
def ablate() -> None:
    """Measure what a part of the method is worth."""


@ablate_app.command(cls=Command)
def scorers(
    ctx: typer.Context,
    model: Annotated[str, typer.Option(help="Draws the images: a generator's name, a folder or a hub id.")] = "micro",
    tagger: Annotated[
        list[str] | None, typer.Option(help="Repeatable. Default: the model's companion.", show_default=False)
    ] = None,
    scorer: Annotated[
        list[str] | None, typer.Option(help="Repeatable; each is asked alone.", show_default="lexical")
    ] = None,
    prompts: Annotated[
        str, typer.Option(metavar="FILE|NAME", help="A file (.txt, .csv, .tsv, .jsonl), - or a prompt set.")
    ] = "micro",
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many prompts.")] = None,
    seed: Annotated[list[int] | None, typer.Option(help="Start noise; repeatable.", show_default="42")] = None,
    folder: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where to write; resumes what is there.")] = Path(
        "ablations/scorers"
    ),
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="An option, e.g. scorer.gpt4.model=…; repeatable."),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images per forward pass.")] = 8,
    threads: Threads = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Tracebacks and the libraries' messages.")] = False,
) -> None:
    """Table IV: taggers by scorers, how often a scorer's answer is right, and why not."""
    set_verbosity(ctx, verbose)
    ctx.with_resource(suited_threads(threads=threads))
    from realignkit import resolve
    from realignkit.evaluation.scorers import ScorerAblation
    from realignkit.registry import default_registry

    ctx.with_resource(writes_into(ctx, folder))
    registry = default_registry()
    beside = resolve.companions(resolve.choose_generator(registry, model))
    taggers = tagger or [info.name for info in resolve.choose(registry, "tagger", None, beside)]
    chosen = scorer or [resolve.LAST_SCORER]
    options, sampling, own = _options(registry, model, taggers, chosen, assignments or [])
    with loading():
        ablation = ScorerAblation(
            registry,
            model,
            taggers,
            chosen,
            prompt_set(registry, prompts, own),
            folder,
            seeds=seed or [42],
            limit=limit,
            options=options,
            sampling=sampling,
            batch_size=batch_size,
        )
    with Bars() as bars:
        cells: list[Cell] = ablation(bars.step)
    _print(cells)
    for asked in ablation.scorers:
        usage: Any = getattr(asked.plugin, "usage", None)
        if usage is not None and usage.requests:
            cost = f", {usage.cost:.4f} US dollars" if usage.cost is not None else ""
            out().print(f"{asked.name}: {usage.requests} requests, {usage.tokens} tokens{cost}", style="dim")
    out().print(f"  {folder / 'table.md'}\n  {folder / 'table.json'}", markup=False)
    if any(cell.problem for cell in cells):
        raise typer.Exit(EXIT_SOME_FAILED)


def _options(
    registry: Registry, model: str, taggers: list[str], scorers: list[str], assignments: list[str]
) -> tuple[dict[str, dict[str, Any]], dict[str, Any], dict[str, Any]]:
    """Options by kind, of sampling, and of the prompt set (``prompts.name=value``)."""
    from realignkit import resolve
    from realignkit.cli._settings import parse

    infos = {
        "tagger": [registry.info("tagger", name) for name in taggers],
        "scorer": [registry.info("scorer", name) for name in scorers],
        "generator": [resolve.choose_generator(registry, model)],
    }
    known: dict[str, Any] = {"sampling": resolve.SamplingOptions.model_fields}
    for kind, found in infos.items():
        names: set[str] | None = set()
        for info in found:
            option_names = resolve.option_names(info)
            if names is None or option_names is None:
                names = None
            else:
                names |= option_names | {f"{info.name}.{name}" for name in option_names}
        known[kind] = names
    of_prompts = [text for text in assignments if text.strip().startswith("prompts.")]
    settings = parse([text for text in assignments if text not in of_prompts], known)
    # The prompt set itself says what it takes.
    own = parse([f"sampling.{text.strip().removeprefix('prompts.')}" for text in of_prompts], {"sampling": None})
    return {kind: settings.options[kind] for kind in _KINDS}, settings.sampling, own.sampling


def _print(cells: list[Cell]) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("tagger", "scorer", "success", "95 %", "answers", "prompts", "objects seen", "why not"):
        table.add_column(heading)
    for cell in cells:
        why = ", ".join(f"{reason}: {count}" for reason, count in cell.reasons.items())
        rate = "-" if cell.rate is None else f"{cell.rate:.1%}"
        interval = "-" if cell.interval is None else f"{cell.interval[0]:.1%} - {cell.interval[1]:.1%}"
        seen = f"{cell.found} of {cell.objects}"
        counts = str(cell.asked), str(cell.prompts)
        table.add_row(cell.tagger, cell.scorer, rate, interval, *counts, seen, escape(cell.problem or why))
    out().print(table)
