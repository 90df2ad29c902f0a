"""Which reward agrees with the oracle on pictures that the embedded model draws? Such a reward chooses candidates.

    python benchmarks/agreement.py            # 200 validation prompts, four pictures each; about five minutes
    python benchmarks/agreement.py --smoke    # seconds; checks that it runs

For each embedded reward: the area under the ROC curve of "fully right" by the oracle over all pictures, with a 95 %
interval (bootstrap over different prompts); the same over the labelled pictures of ``benchmarks/results/oracle``, by
the person who labelled them; and how often the best of four pictures is fully right. Rewards and oracle share no
weights and no training scenes. Prints a Markdown table and writes ``benchmarks/results/agreement.md``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence

import numpy as np
from oracle import COLUMNS, SIZE
from pairs import RESULTS, REWARDS, area, rated
from PIL import Image
from rich.progress import track

from realignkit import Realigner
from realignkit.files import atomic_write
from realignkit.named import Named
from realignkit.registry import default_registry
from realignkit_plugins.micro.oracle import Oracle, expected, fully_right
from realignkit_plugins.micro.prompts import WorldPrompts

EACH = 4
"""Pictures per prompt."""
SEED = 5_000


def interval(rewards: np.ndarray, right: np.ndarray, prompts: Sequence[str], draws: int = 1000) -> tuple[float, float]:
    """95 % interval of :func:`area`, different prompts drawn with replacement, each with all of its pictures.

    Args:
        rewards: of pictures (B,).
        right: whether they are (B,).
        prompts: of each.
        draws: of the bootstrap; those in which all are right, or none, are left out.

    Returns:
        (nan, nan) where every draw is left out.
    """
    rng, areas = np.random.default_rng(0), []
    of: dict[str, list[int]] = {}
    for picture, prompt in enumerate(prompts):
        of.setdefault(prompt, []).append(picture)
    pictures = list(of.values())
    for _ in range(draws):
        drawn = np.concatenate([pictures[i] for i in rng.integers(len(pictures), size=len(pictures))])
        if 0 < right[drawn].sum() < len(drawn):
            areas.append(area(rewards[drawn], right[drawn]))
    low, high = np.percentile(areas, [2.5, 97.5]) if areas else (np.nan, np.nan)
    return float(low), float(high)


def labelled() -> tuple[list[Image.Image], list[str], np.ndarray]:
    """Pictures of the embedded model, their prompts, and whether a person found them fully right."""
    folder = RESULTS / "oracle"
    labels = json.loads((folder / "labels.json").read_text())["right"]
    prompts = json.loads((folder / "prompts.json").read_text())[: len(labels)]
    sheet = Image.open(folder / "images.png").convert("RGB")
    corners = [(i % COLUMNS * SIZE, i // COLUMNS * SIZE) for i in range(len(labels))]
    images = [sheet.crop((x, y, x + SIZE, y + SIZE)) for x, y in corners]
    wanted = [sum(n for *_, n in expected(prompt)) for prompt in prompts]
    return images, prompts, np.array([int(label) == want for label, want in zip(labels, wanted, strict=True)])


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=200)
    parser.add_argument("--smoke", action="store_true")
    arguments = parser.parse_args()
    count = 6 if arguments.smoke else arguments.prompts
    prompts = list(WorldPrompts(purpose="validation", objects=2, size=count))
    asked = [prompt for prompt in prompts for _ in range(EACH)]
    sampling = {"num_inference_steps": 4} if arguments.smoke else None
    realigner = Realigner.from_pretrained("micro", batch_size=40, sampling=sampling)
    images: list[Image.Image] = []
    for start in track(range(0, len(asked), 40), description="drawing"):
        part = asked[start : start + 40]
        images += realigner.generate(part, [SEED + start + i for i in range(len(part))])
    oracle = Oracle.load()
    verdicts = [fully_right(prompt, seen) for prompt, seen in zip(asked, oracle.detect(images), strict=True)]
    right = np.array(verdicts).reshape(count, EACH)
    judged, told, by_person = labelled()
    lines = [
        f"{right.size} pictures of {count} validation prompts, {len(set(prompts))} different ones (seed {SEED} on), "
        f"{100 * right.mean():.1f} % fully right by the oracle, {100 * right.any(1).mean():.1f} % if it chose the best "
        f"of {EACH}. {len(told)} labelled pictures, {100 * by_person.mean():.1f} % fully right by the person.",
        "",
        f"| reward | area under the ROC, oracle [95 %] | the same, person [95 %] | best of {EACH}: fully right |",
        "| --- | --- | --- | --: |",
    ]
    for name, (plugin, chosen) in REWARDS.items():
        reward = Named("reward", name, default_registry().create("reward", plugin, **chosen))
        rewards = rated(reward, images, asked, SEED).reshape(right.shape)
        person = rated(reward, judged, told, SEED)
        cells = []
        for found, truth, of in ((rewards.ravel(), right.ravel(), asked), (person, by_person, told)):
            low, high = interval(found, truth, of, 50 if arguments.smoke else 1000)
            cells.append(f"{area(found, truth):.3f} [{low:.3f}, {high:.3f}]")
        best = right[np.arange(count), rewards.argmax(1)].mean()
        lines.append(f"| {name} | {cells[0]} | {cells[1]} | {100 * best:.1f} % |")
    text = "\n".join(lines) + "\n"
    print(text)
    if not arguments.smoke:
        atomic_write(RESULTS / "agreement.md", text)


if __name__ == "__main__":
    main()
