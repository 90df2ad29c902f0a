"""``realignkit ablate methods``: Table I, systems side by side."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from realignkit.cli._evaluations import EvaluationBench, measure, print_tables, write_results
from realignkit.cli._options import Isolate, Threads, isolate_plugins
from realignkit.cli._progress import loading, note, set_verbosity, writes_into
from realignkit.errors import ModelError, OptionError, PluginError
from realignkit.machine import suited_threads

if TYPE_CHECKING:
    from realignkit.cli._settings import Settings
    from realignkit.evaluation.drawing import Drawing
    from realignkit.evaluation.methods import Method
    from realignkit.evaluation.processes import Launch
    from realignkit.named import Named


def methods(
    ctx: typer.Context,
    rows: Annotated[
        str, typer.Option(metavar="FILE|NAME", help="The systems: a YAML file, or 'micro' or 'published'.")
    ] = "micro",
    without: Annotated[list[str] | None, typer.Option(metavar="ROW", help="A row to leave out; repeatable.")] = None,
    prompts: Annotated[
        str, typer.Option(metavar="FILE|NAME", help="What to draw: a file, - or a prompt set.")
    ] = "micro",
    metric: Annotated[
        list[str] | None,
        typer.Option(help="A metric or a reward; repeatable. Default: the first model's companion."),
    ] = None,
    seed: Annotated[
        list[int] | None,
        typer.Option(min=0, help="One picture of each prompt, from noise of its own; repeatable.", show_default="42"),
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Only the first so many prompts.")] = None,
    folder: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where to write; resumes what is there.")] = Path(
        "ablations/methods"
    ),
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="An option of every row, below the row's own; repeatable."),
    ] = None,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Pictures per forward pass.")] = 8,
    study: Annotated[
        Path | None,
        typer.Option("--study", metavar="DIR", help="A study of the rows' folders: people's average ranks beside."),
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Only say what each row needs, and what is missing.")] = False,
    threads: Threads = None,
    isolate: Isolate = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Tracebacks and the libraries' messages.")] = False,
) -> None:
    """Table I: several systems on the same prompts and seeds, by the same metrics, every one paired with every other.

    Each row is an evaluation of its own, in a folder below DIR, as 'realignkit eval' makes it: killed, the same command
    goes on. What a row lacks on this machine is said before any work.

    realignkit ablate methods --without ImageReward --without RealignDiff --limit 20

    realignkit ablate methods --rows published --prompts CC-500.txt --metric clip_score --check
    """
    set_verbosity(ctx, verbose)
    ctx.with_resource(suited_threads(threads=threads))
    isolate_plugins(ctx, isolate)
    from realignkit.evaluation.methods import chosen_methods, methods_table, read_methods
    from realignkit.evaluation.processes import Launch
    from realignkit.evaluation.runs import slug

    chosen = chosen_methods(read_methods(rows), without or [])
    launch = Launch.of_environment()
    ranks = {} if study is None else people_ranks(study, list(chosen))
    with loading():
        systems = _systems(chosen, prompts, metric or [], assignments or [], launch)
    folders = {name: folder / slug(name) for name in systems}
    left = {name: system for name, system in systems.items() if check or not system.is_done(folders[name])}
    if not _all_here(left, strict=not check) or check:
        return
    seeds = list(dict.fromkeys(seed or [42]))
    metrics: tuple[Named, ...] = ()
    with writes_into(ctx, folder) if launch.first else contextlib.nullcontext():
        for name, system in systems.items():
            if launch.first:
                note(f"{name} ({list(systems).index(name) + 1} of {len(systems)})")
            with loading():
                metrics = system.bench.metrics(system.settings)
                drawing = system.drawing(
                    folders[name], seeds=seeds, limit=limit, batch_size=batch_size, threads=threads
                )
            measure(system.bench, metrics, drawing, f"{name} of {prompts}", folders[name], batch_size)
            if launch.first:
                write_results(folders[name], metrics)
        if launch.first:
            show_methods(folder, replace(methods_table(folders, chosen, metrics, seeds), ranks=ranks))


class _System:
    """A row, with what its options name."""

    def __init__(self, method: Method, bench: EvaluationBench, settings: Settings) -> None:
        self.method, self.bench, self.settings = method, bench, settings

    def drawing(self, folder: Path, *, seeds: list[int], limit: int | None, **chosen: Any) -> Drawing:
        """What draws the row's pictures."""
        method, settings = self.method, self.settings
        if method.lora is not None:
            from realignkit.evaluation.plan import trained_model

            trained = {**settings.options["generator"], **trained_model(method.lora).options}
            settings = replace(settings, options={**settings.options, "generator": trained})
        if method.fine == "dense":
            from realignkit.attention.dense import DENSE_DIFFUSION

            settings = replace(settings, modulation={**DENSE_DIFFUSION.model_dump(), **settings.modulation})
        chosen |= {"candidates": method.candidates, "select_by": method.select_by, "guide_by": method.guide_by}
        return self.bench.drawing(settings, chosen, folder, seeds=seeds, fine=bool(method.fine), limit=limit)

    def is_done(self, folder: Path) -> bool:
        """Whether the row's folder has what every metric says of all its pictures."""
        from realignkit.evaluation.folder import EvaluationFolder

        results = EvaluationFolder(folder)
        record = results.record()
        if record is None:
            return False
        lines, whole = results.lines().values(), record.get("whole", {})
        return len(lines) == record["pictures"].get("count") and all(
            metric.name in whole if metric.has("state") else all(metric.name in line["values"] for line in lines)
            for metric in self.bench.metrics(self.settings)
        )

    def missing(self) -> str:
        """Why the row cannot be drawn here, in a sentence; "" where nothing is known to be missing."""
        from realignkit.evaluation.plan import trained_model

        method = self.method
        if method.lora is not None:
            try:
                trained_model(method.lora)
            except ModelError as error:
                return f"{error}" + (f" Make it so: {method.made_by}" if method.made_by else "")
        try:
            return next(filter(None, map(_lack, self.parts)), "")
        except PluginError as error:
            return str(error)

    @cached_property
    def parts(self) -> list[Named]:
        """What draws: the generator, the fine stage's plugins, and the rewards that choose or guide.

        Raises:
            PluginError: one of them is not installed.
        """
        from realignkit.resolve import choose, choose_generator, make
        from realignkit.rewards import named_rewards

        method, registry, options = self.method, self.bench.registry, self.settings.options
        infos = [choose_generator(registry, method.model)]
        for kind in ("tagger", "scorer", "segmenter") if method.fine else ():
            infos += choose(registry, kind, self.bench.steps[kind], self.bench.companions)
        if unusable := next((info for info in infos if not info.available), None):
            raise PluginError(f"{unusable.kind} '{unusable.name}' is not installed: {unusable.remedy}.")
        made = [part for info in infos for part in make([info], options.get(info.kind, {}))]
        asked = {"select_by": method.select_by, "guide_by": method.guide_by}
        rewards = named_rewards(registry, method.model, asked, options.get("reward", {}))
        return made + [reward for reward in rewards.values() if reward is not None]


def _lack(part: Named) -> str:
    """What keeps a plugin from working here, in a sentence; "" where nothing is known to."""
    with part.blame():
        why = str(part.plugin.check() or "") if part.has("check") else ""
    why = why or part.out_of_reach()
    return f"{part.whose} cannot work: {why}" if why else ""


def _downloads(parts: Sequence[Named]) -> str:
    """The models on the hub that plugins load and that are not here, in words."""
    from realignkit.cli._downloads import with_sizes
    from realignkit.cli.doctor import absent_repositories

    return with_sizes(absent_repositories(part.plugin for part in parts))


def _systems(
    methods: Mapping[str, Method], prompts: str, metrics: list[str], assignments: list[str], launch: Launch
) -> dict[str, _System]:
    """The rows with what their options name; metrics mean in all of them what they mean with the first model."""
    import json

    systems: dict[str, _System] = {}
    companions: Mapping[str, str] | None = None
    for name, method in methods.items():
        steps = {"reward": method.select_by, "guide_by": method.guide_by}
        steps |= {"tagger": method.tagger, "scorer": method.scorer, "segmenter": method.segmenter}
        bench = EvaluationBench(method.model, prompts, metrics, steps, launch, companions)
        if companions is None:
            companions = bench.companions
        rows_own = [f"{option}={json.dumps(value)}" for option, value in method.settings.items()]
        try:
            settings = bench.settings([*assignments, *rows_own])
        except OptionError as error:
            raise OptionError(f"row '{name}': {error}") from None
        systems[name] = _System(method, bench, settings)
    return systems


def _all_here(systems: Mapping[str, _System], *, strict: bool) -> bool:
    """Say what each row and each metric needs; whether all of it is here, or can be fetched.

    Raises:
        OptionError: one lacks something, and ``strict``.
        PluginError: a metric is not installed.
    """
    missing = {name: system.missing() for name, system in systems.items()}
    for name, system in systems.items():
        if missing[name]:
            note(f"{name}: {missing[name]}")
        elif system.method.download:
            note(f"{name}: downloads {system.method.download}, unless that is here already")
        elif downloads := _downloads(system.parts):
            note(f"{name}: downloads {downloads} from the hub")
    mute = _mute_metrics(systems.values())
    lacking = [name for name, why in missing.items() if why]
    if lacking and strict:
        left_out = " ".join(f"--without '{name}'" if " " in name else f"--without {name}" for name in lacking)
        raise OptionError(
            f"{len(lacking)} of {len(systems)} rows cannot be drawn here: {', '.join(lacking)}; the reasons are above. "
            f"Mend them, or leave the rows out: {left_out}."
        )
    if mute and strict:
        raise OptionError(
            f"some metrics cannot judge here: {', '.join(mute)}; the reasons are above. Mend them, or give another "
            f"--metric."
        )
    if not lacking and not mute:
        note("every row has what it needs, or can fetch it")
    return not lacking and not mute


def _mute_metrics(systems: Iterable[_System]) -> list[str]:
    """Say what metrics need; the names of those that cannot judge here.

    Raises:
        PluginError: one is not installed.
    """
    metrics = [metric for system in systems for metric in system.bench.metrics(system.settings)]
    mute = []
    for metric in {(metric.name, repr(metric.options)): metric for metric in metrics}.values():
        if why := _lack(metric):
            mute.append(metric.name)
            note(why)
        elif downloads := _downloads([metric]):
            note(f"{metric.whose}: downloads {downloads} from the hub")
    return list(dict.fromkeys(mute))


def people_ranks(study: Path, rows: list[str]) -> dict[str, dict[str, tuple[float, Any]]]:
    """Question -> row -> average rank and its interval, of a study whose systems are called as rows or their folders.

    Raises:
        OptionError: none of them is, or nobody has answered.
        OutputError: the folder holds no study.
    """
    from realignkit.cli.study import study_extra
    from realignkit.evaluation.runs import slug
    from realignkit.study.answers import Answers
    from realignkit.study.folder import read_study

    with study_extra():
        from realignkit.study.results import evaluate
    asked = read_study(study)
    row_of = {called: row for row in rows for called in (row, slug(row))}
    if not set(asked.systems) & row_of.keys():
        raise OptionError(
            f"{study} ranks {', '.join(asked.systems)}, and none of them is a row ({', '.join(rows)}). Make a study of "
            f"the rows' folders."
        )
    results = evaluate(asked, Answers(study, asked).read())
    return {
        judged.question: {row_of[p.system]: (p.rank, p.interval) for p in judged.placed if p.system in row_of}
        for judged in results.questions
    }


def show_methods(folder: Path, table: Any) -> None:
    """Write Table I, and print it."""
    from realignkit.evaluation.write_evaluation import INTERVALS, PAIRED
    from realignkit.evaluation.write_methods import notes_of, pairs_tables, systems_table, write_methods

    files = write_methods(folder, table)
    print_tables([systems_table(table), *pairs_tables(table)], [*notes_of(table), INTERVALS, PAIRED], files)
