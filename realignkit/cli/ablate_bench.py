"""What ``realignkit ablate rewards`` and ``stages`` share: options, look-ups, the measurement, the table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from realignkit.cli._progress import Bars, err, out
from realignkit.errors import OptionError

if TYPE_CHECKING:
    from realignkit.cli._settings import Settings
    from realignkit.evaluation.measure import Judging
    from realignkit.evaluation.plan import Plan, RowAblation
    from realignkit.evaluation.table import RowTable
    from realignkit.realigner import Realigner
    from realignkit.registry import Registry

DEFAULT_PROMPTS = "micro"

ModelName = Annotated[str, typer.Option("--model", help="A generator's name, or a folder, file or hub id of a model.")]
Prompts = Annotated[
    str,
    typer.Option(
        "--prompts", metavar="FILE|NAME", help="A file (text, CSV, JSON lines), or a prompt set: micro:test,size=300."
    ),
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


@dataclass
class Bench:
    """What both commands look up from the same options."""

    model: str
    metric: str | None
    score: list[str] | None
    reference: Path | None

    def __post_init__(self) -> None:
        from realignkit import resolve
        from realignkit.registry import default_registry

        self.registry: Registry = default_registry()
        self.generator = resolve.choose_generator(self.registry, self.model)
        self.beside: Mapping[str, str] = resolve.companions(self.generator)
        chosen = self.metric or self.beside.get("metric")
        if chosen is None:
            names = ", ".join(info.name for info in self.registry.infos("metric"))
            raise OptionError(f"model '{self.model}' names no metric that goes with it: give --metric. Known: {names}.")
        self.judge: str = chosen

    def settings(
        self, assignments: Sequence[str], groups: Sequence[str] | None, specs: Mapping[str, str | None] | None = None
    ) -> Settings:
        """What ``--set`` says, of these groups (None: all) and the metric."""
        from realignkit import resolve
        from realignkit.cli._settings import known_options, parse

        known = known_options(self.registry, self.model, specs or {})
        chosen = {name: names for name, names in known.items() if groups is None or name in groups}
        chosen["metric"] = resolve.option_names(self.registry.info("metric", self.judge.partition(".")[0]))
        return parse(assignments, chosen)

    def judging(self, settings: Settings) -> Judging:
        """Metric, scores and features."""
        from realignkit.evaluation.measure import Judging

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


def measure(
    bench: Bench,
    settings: Settings,
    realigner: Realigner,
    plan: Plan,
    prompts: str,
    folder: Path,
    control: str,
    **chosen: Any,
) -> None:
    """Measure a plan, go on with what is there, and show the table; ``chosen``: as for ``RowAblation``."""
    from realignkit.cli._options import read_prompts
    from realignkit.evaluation.plan import RowAblation
    from realignkit.evaluation.write import write_tables

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
    with Bars() as bars:
        ablation(bars.step)
    print_rows(write_tables(folder, control), folder)


def _notes(ablation: RowAblation, plan: Plan, judge: str) -> list[str]:
    found = []
    if ablation.left_out:
        found.append(f"{ablation.left_out} prompts are left out: metric '{judge}' cannot judge them")
    if ablation.idle:
        found.append(f"no seed is dealt to {', '.join(ablation.idle)}: give --seed 0 to --seed {plan.most_models - 1}")
    for name, models in plan.rows.items():
        if any(model.record.get("status") in ("running", "interrupted") for model in models):
            found.append(f"a training of row '{name}' has not ended: its best weights so far are measured")
    return found


def print_rows(table: RowTable, folder: Path) -> None:
    """Print a table, how to read it, and where it is written."""
    from realignkit.evaluation.write import FILES, cells, columns, notes

    shown = Table(box=None, pad_edge=False, header_style="bold")
    for heading in columns(table):
        shown.add_column(escape(heading))
    for line in cells(table):
        shown.add_row(*map(escape, line))
    out().print(shown)
    for note in notes(table):
        out().print(note, style="dim", markup=False)
    out().print("\n".join(f"  {folder / name}" for name in (*FILES, "rows.jsonl")), markup=False)
