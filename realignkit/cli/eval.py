"""``realignkit eval``: score pictures, of a model or of yours, and compare two scorings."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Annotated

import typer

from realignkit.cli._evaluations import EvaluationBench, measure, show_comparison, show_metrics, stem_of
from realignkit.cli._options import GuideBy, Isolate, Threads, isolate_plugins
from realignkit.cli._progress import Command, CommandGroup, loading, set_verbosity, writes_into
from realignkit.machine import suited_threads

DEFAULT_ROOT = Path("evaluations")

eval_app = typer.Typer(cls=CommandGroup, invoke_without_command=True, no_args_is_help=True)

Out = Annotated[
    Path | None,
    typer.Option("--out", metavar="DIR", help="Where to write; resumes what is there.", show_default="evaluations/…"),
]


@eval_app.callback()
def evaluate(
    ctx: typer.Context,
    pictures: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR|FILE",
            help="Pictures that exist: a folder of 'realignkit run', a folder with metadata.jsonl, JSON lines or CSV "
            "with prompt and image_path (and id, seed), or JSON {prompt: path} or {id: path}; also lists of paths.",
        ),
    ] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(help="A metric or a reward; repeatable. Default with --model: its companion."),
    ] = None,
    prompts: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|NAME",
            help="With --model, what to draw: a file, - or a prompt set. With --pictures, the set that they are of: "
            "its ids, and what tables group by.",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Draws the pictures: a generator, or a model's folder, file or hub id."),
    ] = None,
    lora: Annotated[
        str | None, typer.Option(metavar="DIR", help="Adapters of the model: what 'realignkit train' has written.")
    ] = None,
    candidates: Annotated[int, typer.Option(min=1, help="Pictures per prompt and seed; the best goes on.")] = 1,
    select_by: Annotated[
        str | None, typer.Option(metavar="REWARD", help="The reward that chooses the best candidate.")
    ] = None,
    guide_by: GuideBy = None,
    fine: Annotated[bool, typer.Option("--fine", help="The fine stage follows: what 'realignkit run' makes.")] = False,
    stage: Annotated[
        str, typer.Option(metavar="refined|coarse", help="Which pictures of a run: after, or before the fine stage.")
    ] = "refined",
    seed: Annotated[
        list[int] | None,
        typer.Option(min=0, help="One picture of each prompt, from noise of its own; repeatable.", show_default="42"),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="With --model: only the first so many prompts.")] = None,
    folder: Out = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="An option, e.g. metric.reward.batch_size=4; repeatable."),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Pictures per forward pass.")] = 8,
    threads: Threads = None,
    isolate: Isolate = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show logs and tracebacks.")] = False,
) -> None:
    """Score pictures with metrics: means with 95 % intervals by prompt, by element and by group, and a page to look at.

    Pictures that exist, or a model that draws a prompt set. What is measured is kept picture by picture: killed, the
    same command goes on, and with another --metric adds to it. 'accelerate launch --num_processes 2 -m realignkit.cli
    eval …' shares the work.

    realignkit eval --pictures realignments/mine --metric clip

    realignkit eval --model micro --prompts micro:test --fine --out evaluations/fine

    realignkit eval compare evaluations/base evaluations/fine
    """
    if ctx.invoked_subcommand is not None:
        return
    set_verbosity(ctx, verbose)
    ctx.with_resource(suited_threads(threads=threads))
    isolate_plugins(ctx, isolate)
    if (pictures is None) == (model is None):
        raise typer.BadParameter("give either --pictures or --model.")
    if stage not in ("refined", "coarse"):
        raise typer.BadParameter("--stage is refined or coarse.")
    if stage == "coarse" and model is not None:
        raise typer.BadParameter("--stage goes with --pictures; with --model, --fine decides.")
    if (candidates > 1) != (select_by is not None):
        raise typer.BadParameter("--candidates N, at least 2, and --select-by REWARD go together.")
    if model is None and (lora or fine or seed or limit or candidates > 1 or guide_by):
        raise typer.BadParameter("--lora, --fine, --seed, --limit, --candidates and --guide-by go with --model.")
    if model is not None and prompts is None:
        raise typer.BadParameter("--model needs --prompts: what to draw.")
    from realignkit.cli._settings import check_guided
    from realignkit.evaluation.processes import Launch

    launch = Launch.of_environment()
    bench = EvaluationBench(model, prompts, metric or [], {"reward": select_by, "guide_by": guide_by}, launch)
    settings = bench.settings([*([] if lora is None else [f"generator.lora={json.dumps(lora)}"]), *(assignments or [])])
    check_guided(settings, guide_by)
    before = "-coarse" if stage == "coarse" else ""
    folder = folder or DEFAULT_ROOT / f"{stem_of(str(pictures or model), prompts)}{before}"
    with writes_into(ctx, folder) if launch.first else contextlib.nullcontext():
        with loading():
            metrics = bench.metrics(settings)
            drawing = None
            if model is not None:
                chosen = {
                    "candidates": candidates,
                    "select_by": select_by,
                    "guide_by": guide_by,
                    "batch_size": batch_size,
                    "threads": threads,
                }
                drawing = bench.drawing(settings, chosen, folder, seeds=seed or [42], fine=fine, limit=limit)
        if drawing is not None:
            measure(bench, metrics, drawing, f"{model} of {prompts}", folder, batch_size)
        elif pictures is not None:
            source = f"{pictures.name}, coarse" if before else pictures.name
            measure(bench, metrics, bench.existing(pictures, stage), source, folder, batch_size)
        if launch.first:
            show_metrics(folder, metrics)


@eval_app.command(cls=Command)
def compare(
    ctx: typer.Context,
    before: Annotated[Path, typer.Argument(metavar="DIR_A", help="What 'realignkit eval' wrote.")],
    after: Annotated[Path, typer.Argument(metavar="DIR_B", help="Another one, of the same prompts and seeds.")],
    folder: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Where to write.", show_default="DIR_A-DIR_B beside them"),
    ] = None,
) -> None:
    """Compare two evaluations, paired by prompt: differences with intervals and tests, and what moved most.

    They must be of the same prompts and seeds, measured by the same weights, templates and resize modes: otherwise it
    says in what they differ.

    realignkit eval compare evaluations/base evaluations/fine
    """
    from realignkit.evaluation.compare import compare_folders

    pair = compare_folders(before, after)
    folder = folder or before.parent / f"{before.name}-{after.name}"
    with writes_into(ctx, folder):
        show_comparison(folder, before, after, pair)


@eval_app.command(cls=Command)
def join(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR …", help="What 'realignkit eval' wrote.")],
    folder: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where to write the whole.")],
) -> None:
    """Make one evaluation of several that were measured alike, of different pictures: other prompts, or other seeds.

    realignkit eval join evaluations/first evaluations/second --out evaluations/both
    """
    from realignkit.evaluation.join import join_folders
    from realignkit.files import only_writer
    from realignkit.registry import default_registry

    with only_writer(folder):
        show_metrics(folder, join_folders(folders, folder, default_registry()))
