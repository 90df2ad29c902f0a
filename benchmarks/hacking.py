"""A reward being exploited on purpose, and what the trainer saw: the curves of docs/explanation/reward-hacking.md.

    python benchmarks/hacking.py                         # the embedded model and its ImageReward, about twenty minutes
    python benchmarks/hacking.py --reward micro_caption --iterations 400
    python benchmarks/hacking.py --run benchmarks/runs/hacking   # draws a run that is there already
    python benchmarks/hacking.py --smoke                 # a minute; checks that everything runs

The training is set up to go wrong: nothing holds the model in place (no denoising loss), the learning rate is high, and
it never stops early. So the curve shows what early stopping would have prevented. Prompts, guidance and judge are those
of an honest run.

Draws ``docs/images/reward-hacking.svg`` (training reward above, held-out judge below, over iterations; the point where
the trainer first warned, the weights that it kept, and where patience would have ended the run), and writes the numbers
as a Markdown table, ``benchmarks/results/hacking.md``. Both come from the run's ``log.jsonl`` and
``training.json`` alone.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from types import ModuleType
from typing import Any
from xml.sax.saxutils import escape

from realignkit import Reward, hookimpl
from realignkit.files import atomic_write
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
    judges = {found.name for found in registry.infos("metric")}
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

WIDTH, LEFT, RIGHT, TOP, PANEL, GAP = 720, 70, 20, 64, 170, 46
TRAINING, HELD_OUT, JUDGED = "#9db7d5", "#1f5fa8", "#b3471b"
MARKS = {"warned": ("first warning", "#c0182b", "6 4"), "chosen": ("weights that were kept", "#1b7a3d", "none")}
MARKS["ended"] = (f"patience of {PATIENCE} ends the run", "#555555", "2 4")


@dataclass(frozen=True)
class Axis:
    """Values from ``low`` to ``high`` on the picture from ``start`` to ``stop``."""

    low: float
    high: float
    start: float
    stop: float

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.stop - self.start)

    @classmethod
    def over(cls, values: Sequence[float], start: float, stop: float) -> Axis:
        low, high = min(values), max(values)
        margin = 0.08 * (high - low) or 0.5 * abs(high) or 1.0
        return cls(low - margin, high + margin, start, stop)

    def ticks(self, about: int = 4) -> list[float]:
        """Round numbers between low and high."""
        rough = (self.high - self.low) / about
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(power * k for k in (1, 2, 2.5, 5, 10) if power * k >= rough)
        first, last = math.ceil(self.low / step), math.floor(self.high / step)
        return [round(i * step, 12) for i in range(first, last + 1)]


def draw(curve: Curve) -> str:
    """The curve as SVG, on white, without scripts or fonts of its own."""
    x = Axis(0, max(len(curve.rewards), curve.history[-1].iteration), LEFT, WIDTH - RIGHT)
    bottoms = TOP + PANEL, TOP + 2 * PANEL + GAP
    height = bottoms[1] + 44
    held_out = [(item.iteration, item.reward) for item in curve.history]
    judged = [(item.iteration, item.judgement) for item in curve.history]
    above = Axis.over([*curve.rewards, *(value for _, value in held_out)], bottoms[0], TOP)
    below = Axis.over([value for _, value in judged], bottoms[1], TOP + PANEL + GAP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" '
        f'font-size="12" role="img"><title>Training reward {escape(curve.reward)} and held-out judge '
        f"{escape(curve.judge)} over iterations</title>",
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        *_axes(x, above, f"training reward: {curve.reward}"),
        *_axes(x, below, f"held-out judge: {curve.judge}", iterations=True),
        _line(x, above, list(enumerate(curve.rewards, 1)), TRAINING, 1),
        _line(x, above, held_out, HELD_OUT, 2),
        *_points(x, above, held_out, HELD_OUT),
        _line(x, below, judged, JUDGED, 2),
        *_points(x, below, judged, JUDGED),
        *_legend(curve),
    ]
    for name, (_, colour, dash) in MARKS.items():
        if (at := getattr(curve, name)) is not None:
            parts.append(
                f'<line class="{name}" x1="{x(at):.1f}" x2="{x(at):.1f}" y1="{TOP}" y2="{bottoms[1]}" '
                f'stroke="{colour}" stroke-width="1.5" stroke-dasharray="{dash}"/>'
            )
    return "\n".join([*parts, "</svg>", ""])


def _axes(x: Axis, y: Axis, title: str, *, iterations: bool = False) -> list[str]:
    parts = [f'<text x="{x.start}" y="{y.stop - 8}" font-weight="bold">{escape(title)}</text>']
    for tick in y.ticks():
        parts.append(f'<line x1="{x.start}" x2="{x.stop}" y1="{y(tick):.1f}" y2="{y(tick):.1f}" stroke="#e4e4e4"/>')
        parts.append(f'<text x="{x.start - 8}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick:.6g}</text>')
    parts.append(f'<path d="M{x.start} {y.stop}V{y.start}H{x.stop}" fill="none" stroke="#444"/>')
    if iterations:
        parts += [
            f'<text x="{x(tick):.1f}" y="{y.start + 18}" text-anchor="middle">{tick:.6g}</text>' for tick in x.ticks(8)
        ]
        parts.append(f'<text x="{(x.start + x.stop) / 2}" y="{y.start + 36}" text-anchor="middle">iteration</text>')
    return parts


def _line(x: Axis, y: Axis, points: Sequence[tuple[float, float]], colour: str, width: float) -> str:
    path = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in points)
    return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width}"/>'


def _points(x: Axis, y: Axis, points: Sequence[tuple[float, float]], colour: str) -> list[str]:
    return [f'<circle cx="{x(a):.1f}" cy="{y(b):.1f}" r="3" fill="{colour}"/>' for a, b in points]


def _legend(curve: Curve) -> list[str]:
    rows = [[("each batch", TRAINING, "none"), ("held-out prompts", HELD_OUT, "none")]]
    rows.append([mark for name, mark in MARKS.items() if getattr(curve, name) is not None])
    parts = []
    for row, entries in enumerate(rows):
        for column, (label, colour, dash) in enumerate(entries):
            left, y = LEFT + 210 * column, 14 + 18 * row
            parts.append(
                f'<line x1="{left}" x2="{left + 22}" y1="{y}" y2="{y}" stroke="{colour}" stroke-width="2" '
                f'stroke-dasharray="{dash}"/><text x="{left + 28}" y="{y + 4}">{escape(label)}</text>'
            )
    return parts


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
    parser.add_argument("--smoke", action="store_true", help="two iterations; written only with --svg and --table")
    parser.add_argument("--svg", type=Path, default=None)
    parser.add_argument("--table", type=Path, default=None)
    options = parser.parse_args()
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
