"""What the ablations share: their options, what is looked up from them, the measurement under bars, the table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from realignkit.cli._options import read_prompts
from realignkit.cli._progress import Bars, note, out, print_table
from realignkit.errors import OptionError, PluginError

if TYPE_CHECKING:
    from realignkit.cli._settings import Settings
    from realignkit.evaluation.judging import Judging
    from realignkit.evaluation.measure import Ablation
    from realignkit.evaluation.plan import Plan
    from realignkit.evaluation.table import AblationTable
    from realignkit.named import Named
    from realignkit.realigner import Realigner

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
Control = Annotated[str, typer.Option(help="The row that others are compared with beside the base.")]
Limit = Annotated[int | None, typer.Option("--limit", min=1, help="Only the first so many prompts.")]
Seeds = Annotated[
    list[int] | None,
    typer.Option(
        "--seed", min=0, help="Pictures per prompt; repeatable.", show_default="0, one more per training seed"
    ),
]
Folder = Annotated[Path, typer.Option("--out", metavar="DIR", help="Where to write; resumes what is there.")]
Assignments = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="An option, e.g. sampling.num_inference_steps=30; repeatable."),
]
BatchSize = Annotated[int, typer.Option("--batch-size", min=1, help="Pictures per forward pass.")]
KeepImages = Annotated[bool, typer.Option("--keep-images", help="Write every picture to DIR/images.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Tracebacks and the libraries' messages.")]


@dataclass
class Bench:
    """What ``rewards`` and ``stages`` look up from the same options."""

    model: str
    metric: str | None
    score: list[str] | None
    reference: Path | None

    def __post_init__(self) -> None:
        from realignkit import resolve
        from realignkit.registry import default_registry

        self.registry = default_registry()
        self.generator = resolve.choose_generator(self.registry, self.model)
        self.companions: Mapping[str, str] = resolve.companions_of(self.generator)
        chosen = self.metric or self.companions.get("metric")
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
        from realignkit.evaluation.judging import Judging

        default = ["clip"] if "reward:clip" in self.companions else []
        scores = default if self.score is None else [spec for spec in self.score if spec != "none"]
        return Judging(
            self.registry,
            self.judge,
            options=settings.options["metric"],
            scores=scores,
            companions=self.companions,
            reference=self.reference,
        )

    def ablation(
        self, plan: Plan, realigner: Realigner, judging: Judging, settings: Settings, folder: Path, **chosen: Any
    ) -> Ablation:
        """What is to be measured (``chosen``: prompts, limit, seeds, keep_images); what is left out is said."""
        from realignkit.evaluation.measure import Ablation, Pictures
        from realignkit.named import Named

        spec = chosen["prompts"]
        texts = read_prompts(self.registry, spec)
        able = judging.able(texts, note)

        def generator(**options: Any) -> Named:
            info = self.generator
            return Named("generator", info.name, info.create(**{**settings.options["generator"], **options}))

        pictures = Pictures(realigner, judging, generator, folder, keep_images=chosen["keep_images"])
        source = Path(spec).name if Path(spec).is_file() else spec
        ablation = Ablation(plan, pictures, able[: chosen["limit"]], seeds=chosen["seeds"], source=source)
        if left_out := len(texts) - len(able):
            note(f"{left_out} prompts are left out: metric '{self.judge}' cannot judge them")
        if ablation.idle:
            note(f"no seed is dealt to {', '.join(ablation.idle)}: give --seed 0 to --seed {plan.most_models - 1}")
        for name, models in plan.rows.items():
            if any(model.record.get("status") in ("running", "interrupted") for model in models):
                note(f"a training of row '{name}' has not ended: its best weights so far are measured")
        return ablation


def scorer_settings(
    model: str, names: Mapping[str, Sequence[str]], assignments: Sequence[str]
) -> tuple[Settings, dict[str, Any]]:
    """What ``--set`` says, and options of the prompt set (``prompts.name=value``)."""
    from realignkit import resolve
    from realignkit.cli._settings import parse
    from realignkit.registry import default_registry
    from realignkit.rewards import option_names_of

    registry = default_registry()
    known: dict[str, Any] = {
        "sampling": resolve.SamplingOptions.model_fields,
        "generator": resolve.option_names(resolve.choose_generator(registry, model)),
        **{kind: option_names_of([registry.info(kind, name) for name in chosen]) for kind, chosen in names.items()},
    }
    of_prompts = [text for text in assignments if text.strip().startswith("prompts.")]
    settings = parse([text for text in assignments if text not in of_prompts], known)
    # The prompt set itself says what it takes.
    prompts = parse([f"sampling.{text.strip().removeprefix('prompts.')}" for text in of_prompts], {"sampling": None})
    return settings, prompts.sampling


def make_all(kind: str, names: Sequence[str], options: Mapping[str, Any]) -> tuple[Named, ...]:
    """Plugins of a kind, each once."""
    from realignkit.registry import default_registry
    from realignkit.resolve import make

    infos = [default_registry().info(kind, name) for name in dict.fromkeys(names)]
    if unusable := [info.remedy for info in infos if not info.available]:
        raise PluginError(f"not installed: {', '.join(unusable)}.")
    return make(infos, options)


def measure(ablation: Ablation, folder: Path, control: str = "") -> AblationTable:
    """Measure what is missing, and show the table."""
    with Bars() as bars:
        ablation(bars.step)
    for text in ablation.measurer.left_out:
        note(text)
    return show(folder, control)


def show(folder: Path, control: str) -> AblationTable:
    """Write the tables of a folder, print the table, how to read it, and where it is."""
    from realignkit.evaluation.results import ROWS
    from realignkit.evaluation.write import cells, columns, notes, silence, write_tables

    table, files = write_tables(folder, control)
    if text := silence(table):
        note(text)
    print_table(columns(table), cells(table))
    for text in notes(table):
        out().print(text, style="dim", markup=False)
    out().print("\n".join(f"  {path}" for path in (*files, folder / ROWS)), markup=False)
    if not any(path.suffix == ".svg" for path in files):
        note("there is no plot: install realignkit[plots]")
    return table
