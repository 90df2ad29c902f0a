"""A reward being exploited on purpose, and what the trainer saw: the curves of docs/explanation/reward-hacking.md.

    python benchmarks/hacking.py                         # the embedded model and its ImageReward, about twenty minutes
    python benchmarks/hacking.py --reward micro_caption --iterations 400
    python benchmarks/hacking.py --run benchmarks/runs/hacking   # draws a run that is there already
    python benchmarks/hacking.py --planted               # five bad rewards: does the judge stop each in time? Hours
    python benchmarks/hacking.py --smoke                 # a minute; checks that everything runs

The training is set up to go wrong: nothing holds the model in place (no denoising loss), the learning rate is high, and
it never stops early. So the curve shows what early stopping would have prevented. Prompts, guidance and judge are those
of an honest run.

Draws ``docs/images/reward-hacking.svg`` with matplotlib (the extra ``plots``): training reward above, held-out judge
below, over iterations; the point where the trainer first warned, the weights that it kept, and where patience would
have ended the run. Writes the numbers as a Markdown table, ``benchmarks/results/hacking.md``. Both come from the run's
``log.jsonl`` and ``training.json`` alone.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from types import ModuleType
from typing import Any

from planted import ALGORITHMS, PLANTED
from planted import run as run_planted

from realignkit import Reward, hookimpl
from realignkit.files import atomic_write
from realignkit.plots import STYLE, document
from realignkit.refl import ReFLConfig, Validation
from realignkit.refl.run import LOG, read_record, validation_from
from realignkit.refl.validation import best_of, hacking, without_improvement

ROOT = Path(__file__).parent.parent
PATIENCE = ReFLConfig().validation.patience
EXPLOITABLE: dict[str, Any] = {
    "denoising_weight": 0.0,
    "reward_weight": 1.0,
    "learning_rate": 3e-4,
    "schedule": "constant",
    "refl": {"solver": "dpmpp", "num_inference_steps": 12, "gradient_steps": (8, 11)},
    "ema_decay": None,
    "checkpoint_every": 50,
    "tracker": "none",
}
SMOKE: dict[str, Any] = {
    "iterations": 2,
    "batch_size": 1,
    "refl": {"solver": "dpmpp", "num_inference_steps": 2, "gradient_steps": (1, 1)},
    "validation": {"every": 1, "prompts": 2, "steps": 2, "patience": 0},
}


class Saturation(Reward):
    """How colourful a picture is; looks at no prompt. As easy to please as a reward can be."""

    def __call__(self, images: Any, prompts: Sequence[str]) -> Any:
        return (images.amax(1) - images.amin(1)).mean((1, 2))


# --- the run --------------------------------------------------------------------------------------------------------


def train(reward: str, judge: str, model: str, out: Path, changes: dict[str, Any]) -> None:
    """Train with the exploitable settings, or go on with it."""
    from realignkit import ReFLTrainer, default_registry
    from realignkit.refl import Judge
    from realignkit.resolve import choose_generator, companions_of, make_reward

    registry, mine = default_registry(), ModuleType("hacking")
    mine.register_rewards = hookimpl(  # type: ignore[attr-defined]
        _register_saturation, specname="register_rewards"
    )
    registry.register(mine)
    info = choose_generator(registry, model)
    generator, companions = info.create(), companions_of(info)
    judges = {info.name for info in registry.infos("metric")}
    watching = registry.create("metric", judge) if judge in judges else make_reward(registry, judge, {}, companions)
    trainer = ReFLTrainer(
        generator.pipeline(),
        make_reward(registry, reward, {}, companions),
        {**EXPLOITABLE, **changes},
        prompts=registry.create("prompts", "micro", purpose="train"),
        held_out=registry.create("prompts", "micro", purpose="validation"),
        judge=Judge(watching, judge),
        names={"reward": reward, "generator": info.name},
        sampling=generator.sampling_defaults,
        out=out,
        on_message=lambda text: print(text, file=sys.stderr),
    )
    trainer.train(resume=read_record(out) is not None)


def _register_saturation(register: Any) -> None:
    register("saturation", Saturation, "how colourful a picture is")


@dataclass(frozen=True)
class Curve:
    """What a run's files say.

    Attributes:
        reward, judge: their names.
        rewards: training reward by iteration, from 1.
        history: validations, the first of the model as it came.
        warned: iteration of the first warning; None without one.
        chosen: iteration whose weights were kept.
        ended: iteration at which :data:`PATIENCE` would have ended the run; None if it would not have.
    """

    reward: str
    judge: str
    rewards: tuple[float, ...]
    history: tuple[Validation, ...]
    warned: int | None
    chosen: int | None
    ended: int | None


def read(folder: Path) -> Curve:
    """The curve of a run's folder; warnings are decided anew, by the rule that the trainer follows."""
    record = read_record(folder)
    if record is None or not record["history"]:
        raise SystemExit(f"there is no run with validations in {folder}. Train one first, without --run.")
    history = tuple(validation_from(item) for item in record["history"])
    rows = [json.loads(line) for line in (folder / LOG).read_text(encoding="utf-8").splitlines()]
    judge = str(record["identity"]["judge"])
    so_far = [history[: i + 1] for i in range(len(history))]
    best = best_of(history)
    return Curve(
        reward=str(record["identity"]["reward"]),
        judge=judge,
        rewards=tuple(row["reward"] for row in rows),
        history=history,
        warned=next((part[-1].iteration for part in so_far if hacking(part, judge)), None),
        chosen=None if best is None else best.iteration,
        ended=next((part[-1].iteration for part in so_far if without_improvement(part) >= PATIENCE), None),
    )


# --- the picture ----------------------------------------------------------------------------------------------------

TRAINING, HELD_OUT, JUDGED = "#9db7d5", "#1f5fa8", "#b3471b"
MARKS = {
    "warned": ("first warning", "#c0182b", "--"),
    "chosen": ("weights that were kept", "#1b7a3d", "-"),
    "ended": (f"patience of {PATIENCE} ends the run", "#555555", ":"),
}


def draw(curve: Curve) -> str:
    """The curve as SVG: what was trained with above, the judge below; marks and lines bear their names as ids.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    import matplotlib
    from matplotlib.figure import Figure

    validated = [item.iteration for item in curve.history]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.5, 5.2), layout="constrained")
        above, below = figure.subplots(2, 1, sharex=True)
        above.plot(range(1, len(curve.rewards) + 1), curve.rewards, color=TRAINING, linewidth=1, label="each batch")
        rewards, judgements = [item.reward for item in curve.history], [item.judgement for item in curve.history]
        above.plot(validated, rewards, "o-", color=HELD_OUT, markersize=4, label="held-out prompts", gid="held-out")
        below.plot(validated, judgements, "o-", color=JUDGED, markersize=4, gid="judged")
        for axis, title in ((above, f"training reward: {curve.reward}"), (below, f"held-out judge: {curve.judge}")):
            axis.set_title(title.replace("$", r"\$"), loc="left", fontweight="bold")
            axis.grid(axis="y", color="#e4e4e4")
            axis.spines[["right", "top"]].set_visible(False)
            for name, (label, colour, dash) in MARKS.items():
                if (at := getattr(curve, name)) is not None:
                    axis.axvline(at, color=colour, linestyle=dash, linewidth=1.5, label=label).set_gid(name)
        below.set_xlabel("iteration")
        figure.legend(*above.get_legend_handles_labels(), loc="outside upper left", ncols=3, frameon=False)
        title = f"Training reward {curve.reward} and held-out judge {curve.judge} over iterations"
        return document(figure, "svg", title).decode()


def table(curve: Curve) -> str:
    """The validations as Markdown; the training reward is the mean of the batches since the one before."""
    head = f"| iteration | training reward ({curve.reward}) | the same, held out | judge ({curve.judge}) | |"
    lines = [head, "| --: | --: | --: | --: | --- |"]
    before = 0
    for item in curve.history:
        since = curve.rewards[before : item.iteration]
        before = item.iteration
        notes = [label for name, (label, *_) in MARKS.items() if getattr(curve, name) == item.iteration]
        mean = f"{fmean(since):.4f}" if since else ""
        lines.append(f"| {item.iteration} | {mean} | {item.reward:.4f} | {item.judgement:.4f} | {'; '.join(notes)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reward", help="a reward by name, or a sum; default image_reward (--smoke: saturation)")
    parser.add_argument("--judge", default="micro_oracle", help="a metric or reward that is not --reward")
    parser.add_argument("--model", default="micro")
    parser.add_argument("--iterations", type=int, default=300)
    parser.add_argument("--learning-rate", type=float, default=EXPLOITABLE["learning_rate"])
    parser.add_argument("--validate-every", type=int, default=15)
    parser.add_argument("--validation-prompts", type=int, default=64)
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--folder", type=Path, default=ROOT / "benchmarks" / "runs" / "hacking", help="of the training")
    parser.add_argument("--run", type=Path, help="draw this run's folder; train nothing")
    parser.add_argument(
        "--planted", action="store_true", help="the five of planted.py instead; resumed where it stopped"
    )
    parser.add_argument("--only", action="append", choices=PLANTED, help="of the planted ones; repeatable; default all")
    parser.add_argument("--algorithm", default="refl", choices=ALGORITHMS, help="that the planted ones train")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="of the planted ones' trainings")
    parser.add_argument("--smoke", action="store_true", help="two iterations; written only with --svg and --table")
    parser.add_argument("--svg", type=Path, default=None)
    parser.add_argument("--table", type=Path, default=None)
    options = parser.parse_args()
    if options.planted:
        text = run_planted(
            options.only or list(PLANTED), options.algorithm, options.seeds, options.folder, options.smoke
        )
        where = options.table or (None if options.smoke else ROOT / "benchmarks" / "results" / "planted.md")
        print(text)
        if where is not None:
            atomic_write(where, text)
        return
    if options.run is None:
        changes = {
            "iterations": options.iterations,
            "learning_rate": options.learning_rate,
            "validation": {"every": options.validate_every, "prompts": options.validation_prompts, "patience": 0},
            "seed": options.seed,
            **(SMOKE if options.smoke else {}),
        }
        reward = options.reward or ("saturation" if options.smoke else "image_reward")
        train(reward, options.judge, options.model, options.folder, changes)
    curve = read(options.run or options.folder)
    kept = not options.smoke
    svg = options.svg or (ROOT / "docs" / "images" / "reward-hacking.svg" if kept else None)
    numbers = options.table or (ROOT / "benchmarks" / "results" / "hacking.md" if kept else None)
    print(table(curve))
    for path, text in ((svg, draw(curve)), (numbers, table(curve))):
        if path is not None:
            atomic_write(path, text)
            print(f"written to {path}", file=sys.stderr)


if __name__ == "__main__":
    main()
