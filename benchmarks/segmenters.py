"""How well does each segmenter find the micro world's objects? Mean IoU against the masks that drew the pictures.

    python benchmarks/segmenters.py --out benchmarks/results/segmenters                    # micro, on 300 pictures
    python benchmarks/segmenters.py --segmenter micro --segmenter grounded_sam --out …     # others beside it
    python benchmarks/segmenters.py --segmenter clipseg --set clipseg.model=path/to/model --out …
    python benchmarks/segmenters.py --ask noun --ask exchanged --out …                     # what else may be asked for

An object that is not found counts 0. Pictures in which two objects have the same phrase are left out. The world's
renderings are new ones (seed 34), not generated pictures: the answer is about the segmenter alone. "exchanged" asks for
objects with each other's colour, as a prompt does whose colours the model has mixed up: does the segmenter follow the
noun or the colour? "noun" and "exchanged" take pictures of two objects that differ in both.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from realignkit.evaluation.paired import mean_interval
from realignkit.registry import default_registry
from realignkit.storage import atomic_write
from realignkit_plugins.micro.world import phrase, render, scene
from realignkit_plugins.micro.world.scenes import Thing

SEED = 34
ASK = ("phrase", "noun", "exchanged")


def asked(things: Sequence[Thing], ask: str) -> list[str] | None:
    """What the segmenter is asked for, a text per object; None where the picture does not lend itself to that."""
    if ask == "phrase":
        texts = [phrase(thing) for thing in things]
        return texts if len(set(texts)) == len(texts) else None
    if len(things) != 2 or len({thing.noun for thing in things}) < 2 or len({thing.colour for thing in things}) < 2:
        return None
    if ask == "noun":
        return [thing.noun for thing in things]
    return [phrase(replace(thing, colour=other.colour)) for thing, other in zip(things, things[::-1], strict=True)]


def overlaps(segmenter: Any, count: int, ask: str = "phrase") -> list[list[float | None]]:
    """IoU of every object in the first ``count`` pictures, a list per picture; None where it was not found."""
    found: list[list[float | None]] = []
    for index in range(count):
        drawn = scene(SEED, index, "all")
        phrases = asked(drawn.things, ask)
        if phrases is None:
            continue
        rendering = render(drawn)
        answers = segmenter(Image.fromarray(rendering.image), phrases)
        found.append(
            [
                None if answer is None else float((answer[0] & mask).sum() / (answer[0] | mask).sum())
                for mask, answer in zip(rendering.masks, answers, strict=False)  # masks of extras come last
            ]
        )
    return found


def row(name: str, found: Sequence[Sequence[float | None]]) -> str:
    """A line of the table: objects, pictures, share found, mean IoU with its interval, share above one half.

    The objects of a picture are found or missed together: the bootstrap draws pictures.
    """
    objects = [value for picture in found for value in picture]
    pictures = [number for number, picture in enumerate(found) for _ in picture]
    if not objects:
        return f"| {name} | 0 | 0 | - | - | - |"
    values = np.array([0.0 if value is None else value for value in objects])
    interval = mean_interval(values, pictures)
    shown = "-" if interval is None else f"{interval[0]:.3f}, {interval[1]:.3f}"
    hits = np.mean([value is not None for value in objects])
    return (
        f"| {name} | {len(values)} | {len(found)} | {100 * hits:.1f} % | {values.mean():.3f} [{shown}] "
        f"| {100 * (values > 0.5).mean():.1f} % |"
    )


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--segmenter", action="append", help="name of a segmenter; repeatable (default: micro)")
    parser.add_argument("--set", action="append", default=[], metavar="NAME.OPTION=VALUE", help="an option of one")
    parser.add_argument("--ask", action="append", choices=ASK, help="what is asked for; repeatable (default: phrase)")
    parser.add_argument("--pictures", type=int, default=300)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    lines = ["| segmenter | objects | pictures | found | mean IoU [95 %] | IoU above 0.5 |", f"|{' --- |' * 6}"]
    for name in arguments.segmenter or ["micro"]:
        given = dict(
            item.removeprefix(f"{name}.").split("=", 1) for item in arguments.set if item.startswith(f"{name}.")
        )
        segmenter = default_registry().create("segmenter", name, **_parsed(given))
        for ask in arguments.ask or ["phrase"]:
            lines.append(row(f"{name}, by {ask}", overlaps(segmenter, arguments.pictures, ask)))
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
