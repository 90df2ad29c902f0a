"""``realignkit train``: fine-tune a model with a reward (eq. 5)."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from realignkit.cli._options import Isolate, Threads, Verbose, isolate_plugins, read_prompts
from realignkit.cli._progress import (
    EXIT_INTERRUPTED,
    Bars,
    err,
    loading,
    new_table,
    note,
    out,
    print_usage,
    set_verbosity,
    writes_into,
)
from realignkit.errors import OptionError, in_one_line
from realignkit.machine import suited_threads

if TYPE_CHECKING:
    from realignkit.named import Named
    from realignkit.types import TrainResult, TrainState

DEFAULT_MODEL = "micro"
GROUPS = ("training", "generator", "reward", "judge")
"""Whose options ``--set`` takes."""


def train(
    ctx: typer.Context,
    reward: Annotated[
        str | None, typer.Option(help="What to raise: a reward, or a weighted sum such as caption:1,clip:0.5.")
    ] = None,
    prompts: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|NAME", help="Training prompts: a file (text, CSV, JSON lines), or a prompt set: micro:train."
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="A generator's name, or a folder, file or hub id of a model.", show_default="micro"),
    ] = None,
    folder: Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Where to write.")] = None,
    judge: Annotated[
        str | None, typer.Option(help="A reward or metric that is not --reward: watches the held-out prompts.")
    ] = None,
    validation_prompts: Annotated[
        str | None,
        typer.Option(metavar="FILE|NAME", help="Held-out prompts. Default: every tenth training prompt is set aside."),
    ] = None,
    preset: Annotated[
        str | None, typer.Option(help="By name: feedback, feedback_quick, pairs, paper, imagereward, fast, final.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="YAML: these options by name, and 'set' with more.")
    ] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="An option, e.g. training.lora.rank=8; repeatable."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint in the folder.")] = False,
    control: Annotated[
        bool, typer.Option("--control", help="Then train the same without what the reward says, and show both.")
    ] = False,
    threads: Threads = None,
    isolate: Isolate = None,
    verbose: Verbose = False,
) -> None:
    """Fine-tune a model with a reward; adapters, checkpoints, samples and log go to --out."""
    set_verbosity(ctx, verbose)
    flags = {
        "reward": reward,
        "prompts": prompts,
        "model": model,
        "out": folder,
        "judge": judge,
        "validation_prompts": validation_prompts,
        "preset": preset,
        "threads": threads,
    }
    wanted, settings = _merge(flags, config)
    ctx.with_resource(suited_threads(threads=wanted["threads"]))
    isolate_plugins(ctx, isolate)
    for name in ("reward", "prompts", "out"):
        if wanted.get(name) is None:
            raise typer.BadParameter(f"--{name} is missing (or '{name}:' in the --config file).")
    job = TrainingJob(wanted, [*settings, *(assignments or [])])
    if control:
        job.config.check_control(Path(wanted["out"]))  # before hours of training

    # Before minutes of loading; the processes of one launch are one writer.
    first = os.environ.get("RANK", "0") == "0"
    with writes_into(ctx, wanted["out"]) if first else contextlib.nullcontext():
        results = {"trained": job.run(Path(wanted["out"]), resume)}
        if control:
            results["control"] = job.run(Path(wanted["out"]) / "control", resume, control=True)
    if job.main:
        _print(results, str(wanted["judge"] or ""))
        print_usage(job.asked)


def _merge(flags: Mapping[str, Any], path: Path | None) -> tuple[dict[str, Any], list[str]]:
    """Flags over the file's values; and what the file sets, as ``name=value``."""
    import json

    import yaml

    from realignkit.arguments import shown
    from realignkit.parsing import parse_yaml
    from realignkit.refl.config import refuse_former

    if path is None:
        return dict(flags), []
    try:
        job = parse_yaml(path.read_text(encoding="utf-8-sig")) or {}
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise OptionError(f"cannot read {path}: {in_one_line(error)}. --config takes a YAML file.") from None
    known = ", ".join(sorted({*flags, "set"}))
    if not isinstance(job, dict):
        raise OptionError(f"{path} must map names to values: {known}.")
    chosen = job.pop("set", None) or {}
    if not isinstance(chosen, dict):
        raise OptionError(f"{path}: 'set' maps option names to values, and {shown(chosen)} does not.")
    for stranger in (name for name in job if name not in flags):
        refuse_former(str(stranger))
        raise OptionError(f"{path}: {stranger} is none of {known}; options such as training.lora.rank go below 'set'.")
    flat: dict[str, Any] = {}
    for name, value in chosen.items():
        group = name in GROUPS and isinstance(value, dict)
        flat |= {f"{name}.{option}": below for option, below in value.items()} if group else {name: value}
    settings = [f"{name}={json.dumps(value, default=str)}" for name, value in flat.items()]
    for name in ("reward", "judge"):
        if isinstance(job.get(name), dict):  # a weighted sum, as YAML has it
            job[name] = ",".join(f"{part}:{weight}" for part, weight in job[name].items())
    for name, value in job.items():
        if not isinstance(value, str) and name != "threads":
            raise OptionError(f"{path}: {name} must be a text, not {value!r}. Write it in quotes if it is one.")
    return {name: job.get(name) if flag is None else flag for name, flag in flags.items()}, settings


class TrainingJob:
    """Everything that a run and its control share.

    Args:
        wanted: the command's options by name: reward, prompts, model, out, judge, validation_prompts, preset.
        assignments: those of ``--set``.

    Raises:
        OptionError, PluginError, PromptError: an option is wrong.
    """

    def __init__(self, wanted: Mapping[str, Any], assignments: Sequence[str]) -> None:
        from realignkit import resolve
        from realignkit.cli._settings import nested, nested_names, parse
        from realignkit.contracts import parse_options
        from realignkit.refl.config import ReFLConfig, preset, refuse_former
        from realignkit.refl.data import read_pairs
        from realignkit.registry import default_registry
        from realignkit.rewards import reward_option_names

        self.registry, self.wanted = default_registry(), wanted
        self.model = str(wanted["model"] or DEFAULT_MODEL)
        self.generator = resolve.choose_generator(self.registry, self.model)
        self.companions = resolve.companions_of(self.generator)
        self.judge_name, _, self._judge_value = str(wanted["judge"] or "").partition(".")
        known = {
            "training": set(nested_names(ReFLConfig)),
            "generator": resolve.option_names(self.generator),
            "reward": reward_option_names(self.registry, str(wanted["reward"]), self.companions),
            "judge": None if self.judge_name else set(),
        }
        for assignment in assignments:
            refuse_former(assignment.partition("=")[0].strip().removeprefix("training."))
        self.settings = parse(assignments, known, prefer="training")
        named, training = wanted["preset"], nested(self.settings.training)
        if named is not None:
            self.config = preset(str(named), **training)
        else:
            self.config = parse_options(ReFLConfig, training, owner="training")
        self.prompts = read_prompts(self.registry, str(wanted["prompts"]))
        held_out = wanted["validation_prompts"]
        self.held_out = None if held_out is None else read_prompts(self.registry, str(held_out))
        if self.config.pairs is not None:
            note(read_pairs(self.config.pairs).summary)
        self.main = True
        self.asked: list[Named] = []
        if self.judge_name and self._rewards(str(wanted["judge"])) == self._rewards(str(wanted["reward"])):
            raise OptionError(
                "the judge is the training reward itself, so it could not notice that the reward is exploited. Give "
                "another reward or a metric, or none."
            )

    def _rewards(self, spec: str) -> set[str]:
        """What a spec means with this model: ``clip`` may stand for another one."""
        from realignkit.resolve import rewards_in

        return {*rewards_in(spec, self.companions).values()}

    def run(self, folder: Path, resume: bool, *, control: bool = False, title: str = "") -> TrainResult:
        """Train, or go on; ``title`` is for the progress bar.

        Raises:
            OptionError: the folder holds a run, and ``resume`` is off.
            typer.Exit: Ctrl-C, after what is done has been saved.
        """
        from realignkit.named import Named
        from realignkit.provenance import HANDLING, without
        from realignkit.refl import ReFLTrainer
        from realignkit.refl.distributed import join_launch
        from realignkit.refl.refusals import check_trainable
        from realignkit.refl.run import begun
        from realignkit.resolve import make_reward

        if begun(folder) and not resume:  # before minutes of loading
            raise OptionError(f"{folder} holds a training run. Resume it with --resume, or use another --out.")
        join_launch()  # each process loads onto a GPU of its own
        with loading():
            generator = Named("generator", self.generator.name, self.generator.create(**self._generator_options()))
            with generator.blame():
                pipeline = generator.plugin.pipeline()
            check_trainable(pipeline)  # before the reward is loaded, or downloaded
            reward = make_reward(
                self.registry, str(self.wanted["reward"]), self.settings.options["reward"], self.companions
            )
            judge = self._make_judge()
        rewards = (Named("reward", str(self.wanted["reward"]), reward), *([judge.named] if judge else []))
        self.asked += [part for named in rewards for part, _ in named.parts]
        config = self.config
        if control:
            config = config.control(Path(self.wanted["out"]), config.algorithm_for(rewards[0]))
        with _reporting(title or ("control" if control else "train")) as (on_step, on_message):
            trainer = ReFLTrainer(
                pipeline,
                reward,
                config,
                prompts=self.prompts,
                held_out=self.held_out,
                judge=judge,
                out=folder,
                names={
                    "reward": str(self.wanted["reward"]),
                    "generator": generator.name,
                    **({"judge": judge.name} if judge else {}),
                },
                sampling=getattr(generator.plugin, "sampling_defaults", {}),
                generator_options=without(generator.settings or {}, HANDLING),
                prior=Path(self.wanted["out"]) / "prior",
                registry=self.registry,
                on_step=on_step,
                on_message=on_message,
            )
            self.main = trainer.processes.main
            if config.algorithm == "auto" and trainer.algorithm == "raft":
                on_message("the reward has no gradient, so algorithm=raft is trained")
            for remark in trainer.idle_options():
                on_message(remark)
            try:
                return trainer.train(resume=resume)
            except KeyboardInterrupt:
                if self.main:
                    again = "" if resume else " and --resume"
                    err().print(f"[yellow]Interrupted.[/] Saved in {folder}; go on with the same command{again}.")
                raise typer.Exit(EXIT_INTERRUPTED) from None

    def _generator_options(self) -> dict[str, Any]:
        """Whole networks learn from weights as they are stored: "auto" would round them on a GPU."""
        from realignkit.resolve import option_names

        given = dict(self.settings.options["generator"])
        rounds = bool(self.config.whole_parts) and "dtype" in (option_names(self.generator) or ())
        if rounds and given.get("dtype", "auto") == "auto":
            given["dtype"] = "fp32"
        return given

    def _make_judge(self) -> Any:
        from realignkit.refl import Judge
        from realignkit.resolve import measuring_reward, parse_weights

        if not self.judge_name:
            return None
        spec, options = str(self.wanted["judge"]), self.settings.options["judge"]
        rewards = {info.name for info in self.registry.infos("reward")}
        if set(parse_weights(spec)) <= rewards:
            return Judge(measuring_reward(self.registry, spec, options, self.companions), spec)
        made = self.registry.info("metric", self.judge_name).create(**options)
        return Judge(made, self.judge_name, self._judge_value or None)


def _print(results: Mapping[str, TrainResult], judge: str) -> None:
    from rich.markup import escape

    table = new_table("", "iteration", "held-out reward", judge or "judged by itself")
    for column in table.columns[1:]:
        column.justify = "right"
    first = next(iter(results.values()))
    rows = [("base", first.history[0])] if first.history else []
    rows += [(name, result.best) for name, result in results.items() if result.best is not None]
    for name, row in rows:
        table.add_row(name, str(row.iteration), f"{row.reward:.4f}", f"{row.judgement:.4f}")
    if rows:
        out().print(table)
    elif len(results) > 1:
        out().print(
            "[dim]nothing was validated, so training and control are not compared here: realignkit eval does[/]"
        )
    for name, result in results.items():
        for warning in result.warnings:
            out().print(f"[yellow]warning[/] ({name}): {escape(warning)}")
    result = results["trained"]
    out().print(f"{result.status} after {result.iterations} iterations", markup=False)
    out().print(f"written: {result.folder}/", markup=False)


@contextlib.contextmanager
def _reporting(what: str) -> Iterator[tuple[Callable[[TrainState], None], Callable[[str], None]]]:
    """A bar with reward, loss, held-out judgement and time left; and a printer of messages."""
    with Bars(shown=os.environ.get("RANK", "0") == "0") as bars:
        bars.step(what, 0, None)

        def on_step(state: TrainState) -> None:
            reward = "" if state.reward is None else f" reward {state.reward:.3f}"
            held = "" if state.held_out is None else f" held-out {state.held_out.judgement:.3f}"
            bars.step(what, state.iteration, state.iterations, f"{what}{reward} loss {state.loss:.3f}{held}")

        def on_message(text: str) -> None:
            bars.say(f"{what}: {text}", "yellow" if text.startswith("warning") else "dim")

        yield on_step, on_message
