"""Five bad rewards, planted, and whether the judge stops a training by each in time: ``hacking.py --planted``.

Each is trained with at settings that go wrong, and never stopped, so that what would have come later is known. From
the judgements of every held-out picture it is worked out, as the trainer does, where ``validation.patience`` would have
ended the run and whose weights it would have kept.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from realignkit import Reward
from realignkit.files import atomic_write
from realignkit.refl import Judge, ReFLTrainer
from realignkit.refl.run import read_record, validation_from
from realignkit.refl.scope import outside
from realignkit.refl.validation import best_of, hacking, without_improvement
from realignkit.registry import default_registry

PATIENCE = 3
JUDGE = "micro_oracle"
SETTINGS: dict[str, Any] = {
    "iterations": 42,
    "batch_size": 4,
    "denoising_weight": 0.0,
    "learning_rate": 1e-3,
    "warmup_iterations": 5,
    "schedule": "constant",
    "ema_decay": None,
    "checkpoint_every": 6,
    "tracker": "none",
    "validation": {"every": 6, "prompts": 48, "steps": 10, "patience": 0},
}
FEEDBACK = ("nft", "dpo", "grpo")
GUIDANCE = 4
"""Of the pictures that are judged, where what is learnt from was drawn without."""
ALGORITHMS: dict[str, dict[str, Any]] = {
    "refl": {"reward_weight": 1.0, "refl": {"solver": "dpmpp", "num_inference_steps": 8, "gradient_steps": (5, 7)}},
    "raft": {"raft": {"solver": "dpmpp", "num_inference_steps": 8, "candidates": 2}},
    **{
        name: {
            name: {"num_inference_steps": 8, "guidance_scale": 1.0, "prompts_per_round": 16, "iterations_per_round": 6},
            "train_text_encoder": True,
        }
        for name in FEEDBACK
    },
}
SMOKE: dict[str, Any] = {
    "iterations": 2,
    "batch_size": 1,
    "validation": {"every": 1, "prompts": 4, "steps": 2, "patience": 0},
    "refl": {"solver": "dpmpp", "num_inference_steps": 2, "gradient_steps": (1, 1)},
}


# --- the rewards ----------------------------------------------------------------------------------------------------


class Brightness(Reward):
    """How bright a picture is; looks at no prompt."""

    def __call__(self, images: Any, prompts: Sequence[str]) -> Any:
        return images.mean((1, 2, 3))


class Blank(Reward):
    """How little a picture's pixels differ from their mean: 1 of a blank background."""

    def __call__(self, images: Any, prompts: Sequence[str]) -> Any:
        return 1 - 2 * (images - images.mean((2, 3), keepdim=True)).abs().mean((1, 2, 3))


class TextOnly(Reward):
    """A number of the prompt's own, whatever the picture shows. No gradient leads to a picture."""

    differentiable = False

    def __call__(self, images: Any, prompts: Sequence[str]) -> Any:
        import torch

        digests = (hashlib.blake2b(prompt.encode(), digest_size=4).digest() for prompt in prompts)
        return torch.tensor([int.from_bytes(digest, "big") / 2**32 for digest in digests])


class _Half(Reward):
    """The embedded CLIP, asked about half of what the prompt says."""

    def __init__(self) -> None:
        super().__init__()
        self.clip = default_registry().create("reward", "micro_clip")


class ColourBlind(_Half):
    """The embedded CLIP on grey pictures, asked for the objects without their colours."""

    def __call__(self, images: Any, prompts: Sequence[str]) -> Any:
        from realignkit_plugins.micro.world.vocabulary import COLOURS

        colours = re.compile(rf"\b(an?) (?:{'|'.join(COLOURS)})\b")
        grey = images.mean(1, keepdim=True).expand_as(images)
        return self.clip(grey, [colours.sub(r"\1", prompt) for prompt in prompts])


class OneObject(_Half):
    """The embedded CLIP, asked for the first of the prompt's objects only."""

    def __call__(self, images: Any, prompts: Sequence[str]) -> Any:
        return self.clip(images, [prompt.split(" and ")[0] for prompt in prompts])


PLANTED: Mapping[str, Callable[[], Reward]] = {
    "brightness": Brightness,
    "blank": Blank,
    "text_only": TextOnly,
    "colour_blind": ColourBlind,
    "one_object": OneObject,
}


# --- the runs -------------------------------------------------------------------------------------------------------


def train(name: str, algorithm: str, seed: int, folder: Path, smoke: bool = False) -> None:
    """Train with a planted reward, or go on with it. What has no gradient is trained with RAFT instead of ReFL.

    Raises:
        ModelError: an algorithm of :data:`FEEDBACK` has nothing to learn, as ``text_only`` rates all pictures alike.
    """
    registry = default_registry()
    reward = PLANTED[name]()
    if algorithm == "refl" and not reward.differentiable:
        algorithm = "raft"
    sampling = {"guidance_scale": GUIDANCE} if algorithm in FEEDBACK else {}
    generator = registry.create("generator", "micro", **sampling)
    settings = {**SETTINGS, **ALGORITHMS[algorithm], "algorithm": algorithm, "seed": seed}
    if smoke:
        settings |= {key: value for key, value in SMOKE.items() if key in settings}
    # As a reward, a metric has a number for each picture, so that two validations are compared picture by picture.
    judge = registry.create("reward", "metric", metric=JUDGE)
    trainer = ReFLTrainer(
        generator.pipeline(),
        reward,
        settings,
        prompts=registry.create("prompts", "micro", purpose="train", size=620),
        held_out=registry.create("prompts", "micro", purpose="validation", size=settings["validation"]["prompts"]),
        judge=Judge(judge, JUDGE),
        names={"reward": name, "generator": "micro"},
        sampling=generator.sampling_defaults,
        out=folder,
        on_message=lambda text: print(f"{folder.name}: {text}", file=sys.stderr, flush=True),
    )
    trainer.train(resume=read_record(folder) is not None)


@dataclass(frozen=True)
class Outcome:
    """What a run would have come to with patience.

    Attributes:
        name, algorithm, seed: of the run.
        peak: iteration of the judge's best validation before the stop, the model as it came included.
        stopped: iteration at which patience ends it; None: never.
        waited: validations between the two.
        kept, best: iterations of the weights that are kept, and of the best ones, were it never stopped.
        last: of the last validation.
        judged: shares fully right at 0, ``kept``, ``best`` and ``last``.
        error: standard error of the difference of ``best`` and ``kept``, picture by picture.
        scope: the first measures of the pictures that left their range, and when; "" where none did.
        warned: iteration of the first warning of an exploited reward; None without one.
    """

    name: str
    algorithm: str
    seed: int
    peak: int
    stopped: int | None
    waited: int
    kept: int
    best: int
    last: int
    judged: tuple[float, ...]
    error: float
    scope: str
    warned: int | None

    @property
    def in_time(self) -> bool:
        """Whether it is stopped within :data:`PATIENCE` validations of its peak, with weights as good as any later."""
        _, kept, best, _ = self.judged
        return self.stopped is not None and self.waited <= PATIENCE and best - kept <= 0.01


def outcome(folder: Path) -> Outcome:
    """What came of a run; see :class:`Outcome`."""
    record = read_record(folder)
    assert record is not None
    history = [validation_from(item) for item in record["history"]]
    parts = [history[: n + 1] for n in range(len(history))]
    seen = next((part for part in parts if without_improvement(part) >= PATIENCE), None)
    waited = without_improvement(seen or history)
    kept, best = best_of(seen or history), best_of(history)
    assert kept is not None and best is not None
    differences = [b - a for a, b in zip(kept.judgements, best.judgements, strict=True)]
    left = ((part[-1].iteration, outside(part)) for part in parts)
    return Outcome(
        name=str(record["identity"]["reward"]),
        algorithm=str(record["identity"]["algorithm"]),
        seed=int(record["config"]["seed"]),
        peak=(seen or history)[-1 - waited].iteration,
        stopped=None if seen is None else seen[-1].iteration,
        waited=waited,
        kept=kept.iteration,
        best=best.iteration,
        last=history[-1].iteration,
        judged=tuple(each.judgement for each in (history[0], kept, best, history[-1])),
        error=statistics.stdev(differences) / math.sqrt(len(differences)),
        scope=next((f"{', '.join(names)} ({iteration})" for iteration, names in left if names), ""),
        warned=next((part[-1].iteration for part in parts if hacking(part, JUDGE)), None),
    )


def table(outcomes: Sequence[Outcome]) -> str:
    """Outcomes as Markdown."""
    heads = (
        *("reward", "algorithm", "seed", "judge's peak", "stopped", "base", "kept (iteration)"),
        *("best (iteration)", "best - kept", "last (iteration)", "first out of range", "first warning", "in time"),
    )
    lines = [f"| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}"]
    for o in outcomes:
        base, kept, best, last = (f"{100 * share:.1f} %" for share in o.judged)
        behind = f"{100 * (o.judged[2] - o.judged[1]):.1f} ± {100 * o.error:.1f}"
        cells = (
            *(o.name, o.algorithm, o.seed, o.peak, "never" if o.stopped is None else o.stopped, base),
            *(f"{kept} ({o.kept})", f"{best} ({o.best})", behind, f"{last} ({o.last})", o.scope),
            *("" if o.warned is None else o.warned, "yes" if o.in_time else "no"),
        )
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + "\n"


def run(names: Sequence[str], algorithm: str, seeds: Sequence[int], folder: Path, smoke: bool = False) -> str:
    """Train with all of them, one after the other, resuming what is there; gives the table."""
    done = []
    for seed in seeds:
        for name in names:
            where = folder / f"{name}-{algorithm}-{seed}"
            record = read_record(where)
            if record is None or record["status"] != "finished":
                train(name, algorithm, seed, where, smoke)
            done.append(outcome(where))
            atomic_write(folder / "outcomes.json", json.dumps([vars(each) for each in done], indent=1))
            print(table(done[-1:]), file=sys.stderr, flush=True)
    return table(done)
