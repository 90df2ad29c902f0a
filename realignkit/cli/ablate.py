"""``realignkit ablate``: the paper's ablations, measured here."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from realignkit.cli._ablations import (
    Assignments,
    BatchSize,
    Bench,
    Control,
    Folder,
    KeepImages,
    Limit,
    Metric,
    Prompts,
    ReferenceFolder,
    Scores,
    Seeds,
    Verbose,
    make_all,
    measure,
    scorer_settings,
    show,
)
from realignkit.cli._options import (
    Isolate,
    ModelName,
    ScorerNames,
    SegmenterName,
    SelectBy,
    TaggerName,
    Threads,
    isolate_plugins,
    prompt_set,
)
from realignkit.cli._progress import (
    EXIT_SOME_FAILED,
    Command,
    loading,
    note,
    print_table,
    print_usage,
    set_verbosity,
    writes_into,
)
from realignkit.cli.methods import methods
from realignkit.errors import OptionError
from realignkit.machine import suited_threads

ablate_app = typer.Typer(no_args_is_help=True, help="Measure what a part of the method is worth.")

DEFAULT_PROMPTS = "micro"


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
    ] = DEFAULT_PROMPTS,
    limit: Limit = None,
    seed: Annotated[list[int] | None, typer.Option(help="Start noise; repeatable.", show_default="42")] = None,
    folder: Folder = Path("ablations/scorers"),
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="An option, e.g. scorer.gpt4.model=…; repeatable."),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images per forward pass.")] = 8,
    threads: Threads = None,
    isolate: Isolate = None,
    verbose: Verbose = False,
) -> None:
    """Table IV: taggers by scorers, how often a scorer's answer is right, and why not."""
    set_verbosity(ctx, verbose)
    ctx.with_resource(suited_threads(threads=threads))
    isolate_plugins(ctx, isolate)
    from realignkit import resolve
    from realignkit.calls import texts_of
    from realignkit.evaluation.measure import Ablation
    from realignkit.evaluation.plan import scorers_plan
    from realignkit.evaluation.scorers import Answers
    from realignkit.named import Named
    from realignkit.realigner import Realigner
    from realignkit.registry import default_registry

    ctx.with_resource(writes_into(ctx, folder))
    registry = default_registry()
    companions = resolve.companions_of(resolve.choose_generator(registry, model))
    names = {
        "tagger": tagger or [info.name for info in resolve.choose(registry, "tagger", None, companions)],
        "scorer": scorer or [resolve.LAST_SCORER],
    }
    settings, of_prompts = scorer_settings(model, names, assignments or [])
    with loading():
        taggers, scorers = (make_all(kind, chosen, settings.options[kind]) for kind, chosen in names.items())
        realigner = Realigner.drawing(
            model, sampling=settings.sampling, options=settings.options["generator"], batch_size=batch_size
        )
        chosen_set = prompt_set(registry, prompts, of_prompts)
        named_set = Named("prompts", type(chosen_set).__name__, chosen_set)
        ablation = Ablation(
            scorers_plan([tagger.name for tagger in taggers], [scorer.name for scorer in scorers]),
            Answers(realigner, taggers, scorers, named_set, folder),
            texts_of(named_set)[:limit],
            seeds=seed or [42],
            source=chosen_set.source,
        )
    table = measure(ablation, folder)
    print_usage(scorers)
    if any(row.asked is not None and row.asked.problem for row in table.rows):
        raise typer.Exit(EXIT_SOME_FAILED)


@ablate_app.command(cls=Command)
def rewards(
    ctx: typer.Context,
    row: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=FOLDER",
            help="A model that 'realignkit train' wrote; repeatable. A name with several folders: training seeds.",
        ),
    ] = None,
    model: ModelName = "micro",
    prompts: Prompts = DEFAULT_PROMPTS,
    metric: Metric = None,
    score: Scores = None,
    reference: ReferenceFolder = None,
    control: Control = "control",
    limit: Limit = None,
    seed: Seeds = None,
    folder: Folder = Path("ablations/rewards"),
    assignments: Assignments = None,
    batch_size: BatchSize = 8,
    keep_images: KeepImages = False,
    threads: Threads = None,
    isolate: Isolate = None,
    verbose: Verbose = False,
    train: Annotated[
        list[str] | None,
        typer.Option(
            "--train",
            "--training-seeds",
            "--train-prompts",
            "--validation-prompts",
            "--judge",
            "--preset",
            hidden=True,
        ),
    ] = None,
) -> None:
    """Table III: the base and fine-tuned models on the same prompts and seeds, paired.

    Rows' training seeds share the image seeds: of three folders, the second draws the seeds 1, 4, 7 …

    realignkit ablate rewards --row control=runs/first/control --row clip=runs/first
    """
    set_verbosity(ctx, verbose)
    ctx.with_resource(suited_threads(threads=threads))
    isolate_plugins(ctx, isolate)
    if train:
        raise OptionError(
            "'ablate rewards' trains nothing any more: train each model with 'realignkit train', and give its folder "
            "as --row NAME=FOLDER."
        )
    from realignkit.evaluation.plan import rewards_plan, trained_model
    from realignkit.realigner import Realigner

    ctx.with_resource(writes_into(ctx, folder))
    folders = _folders(row or [])
    bench = Bench(model, metric, score, reference)
    settings = bench.settings(assignments or [], ("sampling", "generator"))
    judging = bench.judging(settings)
    rows = {name: [trained_model(path) for path in paths] for name, paths in folders.items()}
    with loading():
        realigner = Realigner.drawing(
            model, sampling=settings.sampling, options=settings.options["generator"], batch_size=batch_size
        )
    ablation = bench.ablation(
        rewards_plan(rows), realigner, judging, settings, folder,
        prompts=prompts, limit=limit, seeds=seed, keep_images=keep_images,
    )  # fmt: skip
    measure(ablation, folder, control)


@ablate_app.command(cls=Command)
def stages(
    ctx: typer.Context,
    lora: Annotated[
        list[str] | None,
        typer.Option(
            metavar="DIR", help="The coarse stage's model; repeatable: training seeds, which share the seeds."
        ),
    ] = None,
    model: ModelName = "micro",
    prompts: Prompts = DEFAULT_PROMPTS,
    tagger: TaggerName = None,
    scorer: ScorerNames = None,
    segmenter: SegmenterName = None,
    candidates: Annotated[int, typer.Option(min=1, help="Adds rows that start from the best of so many pictures.")] = 1,
    select_by: SelectBy = None,
    guide_by: Annotated[
        str | None,
        typer.Option("--guide-by", metavar="REWARD", help="Adds rows whose sampling this reward's gradient guides."),
    ] = None,
    metric: Metric = None,
    score: Scores = None,
    reference: ReferenceFolder = None,
    limit: Limit = None,
    seed: Seeds = None,
    folder: Folder = Path("ablations/stages"),
    assignments: Assignments = None,
    batch_size: BatchSize = 8,
    keep_images: KeepImages = False,
    threads: Threads = None,
    isolate: Isolate = None,
    verbose: Verbose = False,
) -> None:
    """Table II: neither stage, the coarse one (--lora), the fine one, both, on the same prompts and seeds, paired.

    Rows of what is not given are left out.

    realignkit ablate stages --lora runs/first --candidates 4 --select-by caption
    """
    set_verbosity(ctx, verbose)
    ctx.with_resource(suited_threads(threads=threads))
    isolate_plugins(ctx, isolate)
    if (candidates > 1) != (select_by is not None):
        raise typer.BadParameter("--candidates N, at least 2, and --select-by REWARD go together.")
    from realignkit.cli._settings import check_guided
    from realignkit.contracts import parse_options
    from realignkit.evaluation.plan import stages_plan, trained_model
    from realignkit.realigner import Realigner
    from realignkit.realigner.options import RealignerOptions
    from realignkit.rewards import named_rewards

    ctx.with_resource(writes_into(ctx, folder))
    models = [trained_model(path) for path in lora or []]
    bench = Bench(model, metric, score, reference)
    specs: dict[str, Any] = {"tagger": tagger, "scorer": scorer, "segmenter": segmenter}
    settings = bench.settings(assignments or [], None, {**specs, "reward": select_by, "guide_by": guide_by})
    check_guided(settings, guide_by)
    realigner_options: Any = parse_options(RealignerOptions, settings.realigner, owner="realigner")
    with loading():
        asked = {"select_by": select_by, "guide_by": guide_by}
        rewards = named_rewards(bench.registry, model, asked, settings.options["reward"])
        realigner = Realigner.from_pretrained(
            model,
            **specs,
            modulation=settings.modulation,
            sampling=settings.sampling,
            options={kind: settings.options[kind] for kind in ("generator", *specs)},
            registry=bench.registry,
            batch_size=batch_size,
            **realigner_options.model_dump(),
        )
    fine = getattr(realigner.generator, "attention_family", None) is not None
    if not fine:
        note(f"the attention of '{model}' cannot be re-weighted: no row of the fine stage")
    guided = None if guide_by is None else realigner.with_(guide_by=rewards["guide_by"])
    if guided is not None:
        guided.check_guide()
    plan = stages_plan(models, fine=fine, candidates=candidates, select_by=rewards["select_by"], guided=guided)
    ablation = bench.ablation(
        plan, realigner, bench.judging(settings), settings, folder,
        prompts=prompts, limit=limit, seeds=seed, keep_images=keep_images,
    )  # fmt: skip
    measure(ablation, folder, control="")


ablate_app.command(cls=Command)(methods)


@ablate_app.command(cls=Command)
def join(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR …", help="What 'ablate rewards' or 'stages' wrote.")],
    folder: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where to write the whole.")],
    control: Control = "control",
) -> None:
    """Make one table of ablations that several processes measured, each with seeds of its own.

    realignkit ablate join ablations/a ablations/b --out ablations/both
    """
    from realignkit.evaluation.measure import join as join_folders
    from realignkit.files import only_writer

    with only_writer(folder):
        join_folders(folders, folder)
        show(folder, control)


@ablate_app.command(cls=Command)
def pair(
    results: Annotated[Path, typer.Argument(metavar="DIR|FILE", help="An ablation's folder, or its rows.jsonl.")],
    before: Annotated[str, typer.Argument(metavar="ROW_A")],
    after: Annotated[str, typer.Argument(metavar="ROW_B")],
) -> None:
    """Compare any two rows of an ablation, paired by prompt and seed.

    realignkit ablate pair ablations/rewards clip caption
    """
    from realignkit.evaluation.results import AblationFolder
    from realignkit.evaluation.table import pair_rows
    from realignkit.evaluation.write import pair_cells, pair_columns

    folder = AblationFolder(results.parent if results.is_file() else results)
    compared = pair_rows(folder.read(features=False), before, after)
    print_table(pair_columns(compared), [pair_cells(compared)])


def _folders(rows: Sequence[str]) -> dict[str, list[str]]:
    """Row -> folders of its models."""
    folders: dict[str, list[str]] = {}
    for text in rows:
        name, equals, folder = (part.strip() for part in text.partition("="))
        if not equals or not folder or not re.fullmatch(r"[\w.+-][\w.+ -]{0,39}", name) or name == "base":
            raise OptionError(
                f"--row takes NAME=FOLDER, such as caption=runs/caption-1, not '{text}'; names have letters, digits, "
                f"'.', '_', '+' and '-', and 'base' is taken."
            )
        folders.setdefault(name, []).append(folder)
    return folders
