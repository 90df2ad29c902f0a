"""``realignkit ablate rewards`` and ``stages``: Tables III and II; ``join`` and ``pair`` what they have measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from realignkit.cli.ablate import with_progress
from realignkit.cli.console import err, out, set_verbosity
from realignkit.errors import OptionError

if TYPE_CHECKING:
    from realignkit.cli.settings import Settings
    from realignkit.evaluation.judging import Judging
    from realignkit.evaluation.models import Model
    from realignkit.evaluation.row_tables import RowTable
    from realignkit.evaluation.rows import Plan
    from realignkit.realigner import Realigner
    from realignkit.registry import Registry

DEFAULT_PROMPTS = "micro"

ModelName = Annotated[str, typer.Option("--model", help="A generator's name, or a folder or hub id of a model.")]
Prompts = Annotated[
    str,
    typer.Option("--prompts", metavar="FILE|NAME", help="A file, one a line, or a prompt set: micro:test,size=300."),
]
Metric = Annotated[
    str | None,
    typer.Option("--metric", help="Judges each picture: NAME or NAME.VALUE. Default: the model's companion."),
]
Scores = Annotated[
    list[str] | None,
    typer.Option(
        "--score", metavar="REWARD", help="Its mean is shown too; repeatable. Default: the model's clip, or none."
    ),
]
ReferenceFolder = Annotated[
    Path | None,
    typer.Option("--reference", metavar="DIR", help="Pictures for the Fréchet distance. Default: the metric's own."),
]
Limit = Annotated[int | None, typer.Option("--limit", min=1, help="Only the first so many prompts.")]
Seeds = Annotated[
    list[int] | None,
    typer.Option(
        "--seed", min=0, help="Pictures per prompt; repeatable.", show_default="0, one more per training seed"
    ),
]
Assignments = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="An option, e.g. sampling.num_inference_steps=30; repeatable."),
]
BatchSize = Annotated[int, typer.Option("--batch-size", min=1, help="Pictures per forward pass.")]
KeepImages = Annotated[bool, typer.Option("--keep-images", help="Write every picture to DIR/images.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Tracebacks and the libraries' messages.")]


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
    limit: Limit = None,
    seed: Seeds = None,
    folder: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where to write; resumes what is there.")] = Path(
        "ablations/rewards"
    ),
    assignments: Assignments = None,
    batch_size: BatchSize = 8,
    keep_images: KeepImages = False,
    verbose: Verbose = False,
) -> None:
    """Table III: the base and fine-tuned models on the same prompts and seeds, paired.

    Rows' training seeds share the image seeds: of three folders, the second draws the seeds 1, 4, 7 …

    realignkit ablate rewards --row control=runs/first/control --row clip=runs/first
    """
    set_verbosity(ctx, verbose)
    from realignkit.evaluation.ablation import Nothing
    from realignkit.evaluation.rows import rewards_plan
    from realignkit.realigner import Realigner

    models = _models(row or [])
    bench = _Bench(model, metric, score, reference)
    settings = bench.settings(assignments or [], ("sampling", "generator"))
    nothing: Any = Nothing()
    with err().status("loading …"):
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
    _measure(
        bench, settings, realigner, rewards_plan(models), prompts, folder, control,
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
    verbose: Verbose = False,
) -> None:
    """Table II: neither stage, the coarse one (--lora), the fine one, both, on the same prompts and seeds, paired.

    Rows of what is not given are left out.

    realignkit ablate stages --lora runs/first --candidates 4 --select-by caption
    """
    set_verbosity(ctx, verbose)
    if (candidates > 1) != (select_by is not None):
        raise typer.BadParameter("--candidates N, at least 2, and --select-by REWARD go together.")
    from realignkit.assembly import RealignerOptions, effective_options
    from realignkit.contracts import parse_options
    from realignkit.evaluation.models import trained_model
    from realignkit.evaluation.stages import stages_plan
    from realignkit.realigner import Realigner
    from realignkit.rewards import make_reward

    models = [trained_model(path) for path in lora or []]
    bench = _Bench(model, metric, score, reference)
    specs = {"tagger": tagger, "scorer": scorer, "segmenter": segmenter}
    settings = bench.settings(assignments or [], None, {**specs, "reward": select_by})
    own: Any = parse_options(RealignerOptions, settings.realigner, owner="realigner")
    chooser = None
    with err().status("loading …"):
        if select_by is not None:
            chooser = make_reward(bench.registry, select_by, settings.options["reward"], bench.beside)
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
    plan = stages_plan(
        models,
        fine=fine,
        candidates=candidates,
        select_by=chooser,
        name=select_by or "",
        options=None if chooser is None else effective_options(chooser),
    )
    _measure(
        bench, settings, realigner, plan, prompts, folder, "",
        seeds=seed, limit=limit, keep_images=keep_images,
    )  # fmt: skip


def join(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR …", help="What 'ablate rewards' or 'stages' wrote.")],
    folder: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where to write the whole.")],
    control: Annotated[str, typer.Option(help="The row that others are compared with beside the base.")] = "control",
) -> None:
    """Make one table of ablations that several processes measured, each with seeds of its own.

    realignkit ablate join ablations/a ablations/b --out ablations/both
    """
    from realignkit.evaluation.joining import join as join_folders
    from realignkit.evaluation.row_pages import write_tables

    join_folders(folders, folder)
    _print(write_tables(folder, control), folder)


def pair(
    results: Annotated[Path, typer.Argument(metavar="DIR|FILE", help="An ablation's folder, or its rows.jsonl.")],
    before: Annotated[str, typer.Argument(metavar="ROW_A")],
    after: Annotated[str, typer.Argument(metavar="ROW_B")],
) -> None:
    """Compare any two rows of an ablation, paired by prompt and seed.

    realignkit ablate pair ablations/rewards clip caption
    """
    from realignkit.evaluation.measurements import AblationFolder
    from realignkit.evaluation.row_pages import pair_cells, pair_columns
    from realignkit.evaluation.row_tables import pair_rows

    folder = AblationFolder(results.parent if results.is_file() else results)
    found = pair_rows(folder.read(features=False), before, after)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in pair_columns(found):
        table.add_column(escape(heading))
    table.add_row(*map(escape, pair_cells(found)))
    out().print(table)


@dataclass
class _Bench:
    """What both commands look up from the same options."""

    model: str
    metric: str | None
    score: list[str] | None
    reference: Path | None

    def __post_init__(self) -> None:
        from realignkit import assembly
        from realignkit.registry import default_registry

        self.registry: Registry = default_registry()
        self.generator = assembly.choose_generator(self.registry, self.model)
        self.beside: Mapping[str, str] = assembly.companions(self.generator)
        chosen = self.metric or self.beside.get("metric")
        if chosen is None:
            names = ", ".join(info.name for info in self.registry.infos("metric"))
            raise OptionError(f"model '{self.model}' names no metric that goes with it: give --metric. Known: {names}.")
        self.judge: str = chosen

    def settings(
        self, assignments: Sequence[str], groups: Sequence[str] | None, specs: Mapping[str, str | None] | None = None
    ) -> Settings:
        """What ``--set`` says, of these groups (None: all) and the metric."""
        from realignkit import assembly
        from realignkit.cli.settings import known_options, parse

        known = known_options(self.registry, self.model, specs or {})
        chosen = {name: names for name, names in known.items() if groups is None or name in groups}
        chosen["metric"] = assembly.option_names(self.registry.info("metric", self.judge.partition(".")[0]))
        return parse(assignments, chosen)

    def judging(self, settings: Settings) -> Judging:
        """Metric, scores and features."""
        from realignkit.evaluation.judging import Judging

        default = ["clip"] if "reward:clip" in self.beside else []
        scores = default if self.score is None else [spec for spec in self.score if spec != "none"]
        return Judging(
            self.registry,
            self.judge,
            options=settings.options["metric"],
            scores=scores,
            beside=self.beside,
            reference=self.reference,
        )


def _models(rows: Sequence[str]) -> dict[str, list[Model]]:
    import re

    from realignkit.evaluation.models import trained_model

    found: dict[str, list[Model]] = {}
    for text in rows:
        name, equals, folder = (part.strip() for part in text.partition("="))
        if not equals or not folder or not re.fullmatch(r"[\w.+-][\w.+ -]{0,39}", name) or name == "base":
            raise OptionError(
                f"--row takes NAME=FOLDER, such as caption=runs/caption-1, not '{text}'; names have letters, digits, "
                f"'.', '_', '+' and '-', and 'base' is taken."
            )
        found.setdefault(name, []).append(trained_model(folder))
    return found


def _measure(
    bench: _Bench,
    settings: Settings,
    realigner: Realigner,
    plan: Plan,
    prompts: str,
    folder: Path,
    control: str,
    **chosen: Any,
) -> None:
    from realignkit.cli.train import read_prompts
    from realignkit.evaluation.row_pages import write_tables
    from realignkit.evaluation.rows import RowAblation

    ablation = RowAblation(
        bench.registry,
        bench.model,
        realigner,
        plan,
        bench.judging(settings),
        read_prompts(bench.registry, prompts),
        folder,
        generator_options=settings.options["generator"],
        source=Path(prompts).name if Path(prompts).is_file() else prompts,
        **chosen,
    )
    for note in _notes(ablation, plan, bench.judge):
        err().print(f"[yellow]note:[/] {escape(note)}")
    with_progress(ablation)
    _print(write_tables(folder, control), folder)


def _notes(ablation: Any, plan: Plan, judge: str) -> list[str]:
    found = []
    if ablation.left_out:
        found.append(f"{ablation.left_out} prompts are left out: metric '{judge}' cannot judge them")
    if ablation.idle:
        found.append(f"no seed is dealt to {', '.join(ablation.idle)}: give --seed 0 to --seed {plan.most_models - 1}")
    for name, models in plan.rows.items():
        if any(model.record.get("status") in ("running", "interrupted") for model in models):
            found.append(f"a training of row '{name}' has not ended: its best weights so far are measured")
    return found


def _print(table: RowTable, folder: Path) -> None:
    from realignkit.evaluation.row_pages import FILES, cells, columns, notes

    shown = Table(box=None, pad_edge=False, header_style="bold")
    for heading in columns(table):
        shown.add_column(escape(heading))
    for line in cells(table):
        shown.add_row(*map(escape, line))
    out().print(shown)
    for note in notes(table):
        out().print(note, style="dim", markup=False)
    out().print("\n".join(f"  {folder / name}" for name in (*FILES, "rows.jsonl")), markup=False)
