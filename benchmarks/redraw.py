"""What is one gradient of a reward worth? Every picture drawn again, its predictions moved along it.

    python benchmarks/redraw.py                                       # the embedded captioner, as ReFL uses it
    python benchmarks/redraw.py --reward image_reward --count 400
    python benchmarks/redraw.py --smoke                               # seconds; checks that it runs

A picture of each validation prompt is drawn, and the reward's gradient with respect to its clean latents taken: of the
picture itself, and *purified*, of what the model makes of it after noise has been added (``purify`` of the trainer).
Then it is drawn again from the same noise, while the first predictions point further by a step of fixed length along
that gradient; ``noise`` is a random direction of the same length. Prints a Markdown table and writes
``benchmarks/results/redraw-<reward>.md``.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from rich.progress import track
from torch import Tensor

from realignkit.evaluation.statistics import HOW, compare
from realignkit.files import atomic_write
from realignkit.machine import bf16_speedup
from realignkit.pipelines.generate import to_pil
from realignkit.refl.model import Networks
from realignkit.refl.rollout import Rollout
from realignkit.registry import default_registry
from realignkit_plugins.micro.oracle import Oracle, fully_right
from realignkit_plugins.micro.prompts import WorldPrompts

RESULTS = Path(__file__).parent / "results"
SEED = 940_000
TIMESTEPS = (450, 600)
"""Of the added noise: one draw each."""


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reward", default="caption", help="an embedded reward: caption, blip, image_reward")
    parser.add_argument("--count", type=int, default=200, help="pictures, each of another prompt")
    parser.add_argument("--steps", type=int, default=20, help="of DPM-Solver++")
    parser.add_argument("--share", type=float, default=0.3, help="of the steps, from the first, that are moved")
    parser.add_argument("--length", type=float, default=0.75, help="of the move: root mean square over the latents")
    parser.add_argument("--batch-size", type=int, default=40)
    parser.add_argument("--precision", choices=["no", "bf16"], help="the faster one here, as measured, unless said")
    parser.add_argument("--smoke", action="store_true")
    arguments = parser.parse_args()
    arguments.precision = arguments.precision or ("bf16" if bf16_speedup() > 1 else "no")
    if arguments.smoke:
        arguments.count, arguments.steps = 2, 4
    text = measure(arguments)
    print(text)
    if not arguments.smoke:
        atomic_write(RESULTS / f"redraw-{arguments.reward}.md", text)


def measure(arguments: argparse.Namespace) -> str:
    """The table."""
    registry, oracle = default_registry(), Oracle.load()
    options = {"estimator": "likelihood"} if arguments.reward == "caption" else {}
    reward = registry.create("reward", f"micro_{arguments.reward}", **options)
    generator = registry.create("generator", "micro")
    networks = Networks(generator.pipeline(), torch.device("cpu"), arguments.precision)
    guidance = float(generator.sampling_defaults["guidance_scale"])
    rollout = Rollout(networks, "dpmpp", arguments.steps, guidance)
    moved = range(max(1, round(arguments.share * arguments.steps)))
    prompts = list(WorldPrompts(purpose="validation", objects=2, size=arguments.count))
    verdicts: dict[str, list[bool]] = {}
    rewards: dict[str, list[float]] = {}

    def judge(name: str, latents: Tensor, some: list[str]) -> None:
        with torch.no_grad():
            images = networks.decode(latents)
            rewards.setdefault(name, []).extend(reward(images, some).float().tolist())
        seen = oracle.detect(to_pil(images))
        verdicts.setdefault(name, []).extend(fully_right(t, s) for t, s in zip(some, seen, strict=True))

    for start in track(range(0, arguments.count, arguments.batch_size), description="drawing"):
        some = prompts[start : start + arguments.batch_size]
        text, noise = networks.text(some), normal(networks, SEED + start, len(some))
        first = rollout.sample(noise, text)
        judge("as drawn", first, some)

        def itself(latents: Tensor, some: list[str] = some) -> Tensor:
            return reward(networks.decode(latents), some)

        def purified(latents: Tensor, some: list[str] = some, start: int = start) -> Tensor:
            total = torch.zeros(len(latents))
            for number, at in enumerate(TIMESTEPS, 1):
                added = normal(networks, -SEED * number - start, len(latents))
                pure = networks.denoised(latents, added, torch.tensor(at), networks.text(some))
                total = total + reward(networks.decode(pure), some)
            return total

        ways: dict[str, Callable[[Tensor], Tensor]] = {"the picture's": itself, "purified": purified}
        directions = {name: gradient(way, first) for name, way in ways.items()}
        directions["noise"] = normal(networks, 2 * SEED + start, len(some))
        for name, direction in directions.items():
            sizes = direction.square().mean((1, 2, 3), keepdim=True).sqrt().clamp(min=1e-12)
            judge(name, rollout.sample(noise, text, arguments.length * direction / sizes, moved), some)
    lines = [
        f"{arguments.reward}, {arguments.count} pictures, {arguments.steps} steps of DPM-Solver++, the first "
        f"{len(moved)} moved by {arguments.length:g} (root mean square), guidance {guidance:g}, {arguments.precision}. "
        f"As drawn, the mean reward is {mean(rewards['as drawn']):.3f}.\n",
        "| moved along | pictures | prompts | as drawn % | redrawn % | gain [95 %] | fixed / broken | sign-flip p "
        "| reward after |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name in ("the picture's", "purified", "noise"):
        row = compare(verdicts["as drawn"], verdicts[name], clusters=prompts).row(name)
        lines.append(f"{row} {mean(rewards[name]):.3f} |")
    return "\n".join([*lines, "", HOW]) + "\n"


def gradient(way: Callable[[Tensor], Tensor], latents: Tensor) -> Tensor:
    """Of a reward with respect to clean latents."""
    leaf = latents.detach().requires_grad_()
    return torch.autograd.grad(way(leaf).sum(), leaf)[0]


def normal(networks: Networks, seed: int, count: int) -> Tensor:
    """Standard normal noise, each picture's from a seed of its own."""
    return torch.stack(
        [
            torch.randn(networks.latent_shape, generator=torch.Generator().manual_seed(abs(seed) + i))
            for i in range(count)
        ]
    )


def mean(values: list[float]) -> float:
    """Of numbers."""
    return sum(values) / len(values)


if __name__ == "__main__":
    main()
