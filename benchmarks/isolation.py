"""What a process of its own costs: a reward here and there in turn, with its gradient and without.

The reward is CLIP ViT-B/32 of random weights, which cost what trained ones do. Both kinds of process have the same
libraries and threads, and are asked one after the other, in an order that is drawn anew each round. Beside the clock
stand the processor's seconds, of both processes together, which other work on the machine changes less.

    python benchmarks/isolation.py --rounds 15
"""

from __future__ import annotations

import argparse
import json
import os
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

from realignkit.isolation.hosted import isolated
from realignkit.registry import default_registry
from realignkit_plugins.generators import clip_bpe

PROMPTS = ("a red book and a yellow pen", "a cat on a blue sofa")


def make_checkpoint(folder: Path) -> Path:
    torch.manual_seed(0)
    clip_bpe.write_tokenizer(folder, 77)
    CLIPModel(CLIPConfig()).save_pretrained(folder)
    CLIPImageProcessor().save_pretrained(folder)
    return folder


def processor_seconds(reward: Any) -> float:
    """Of this process, and of the worker of a reward that has one; on Linux."""
    process = getattr(reward, "_process", None)
    if process is None:
        return time.process_time()
    fields = Path(f"/proc/{process._running.process.pid}/stat").read_text().rpartition(")")[2].split()
    return time.process_time() + (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def ask(reward: Any, images: torch.Tensor, gradient: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Rewards and the gradient."""
    pixels = images.clone().requires_grad_(gradient)
    prompts = [PROMPTS[i % len(PROMPTS)] for i in range(len(images))]
    with torch.set_grad_enabled(gradient):
        rewards = reward(pixels, prompts)
    if gradient:
        rewards.sum().backward()
    return rewards.detach(), pixels.grad


def measure(rewards: dict[str, Any], images: torch.Tensor, rounds: int, gradient: bool) -> dict[str, Any]:
    """Ratios of far to near, round by round, and how far apart their numbers are."""
    answers = {name: ask(reward, images, gradient) for name, reward in rewards.items()}  # loads, and warms up
    pairs = zip(answers["near"], answers["far"], strict=True)
    apart = [float((here - there).abs().max()) for here, there in pairs if here is not None and there is not None]
    clocks: dict[str, Callable[[Any], float]] = {"clock": lambda _: time.perf_counter(), "processor": processor_seconds}
    spent: dict[str, dict[str, list[float]]] = {clock: {name: [] for name in rewards} for clock in clocks}
    for _ in range(rounds):
        for name in random.sample(list(rewards), len(rewards)):
            starts = {clock: read(rewards[name]) for clock, read in clocks.items()}
            ask(rewards[name], images, gradient)
            for clock, read in clocks.items():
                spent[clock][name].append(read(rewards[name]) - starts[clock])
    return {
        "gradient": gradient,
        "load": round(os.getloadavg()[0], 1),
        **{clock: compared(seconds) for clock, seconds in spent.items()},
        "apart": apart,
    }


def compared(seconds: dict[str, list[float]]) -> dict[str, Any]:
    """The median of the ratios, with its 95 % interval, and their quartiles."""
    ratios = np.divide(seconds["far"], seconds["near"])
    draws = np.random.default_rng(0).choice(ratios, (10_000, len(ratios)))
    return {
        "seconds": {name: round(float(np.median(each)), 3) for name, each in seconds.items()},
        "ratio": round(float(np.median(ratios)), 4),
        "interval": [round(float(bound), 4) for bound in np.quantile(np.median(draws, axis=1), (0.025, 0.975))],
        "quartiles": [round(float(bound), 4) for bound in np.quantile(ratios, (0.25, 0.75))],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--size", type=int, default=512)
    chosen = parser.parse_args()
    registry = default_registry()
    images = torch.rand(chosen.images, 3, chosen.size, chosen.size, generator=torch.Generator().manual_seed(0))
    with tempfile.TemporaryDirectory() as name:
        model = str(make_checkpoint(Path(name) / "clip"))
        rewards = {"near": registry.create("reward", "clip", model=model)}
        with isolated(registry, ["reward.clip"]):
            rewards["far"] = registry.create("reward", "clip", model=model)
        for gradient in (True, False):
            print(json.dumps(measure(rewards, images, chosen.rounds, gradient)), flush=True)


if __name__ == "__main__":
    main()
