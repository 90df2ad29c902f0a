"""How well does each segmenter find the micro world's objects? Mean IoU against the masks that drew the pictures.

    python benchmarks/segmenters.py --out benchmarks/results/segmenters                    # micro, on 300 pictures
    python benchmarks/segmenters.py --segmenter micro --segmenter grounded_sam --out …     # others beside it
    python benchmarks/segmenters.py --segmenter clipseg --set clipseg.model=path/to/model --out …

An object that is not found counts 0. Pictures in which two objects have the same phrase are left out. The world's
renderings are new ones (seed 34), not generated pictures: the answer is about the segmenter alone.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from realignkit.registry import default_registry
from realignkit.storage import atomic_write
from realignkit_plugins.micro.world import phrase, render, scene

SEED = 34


def overlaps(segmenter: Any, count: int) -> list[float | None]:
    """IoU of every object in the first ``count`` pictures; None where it was not found."""
    found: list[float | None] = []
    for index in range(count):
        drawn = scene(SEED, index, "all")
        phrases = [phrase(thing) for thing in drawn.things]
        if len(set(phrases)) < len(phrases):
            continue
        rendering = render(drawn)
        answers = segmenter(Image.fromarray(rendering.image), phrases)
        for mask, answer in zip(rendering.masks, answers, strict=False):  # masks of extras come last
            found.append(None if answer is None else float((answer[0] & mask).sum() / (answer[0] | mask).sum()))
    return found


def row(name: str, found: Sequence[float | None]) -> str:
    """A line of the table: objects, share found, mean IoU with a bootstrap interval, share above one half."""
    values = np.array([0.0 if value is None else value for value in found])
    draws = np.random.default_rng(0).choice(values, (2000, len(values))).mean(1)
    low, high = np.quantile(draws, (0.025, 0.975))
    hits = np.mean([value is not None for value in found])
    return (
        f"| `{name}` | {len(values)} | {100 * hits:.1f} % | {values.mean():.3f} [{low:.3f}, {high:.3f}] "
        f"| {100 * (values > 0.5).mean():.1f} % |"
    )


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--segmenter", action="append", help="name of a segmenter; repeatable (default: micro)")
    parser.add_argument("--set", action="append", default=[], metavar="NAME.OPTION=VALUE", help="an option of one")
    parser.add_argument("--pictures", type=int, default=300)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    lines = ["| segmenter | objects | found | mean IoU [95 %] | IoU above 0.5 |", "| --- | --- | --- | --- | --- |"]
    for name in arguments.segmenter or ["micro"]:
        given = dict(
            item.removeprefix(f"{name}.").split("=", 1) for item in arguments.set if item.startswith(f"{name}.")
        )
        lines.append(
            row(name, overlaps(default_registry().create("segmenter", name, **_parsed(given)), arguments.pictures))
        )
        print(lines[-1], flush=True)
    atomic_write(arguments.out / "summary.md", "\n".join(lines) + "\n")


def _parsed(given: dict[str, str]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for option, text in given.items():
        try:
            out[option] = json.loads(text)
        except ValueError:
            out[option] = text
    return out


if __name__ == "__main__":
    main()
