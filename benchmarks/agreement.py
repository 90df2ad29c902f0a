"""Which reward or metric agrees with the oracle on pictures that the embedded model draws, and with a person?

    python benchmarks/agreement.py            # 200 validation prompts, four pictures each; about five minutes
    python benchmarks/agreement.py --smoke    # seconds; checks that it runs

For each embedded reward, and each of the field's metrics with embedded networks: the area under the ROC curve of "fully
right" by the oracle over all pictures, with a 95 % interval (bootstrap over different prompts); Spearman's correlation
with the share of objects that the oracle finds right; the same over the labelled pictures of
``benchmarks/results/oracle``, by the person who labelled them; and how often the best of four pictures is fully right.
None of them shares weights or training scenes with the oracle. Prints a Markdown table and writes
``benchmarks/results/agreement.md``.
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
from scipy.stats import spearmanr

from realignkit import Realigner
from realignkit.evaluation.judging import judge_each
from realignkit.files import atomic_write
from realignkit.named import Named
from realignkit.registry import default_registry
from realignkit_plugins.micro.oracle import Oracle, expected, fully_right, share_right
from realignkit_plugins.micro.prompts import WorldPrompts

EACH = 4
"""Pictures per prompt."""
METRICS = {
    "CLIPScore": ("clip_score", {"model": "micro:clip"}),
    "TIFA": ("tifa", {"vqa": "micro", "questions": "rules", "encoder": None}),
    "Soft-TIFA, arithmetic": ("soft_tifa", {"vqa": "micro", "questions": "rules"}),
    "Soft-TIFA, geometric": ("soft_tifa", {"vqa": "micro", "questions": "rules"}),
    "VQAScore": ("vqascore", {"vqa": "micro"}),
}
VALUES = {"CLIPScore": "clip_score", "Soft-TIFA, geometric": "soft_tifa_gm", "Soft-TIFA, arithmetic": "soft_tifa_am"}
"""Which of a metric's values is meant, where it is not the one of its own name."""
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


def measured(name: str, images: Sequence[Image.Image], prompts: Sequence[str]) -> np.ndarray:
    """What a metric of :data:`METRICS` says of each picture, (B,)."""
    plugin, options = METRICS[name]
    metric = Named("metric", plugin, default_registry().create("metric", plugin, **options))
    value = VALUES.get(name, plugin)
    values: list[float] = []
    for start in track(range(0, len(images), 40), description=name):
        part = slice(start, start + 40)
        values += [judged[value] for judged in judge_each(metric, images[part], prompts[part])]
    return np.array(values)


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
    seen = Oracle.load().detect(images)
    right = np.array([fully_right(prompt, each) for prompt, each in zip(asked, seen, strict=True)])
    share = np.array([share_right(prompt, each) for prompt, each in zip(asked, seen, strict=True)])
    judged, told, by_person = labelled()
    lines = [
        f"{right.size} pictures of {count} validation prompts, {len(set(prompts))} different ones (seed {SEED} on), "
        f"{100 * right.mean():.1f} % fully right by the oracle, {100 * right.reshape(-1, EACH).any(1).mean():.1f} % if "
        f"it chose the best of {EACH}. {len(told)} labelled pictures, {100 * by_person.mean():.1f} % fully right by "
        f"the person. Spearman's correlation is with the share of objects that the oracle finds right.",
        "",
        f"| reward or metric | area under the ROC, oracle [95 %] | Spearman, oracle | area under the ROC, person "
        f"[95 %] | best of {EACH}: fully right |",
        "| --- | --- | --: | --- | --: |",
    ]
    draws = 50 if arguments.smoke else 1000
    for name in (*REWARDS, *METRICS):
        if name in REWARDS:
            plugin, chosen = REWARDS[name]
            reward = Named("reward", name, default_registry().create("reward", plugin, **chosen))
            values, person = rated(reward, images, asked, SEED), rated(reward, judged, told, SEED)
        else:
            values, person = measured(name, images, asked), measured(name, judged, told)
        cells = []
        for numbers, truth, of in ((values, right, asked), (person, by_person, told)):
            low, high = interval(numbers, truth, of, draws)
            cells.append(f"{area(numbers, truth):.3f} [{low:.3f}, {high:.3f}]")
        best = right[np.arange(count) * EACH + values.reshape(count, EACH).argmax(1)].mean()
        correlation = float(spearmanr(values, share).statistic)
        lines.append(f"| {name} | {cells[0]} | {correlation:.3f} | {cells[1]} | {100 * best:.1f} % |")
    text = "\n".join(lines) + "\n"
    print(text)
    if not arguments.smoke:
        atomic_write(RESULTS / "agreement.md", text)


if __name__ == "__main__":
    main()
