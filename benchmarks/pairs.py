"""Which reward tells true image-caption pairs from careless ones? What ``algorithm=reward_weighted`` filters with.

    python benchmarks/pairs.py                # the embedded rewards on 3,000 pairs
    python benchmarks/pairs.py --smoke        # seconds; checks that it runs

Draws two-object pictures of the embedded world with captions as careless as those that the embedded model learnt from.
Whether a caption is true is known from the world itself, which writes the same caption with care as well; no oracle
looks at a picture. For each reward: the area under the ROC curve, and how pure the best-rewarded shares are. Prints a
Markdown table and writes ``benchmarks/results/pairs.md``. The pairs share no draw with those of
``python -m realignkit_plugins.micro.world --seed 9100`` (its default).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rich.progress import track

from realignkit.calls import rewards_of
from realignkit.files import atomic_write
from realignkit.images import to_tensor
from realignkit.named import Named
from realignkit.refl import seeds
from realignkit.registry import default_registry
from realignkit_plugins.micro.world.captions import CAREFUL, CARELESS, caption
from realignkit_plugins.micro.world.scenes import render, sample_scene

RESULTS = Path(__file__).parent / "results"
REWARDS = {
    "caption, likelihood": ("micro_caption", {"estimator": "likelihood"}),
    "caption, contrast": ("micro_caption", {"estimator": "contrast"}),
    "caption, soft": ("micro_caption", {"estimator": "soft"}),
    "caption, expected": ("micro_caption", {"estimator": "expected"}),
    "ImageReward": ("micro_image_reward", {}),
    "CLIP": ("micro_clip", {}),
    "BLIP, ITM": ("micro_blip", {}),
    "BLIP, ITC": ("micro_blip", {"head": "itc"}),
}
KEPT = (40, 50, 60, 70)
"""Per cent of the pairs, best reward first."""


def area(rewards: np.ndarray, right: np.ndarray) -> float:
    """The probability that a true pair has the higher reward than a false one; ties count half."""
    order = np.unique(rewards, return_inverse=True)[1]
    counts = np.bincount(order)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[order]
    n = int(right.sum())
    return float((ranks[right].sum() - n * (n + 1) / 2) / (n * (len(right) - n)))


def rated(reward: Named, images: list[Image.Image], prompts: list[str], seed: int) -> np.ndarray:
    """Rewards of pictures for their prompts, float64 (B,)."""
    found = []
    for start in track(range(0, len(images), 50), description=reward.name):
        part = slice(start, start + 50)
        with torch.no_grad(), seeds.seeded(seed, reward.name, start):  # one estimator draws captions
            found.append(rewards_of(reward, to_tensor(images[part]), prompts[part]))
    return torch.cat(found).double().numpy()


def draw(count: int, seed: int) -> tuple[list[Image.Image], list[str], np.ndarray]:
    """Pictures, careless captions, and which captions are true and whole."""
    images, captions, right = [], [], []
    for number in range(count):
        scene = sample_scene(np.random.default_rng([seed, number]), "train", 2)
        images.append(Image.fromarray(render(scene).image))
        # The same stream twice, so that the two differ by the mistake alone.
        text, true = (caption(scene, np.random.default_rng([seed, number, 1]), how) for how in (CARELESS, CAREFUL))
        captions.append(text)
        right.append(text == true)
    return images, captions, np.array(right)


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=9200)
    parser.add_argument("--smoke", action="store_true")
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.count = 24
    images, captions, right = draw(arguments.count, arguments.seed)
    shares = " | ".join(f"best {kept} %: true (reward from)" for kept in KEPT)
    lines = [
        f"{arguments.count} pairs, seed {arguments.seed}; {100 * right.mean():.1f} % have a true caption.",
        "",
        f"| reward | area under the ROC | {shares} |",
        "| --- | --: |" + " --- |" * len(KEPT),
    ]
    for name, (plugin, options) in REWARDS.items():
        reward = Named("reward", name, default_registry().create("reward", plugin, **options))
        rewards = rated(reward, images, captions, arguments.seed)
        cells = []
        for kept in KEPT:
            least = float(np.percentile(rewards, 100 - kept))
            cells.append(f"{100 * right[rewards >= least].mean():.1f} % ({least:.2f})")
        lines.append(f"| {name} | {area(rewards, right):.3f} | {' | '.join(cells)} |")
    text = "\n".join(lines) + "\n"
    print(text)
    if not arguments.smoke:
        atomic_write(RESULTS / "pairs.md", text)


if __name__ == "__main__":
    main()
