"""``realignkit ablate rewards`` and ``stages``: Tables III and II."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from realignkit.cli._progress import Threads, err, loading, set_verbosity, writes_into
from realignkit.cli.ablate_bench import (
    DEFAULT_PROMPTS,
    Assignments,
    BatchSize,
    Bench,
    KeepImages,
    Limit,
    Metric,
    ModelName,
    Prompts,
    ReferenceFolder,
    Scores,
    Seeds,
    Verbose,
    measure,
)
from realignkit.errors import OptionError
from realignkit.machine import suited_threads


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
    control: Annotated[str, typer.Option(help="The row that others are compared with beside the base.")] = "control",
    train: Annotated[
        list[str] | None,
        typer.Option(metavar="REWARDS", help="First train a control and these: caption,clip; repeatable for sums."),
    ] = None,
    training_seeds: Annotated[int, typer.Option(min=1, help="With --train: how often each is trained.")] = 3,
    train_prompts: Annotated[
        str, typer.Option(metavar="FILE|NAME", help="With --train: what to train on.")
    ] = "micro:train",
    validation_prompts: Annotated[
        str | None, typer.Option(metavar="FILE|NAME", help="With --train: held-out prompts, as for 'realignkit train'.")
    ] = None,
    judge: Annotated[
        str | None, typer.Option(help="With --train: decides on the held-out prompts which weights are best.")
    ] = None,
    preset: Annotated[str | None, typer.Option(help="With --train: named settings, as for 'realignkit train'.")] = None,
    limit: Limit = None,
    seed: Seeds = None,
    folder: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where to write; resumes what is there.")] = Path(
        "ablations/rewards"
    ),
    assignments: Assignments = None,
    batch_size: BatchSize = 8,
    keep_images: KeepImages = False,
    threads: Threads = None,
    verbose: Verbose = False,
) -> None:
    """Table III: the base and fine-tuned models on the same prompts and seeds, paired.

    Rows' training seeds share the image seeds: of three folders, the second draws the seeds 1, 4, 7 …

    realignkit ablate rewards --row control=runs/first/control --row clip=runs/first
    """
    set_verbosity(ctx, verbose)
    ctx.with_resource(suited_threads(threads=threads))
    from realignkit.cli.ablate_train import CONTROL, GROUPS, specs, train_rows
    from realignkit.evaluation.models import trained_model
    from realignkit.evaluation.plan import rewards_plan
    from realignkit.evaluation.scorers import Nothing
    from realignkit.realigner import Realigner

    ctx.with_resource(writes_into(ctx, folder))
    given = _folders(row or [])  # a mistake shows before hours of training
    bench = Bench(model, metric, score, reference)
    training = [text for text in assignments or [] if train and text.strip().startswith(GROUPS)]
    rest = [text for text in assignments or [] if text not in training or text.strip().startswith("generator.")]
    settings = bench.settings(rest, ("sampling", "generator"))
    bench.judging(settings)
    rows = {name: [trained_model(path) for path in folders] for name, folders in given.items()}
    if train:
        wanted = {"prompts": train_prompts, "model": model, "out": folder / "runs", "judge": judge}
        wanted |= {"validation_prompts": validation_prompts, "preset": preset}
        to_train = specs(train)
        if twice := {CONTROL, *to_train} & given.keys():
            raise OptionError(f"--row and --train both have '{twice.pop()}'. Rename the row.")
        trained = train_rows(wanted, to_train, training_seeds, training)
        rows = {name: [trained_model(path) for path in folders] for name, folders in trained.items()} | rows
    nothing: Any = Nothing()
    with loading():
        realigner = Realigner.from_pretrained(
            model,
            tagger=nothing,
            scorer=nothing,
            segmenter=nothing,
            registry=bench.registry,
            sampling=settings.sampling,
            options={"generator": settings.options["generator"]},
            batch_size=batch_size,
        )
    measure(
        bench, settings, realigner, rewards_plan(rows), prompts, folder, control,
        seeds=seed, limit=limit, keep_images=keep_images,
    )  # fmt: skip


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
    tagger: Annotated[str | None, typer.Option(help="Names the objects. Default: the model's companion.")] = None,
    scorer: Annotated[str | None, typer.Option(help="Judges the tags; a chain such as gpt4,lexical.")] = None,
    segmenter: Annotated[str | None, typer.Option(help="Finds the objects. Default: the model's companion.")] = None,
    candidates: Annotated[int, typer.Option(min=1, help="Adds rows that start from the best of so many pictures.")] = 1,
    select_by: Annotated[str | None, typer.Option(help="The reward that chooses the best candidate.")] = None,
    metric: Metric = None,
    score: Scores = None,
    reference: ReferenceFolder = None,
    limit: Limit = None,
    seed: Seeds = None,
    folder: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where to write; resumes what is there.")] = Path(
        "ablations/stages"
    ),
    assignments: Assignments = None,
    batch_size: BatchSize = 8,
    keep_images: KeepImages = False,
    threads: Threads = None,
    verbose: Verbose = False,
) -> None:
    """Table II: neither stage, the coarse one (--lora), the fine one, both, on the same prompts and seeds, paired.

    Rows of what is not given are left out.

    realignkit ablate stages --lora runs/first --candidates 4 --select-by caption
    """
    set_verbosity(ctx, verbose)
    ctx.with_resource(suited_threads(threads=threads))
    if (candidates > 1) != (select_by is not None):
        raise typer.BadParameter("--candidates N, at least 2, and --select-by REWARD go together.")
    from realignkit.contracts import parse_options
    from realignkit.evaluation.models import trained_model
    from realignkit.evaluation.stages import stages_plan
    from realignkit.named import Named
    from realignkit.realigner import Realigner
    from realignkit.resolve import RealignerOptions
    from realignkit.rewards import make_reward

    ctx.with_resource(writes_into(ctx, folder))
    models = [trained_model(path) for path in lora or []]
    bench = Bench(model, metric, score, reference)
    specs: dict[str, Any] = {"tagger": tagger, "scorer": scorer, "segmenter": segmenter}
    settings = bench.settings(assignments or [], None, {**specs, "reward": select_by})
    own: Any = parse_options(RealignerOptions, settings.realigner, owner="realigner")
    chooser = None
    with loading():
        if select_by is not None:
            reward = make_reward(bench.registry, select_by, settings.options["reward"], bench.beside)
            chooser = Named("reward", select_by, reward)
        realigner = Realigner.from_pretrained(
            model,
            **specs,
            modulation=settings.modulation,
            sampling=settings.sampling,
            options={kind: settings.options[kind] for kind in ("generator", *specs)},
            registry=bench.registry,
            batch_size=batch_size,
            **own.model_dump(),
        )
    fine = getattr(realigner.generator, "attention_family", None) is not None
    if not fine:
        err().print(
            f"[yellow]note:[/] the attention of '{escape(model)}' cannot be re-weighted: no row of the fine stage"
        )
    plan = stages_plan(models, fine=fine, candidates=candidates, select_by=chooser)
    measure(
        bench, settings, realigner, plan, prompts, folder, "",
        seeds=seed, limit=limit, keep_images=keep_images,
    )  # fmt: skip


def _folders(rows: Sequence[str]) -> dict[str, list[str]]:
    import re

    found: dict[str, list[str]] = {}
    for text in rows:
        name, equals, folder = (part.strip() for part in text.partition("="))
        if not equals or not folder or not re.fullmatch(r"[\w.+-][\w.+ -]{0,39}", name) or name == "base":
            raise OptionError(
                f"--row takes NAME=FOLDER, such as caption=runs/caption-1, not '{text}'; names have letters, digits, "
                f"'.', '_', '+' and '-', and 'base' is taken."
            )
        found.setdefault(name, []).append(folder)
    return found
