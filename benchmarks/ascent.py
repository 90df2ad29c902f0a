"""Does a reward's gradient mean what people see? Ascent on the latents of wrong pictures, and what the oracle says.

    python benchmarks/ascent.py                                       # the embedded captioner, as ReFL uses it
    python benchmarks/ascent.py --reward image_reward
    python benchmarks/ascent.py --set captioner=path/to/another --name plain
    python benchmarks/ascent.py --smoke                               # seconds; checks that it runs

Pictures of validation prompts that the oracle calls wrong are encoded, and their latents climb the reward (Adam, the
embedded decoder, ``relu(margin - R)`` as in eq. 5). A reward whose gradient is about the prompt makes wrong pictures
right; one that only ranks well ends as high and leaves them wrong. Nothing holds the latents near pictures that the
model would draw, so this is harder than fine-tuning. Prints a Markdown table and writes
``benchmarks/results/ascent-<name>.md``.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.progress import track

from realignkit.arguments import value_of
from realignkit.evaluation.statistics import share_interval
from realignkit.files import atomic_write
from realignkit.images import to_tensor
from realignkit.pipelines.generate import generate
from realignkit.registry import default_registry
from realignkit_plugins.micro.oracle import Oracle, fully_right
from realignkit_plugins.micro.prompts import WorldPrompts

RESULTS = Path(__file__).parent / "results"
RATES = (0.05, 0.2)
"""Of Adam, in standard deviations of the latents."""


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reward", default="caption", help="an embedded reward: caption, blip, image_reward, clip")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="an option of the reward")
    parser.add_argument("--margin", type=float, help="of phi; default: that of right pictures, their median reward")
    parser.add_argument("--count", type=int, default=40, help="wrong pictures")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--name", help="of the results; default: the reward's")
    parser.add_argument("--smoke", action="store_true")
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.count, arguments.steps = 2, 2
    options = {name: value_of(value) for name, _, value in (text.partition("=") for text in arguments.set)}
    if arguments.reward == "caption":
        options.setdefault("estimator", "likelihood")
    text = measure(arguments, options)
    print(text)
    if not arguments.smoke:
        atomic_write(RESULTS / f"ascent-{arguments.name or arguments.reward}.md", text)


def measure(arguments: argparse.Namespace, options: dict[str, Any]) -> str:
    """The table, for each learning rate."""
    registry, oracle = default_registry(), Oracle.load()
    reward = registry.create("reward", f"micro_{arguments.reward}", **options)
    generator = registry.create("generator", "micro")
    pipeline = generator.pipeline()
    wrong, prompts, right, praised = drawn(pipeline, generator.sampling_defaults, oracle, arguments)
    with torch.no_grad():
        high = float(reward(to_tensor(right), praised).median()) if right else float(reward.margin)
        margin = high if arguments.margin is None else arguments.margin
        start = pipeline.vae.encode(to_tensor(wrong) * 2 - 1).latent_dist.mean
    lines = [
        f"{arguments.reward}, {len(wrong)} wrong pictures, {arguments.steps} steps, margin {margin:.2f} "
        f"(the median reward of right pictures is {high:.2f}).\n",
        "| learning rate | reward before | after | fully right after | 95 % |",
        "| --- | --- | --- | --- | --- |",
    ]
    for rate in RATES:
        latents = start.clone().requires_grad_()
        optimizer = torch.optim.Adam([latents], lr=rate * float(start.std()))
        rewards: list[float] = []
        for _ in track(range(arguments.steps), description=f"climbing at {rate}"):
            images = (pipeline.vae.decode(latents).sample / 2 + 0.5).clamp(0, 1)
            found = reward(images, prompts)
            rewards.append(float(found.detach().mean()))
            optimizer.zero_grad()
            torch.relu(margin - found).mean().backward()
            optimizer.step()
        with torch.no_grad():
            images = (pipeline.vae.decode(latents).sample / 2 + 0.5).clamp(0, 1)
            rewards.append(float(reward(images, prompts).mean()))
        verdicts = [fully_right(text, seen) for text, seen in zip(prompts, oracle.detect(pil(images)), strict=True)]
        low, top = share_interval(verdicts, prompts) or (0.0, 1.0)
        lines.append(
            f"| {rate} | {rewards[0]:.2f} | {rewards[-1]:.2f} | {100 * np.mean(verdicts):.1f} % "
            f"| {100 * low:.1f} - {100 * top:.1f} |"
        )
    return "\n".join(lines) + "\n"


def drawn(
    pipeline: Any, sampling: dict[str, Any], oracle: Oracle, arguments: argparse.Namespace
) -> tuple[list[Image.Image], list[str], list[Image.Image], list[str]]:
    """Wrong pictures with their prompts, and the right ones that were met on the way with theirs."""
    if arguments.smoke:
        sampling = {**sampling, "num_inference_steps": 4}
    wrong: list[tuple[Image.Image, str]] = []
    right: list[tuple[Image.Image, str]] = []
    prompts = list(WorldPrompts(purpose="validation", size=400))
    for start in range(0, len(prompts), 20):
        part = prompts[start : start + 20]
        images = generate(pipeline, part, [900_000 + start + i for i in range(len(part))], **sampling)
        for image, text, found in zip(images, part, oracle.detect(images), strict=True):
            (right if fully_right(text, found) else wrong).append((image, text))
        if len(wrong) >= arguments.count:
            break
    wrong = wrong[: arguments.count]
    return [i for i, _ in wrong], [t for _, t in wrong], [i for i, _ in right], [t for _, t in right]


def pil(images: torch.Tensor) -> list[Image.Image]:
    """Tensors (B, 3, H, W) in [0, 1] as pictures."""
    return [Image.fromarray((x.permute(1, 2, 0) * 255).round().byte().numpy()) for x in images.detach()]


if __name__ == "__main__":
    main()
