"""What test_processes.py starts in two processes."""

from __future__ import annotations

import sys
from pathlib import Path

from safetensors.torch import save_file

from realignkit.refl import ReFLTrainer
from tests import tiny
from tests.refl.conftest import PROMPTS, options_over_quick
from tests.refl.rewards import Blind, Colour, Darkness

HELD_OUT = ("a red desk", "a yellow book", "a yellow desk")
# In few steps, as the batches that processes draw L_pre's images in round apart, and pictures have whole levels.
SAMPLING = {"num_inference_steps": 2}
OPTIONS = options_over_quick(refl={"gradient_steps": (1, 3), "kl_weight": 0.1}, iterations=1)


def trainer(out: Path, batch_size: int) -> ReFLTrainer:
    options = {**OPTIONS, "batch_size": batch_size}
    return ReFLTrainer(
        tiny.build_pipeline(),
        Colour(),
        options,
        prompts=PROMPTS,
        held_out=HELD_OUT,
        out=out,
        judge=Darkness(),
        sampling=SAMPLING,
    )


def drawing(out: Path, pairs: Path, batch_size: int) -> ReFLTrainer:
    """A trainer that draws pairs by their reward."""
    weighted = {"pair_sampling": "weighted", "margin": 0.6}
    options = options_over_quick(algorithm="reward_weighted", reward_weighted=weighted, pairs=pairs)
    return ReFLTrainer(
        tiny.build_pipeline(),
        Colour(),
        {**options, "batch_size": batch_size},
        prompts=PROMPTS,
        held_out=HELD_OUT,
        out=out,
        sampling=SAMPLING,
    )


def feedback(out: Path, algorithm: str, batch_size: int) -> ReFLTrainer:
    """A trainer that learns from the model's own pictures."""
    options = options_over_quick(algorithm=algorithm, **{algorithm: {"candidates": 2}}, batch_size=batch_size)
    names = {"reward": "colour"}
    return ReFLTrainer(
        tiny.build_pipeline(),
        Blind(),
        options,
        prompts=PROMPTS,
        held_out=HELD_OUT,
        out=out,
        sampling=SAMPLING,
        names=names,
    )


FEEDBACK = ("dpo", "nft", "grpo")


def main() -> None:
    made = trainer(Path(sys.argv[1]), 1)
    assert made.processes.count == 2
    found = made.gradients(1)
    made.train()
    drawn = drawing(Path(sys.argv[1]) / "drawn", Path(sys.argv[1]) / "prior", 1).gradients(1)
    own = {name: feedback(Path(sys.argv[1]) / name, name, 1).gradients(0) for name in FEEDBACK}
    if made.processes.main:
        tensors = {f"reward/{i}": t for i, t in enumerate(found.reward)}
        tensors |= {f"denoising/{i}": t for i, t in enumerate(found.denoising)}
        tensors |= {f"{name}/{i}": t for name, found in own.items() for i, t in enumerate(found.reward)}
        save_file(tensors | {f"drawn/{i}": t for i, t in enumerate(drawn.denoising)}, sys.argv[2])


if __name__ == "__main__":
    main()
