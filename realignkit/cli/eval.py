"""``realignkit eval``: score pictures, of a model or of yours, and compare two scorings."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from realignkit.cli._options import Threads
from realignkit.cli._progress import Bars, Command, CommandGroup, loading, note, set_verbosity, writes_into
from realignkit.errors import OptionError
from realignkit.machine import suited_threads

if TYPE_CHECKING:
    from realignkit.evaluation.drawing import Drawing
    from realignkit.evaluation.pictures import Picture
    from realignkit.evaluation.processes import Launch
    from realignkit.named import Named
    from realignkit.registry import PluginInfo, Registry

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
    fine: Annotated[bool, typer.Option("--fine", help="The fine stage follows: what 'realignkit run' makes.")] = False,
    stage: Annotated[
        str, typer.Option(metavar="refined|coarse", help="Which pictures of a run: after, or before the fine stage.")
    ] = "refined",
    seed: Annotated[list[int] | None, typer.Option(min=0, help="Start noise; repeatable.", show_default="42")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="With --model: only the first so many prompts.")] = None,
    folder: Out = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="An option, e.g. metric.reward.batch_size=4; repeatable."),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Pictures per forward pass.")] = 8,
    threads: Threads = None,
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
    if (pictures is None) == (model is None):
        raise typer.BadParameter("give either --pictures or --model.")
    if stage not in ("refined", "coarse"):
        raise typer.BadParameter("--stage is refined or coarse.")
    if (candidates > 1) != (select_by is not None):
        raise typer.BadParameter("--candidates N, at least 2, and --select-by REWARD go together.")
    if model is None and (lora or fine or seed or limit or candidates > 1):
        raise typer.BadParameter("--lora, --fine, --seed, --limit and --candidates go with --model.")
    if model is not None and prompts is None:
        raise typer.BadParameter("--model needs --prompts: what to draw.")
    from realignkit.evaluation.processes import Launch

    launch = Launch.of_environment()
    bench = _Bench(model, prompts, metric or [], select_by, launch)
    settings = bench.settings([*([] if lora is None else [f"generator.lora={json.dumps(lora)}"]), *(assignments or [])])
    folder = folder or DEFAULT_ROOT / _stem(str(pictures or model), prompts)
    with writes_into(ctx, folder) if launch.first else contextlib.nullcontext():
        with loading():
            metrics = bench.metrics(settings)
            drawing = None
            if model is not None:
                chosen = {
                    "candidates": candidates,
                    "select_by": select_by,
                    "batch_size": batch_size,
                    "threads": threads,
                }
                drawing = bench.drawing(settings, chosen, folder, seeds=seed or [42], fine=fine, limit=limit)
        _run(bench, metrics, drawing, pictures, stage, folder, batch_size)


class _Bench:
    """What is looked up from the options."""

    def __init__(
        self, model: str | None, prompts: str | None, metrics: Sequence[str], select_by: str | None, launch: Launch
    ) -> None:
        from realignkit import resolve
        from realignkit.registry import default_registry

        self.registry: Registry = default_registry()
        self.model, self.launch, self.specs = model, launch, {"reward": select_by}
        generator = None if model is None else resolve.choose_generator(self.registry, model)
        self.companions: Mapping[str, str] = {} if generator is None else resolve.companions_of(generator)
        names = list(metrics) or [name for kind, name in self.companions.items() if kind == "metric"]
        if not names:
            known = ", ".join(info.name for info in self.registry.infos("metric"))
            raise OptionError(f"give --metric: what is the score? Known: {known}.")
        self.infos = [metric_info(self.registry, name, self.companions) for name in dict.fromkeys(names)]
        self.prompts: Named | None = None
        self.texts: list[str] = []
        self.labels: list[dict[str, str]] = []
        self.source = prompts or ""
        if prompts is not None:
            self._read(prompts)

    def _read(self, spec: str) -> None:
        from realignkit.calls import texts_of
        from realignkit.prompts import labels_of, prompt_set

        self.prompts = prompt_set(self.registry, spec)
        self.texts, self.labels = texts_of(self.prompts), labels_of(self.prompts)
        if (summary := getattr(self.prompts.plugin, "summary", "")) and self.launch.first:
            note(summary)

    @property
    def by_id(self) -> dict[str, str]:
        """Id -> prompt."""
        return {label["id"]: text for text, label in zip(self.texts, self.labels, strict=True) if "id" in label}

    @property
    def by_prompt(self) -> dict[str, dict[str, str]]:
        """Prompt -> what the set says of it."""
        return {text: label for text, label in zip(self.texts, self.labels, strict=True) if label}

    def settings(self, assignments: Sequence[str]) -> Any:
        """What ``--set`` says."""
        from realignkit.cli._settings import known_options, options_of, parse

        known = {} if self.model is None else known_options(self.registry, self.model, self._specs)
        return parse(assignments, {**known, "metric": options_of(self.infos)})

    @property
    def _specs(self) -> dict[str, str | None]:
        return {"tagger": None, "scorer": None, "segmenter": None, **self.specs}

    def metrics(self, settings: Any) -> tuple[Named, ...]:
        """Made from their names; nothing is loaded."""
        from realignkit.errors import PluginError
        from realignkit.resolve import make

        if unusable := [info.remedy for info in self.infos if not info.available]:
            raise PluginError(f"not installed: {', '.join(unusable)}.")
        return make(self.infos, settings.options["metric"])

    def drawing(
        self, settings: Any, chosen: Mapping[str, Any], folder: Path, *, seeds: list[int], fine: bool, limit: int | None
    ) -> Drawing:
        """What draws the prompts."""
        from realignkit.cli._settings import make_realigner
        from realignkit.evaluation.drawing import Drawing

        assert self.model is not None
        steps = {kind: spec for kind, spec in self._specs.items() if kind != "reward"}
        realigner = make_realigner(self.model, steps, settings, **chosen)
        seeds = list(dict.fromkeys(seeds))
        return Drawing(realigner, self.texts[:limit], seeds, folder, fine=fine, launch=self.launch)


def metric_info(registry: Registry, spec: str, companions: Mapping[str, str]) -> PluginInfo:
    """A metric by name; a weighted sum of rewards, such as ``caption:1,clip:0.5``, is a metric too."""
    from dataclasses import replace

    from realignkit.resolve import parse_weights, rewards_in

    if ":" not in spec and "," not in spec:
        return registry.info("metric", companions.get(f"reward:{spec}", spec))
    names, weights = rewards_in(spec, companions), parse_weights(spec)
    info = registry.info("metric", "reward")
    reward = ",".join(f"{names[name]}:{weight:g}" for name, weight in weights.items())
    return replace(info, name=spec, options={**info.options, "reward": reward})


def _stem(source: str, prompts: str | None) -> str:
    """What the folder is called by default."""
    from realignkit.evaluation.runs import slug

    stem = slug(Path(source).stem)
    return stem if prompts is None else f"{stem}-{slug(Path(prompts).stem)}"


def _run(
    bench: _Bench,
    metrics: Sequence[Named],
    drawing: Drawing | None,
    pictures: Path | None,
    stage: Any,
    folder: Path,
    batch_size: int,
) -> None:
    from realignkit.evaluation.evaluate import Evaluation
    from realignkit.evaluation.pictures import read_pictures

    launch = bench.launch
    with Bars(shown=launch.first) as bars:
        if drawing is not None:
            chosen: Any = drawing
            source = f"{bench.model} of {bench.source}"
        else:
            assert pictures is not None
            chosen, source = read_pictures(pictures, bench.by_id, stage), pictures.name
            _note_coverage(bench, chosen)
        evaluation = Evaluation(
            chosen, metrics, folder, labels=bench.by_prompt, source=source, batch_size=batch_size, launch=launch
        )
        evaluation(bars.step, note)
    if launch.first:
        from realignkit.cli._evaluations import show_metrics

        show_metrics(folder, metrics)


def _note_coverage(bench: _Bench, pictures: Sequence[Picture]) -> None:
    """Say where pictures and the prompt set do not cover each other."""
    if not bench.texts or not bench.launch.first:
        return
    prompts, known = {picture.prompt for picture in pictures}, set(bench.texts)
    if without := len(known - prompts):
        note(f"{without} of {len(known)} prompts of '{bench.source}' have no picture")
    if others := len(prompts - known):
        note(f"{others} prompts of the pictures are none of '{bench.source}': they are in no group")


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
    from realignkit.cli._evaluations import show_comparison
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
    from realignkit.cli._evaluations import show_metrics
    from realignkit.evaluation.join import join_folders
    from realignkit.files import only_writer
    from realignkit.registry import default_registry

    with only_writer(folder):
        show_metrics(folder, join_folders(folders, folder, default_registry()))
