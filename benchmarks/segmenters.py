"""How well does each segmenter find the micro world's objects? Mean IoU against the masks that drew the pictures.

    python benchmarks/segmenters.py --out benchmarks/results/segmenters                    # micro, on 300 pictures
    python benchmarks/segmenters.py --segmenter micro --segmenter grounded_sam --out …     # others beside it
    python benchmarks/segmenters.py --segmenter clipseg --set clipseg.model=path/to/model --out …
    python benchmarks/segmenters.py --ask noun --ask exchanged --out …                     # what else may be asked for
    python benchmarks/segmenters.py --generated --ask phrase --ask noun --ask tag --out …  # on generated pictures

An object that is not found counts 0. Pictures in which two objects have the same phrase are left out. The world's
renderings are new ones (seed 34), not generated pictures: the answer is about the segmenter alone. "exchanged" asks for
objects with each other's colour, as a prompt does whose colours the model has mixed up: does the segmenter follow the
noun or the colour? "noun", "tag" and "exchanged" take pictures of two objects that differ in both.

"tag" is the noun with the phrase as tie-break: a pixel that several nouns claim goes to the one whose phrase is more
probable there. "fit" is no segmenter but what takes the place of the truth on generated pictures, below.

With ``--generated``, the pictures are those that the base model draws for validation prompts of two objects, and where
the objects are is the fit of the world's drawings (``fitting.py``). What the oracle does not find exactly once is left
out, and so is what the drawing explains less than ``CLEAR`` of.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from fitting import fit  # the script beside this one
from PIL import Image

from realignkit import Realigner, Segmenter, default_registry
from realignkit.evaluation.statistics import mean_interval
from realignkit.files import atomic_write
from realignkit.types import Mask
from realignkit_plugins.micro.oracle import Oracle, expected
from realignkit_plugins.micro.prompts import WorldPrompts
from realignkit_plugins.micro.world import phrase, render, scene
from realignkit_plugins.micro.world.scenes import Thing

SEED = 34
ASK = ("phrase", "noun", "tag", "exchanged", "fit")
CLEAR = 0.3
"""What a fitted drawing must explain of the variance around it; the least on 123 objects of renderings was 0.34."""


class ByNoun(Segmenter):
    """Another segmenter, asked for the nouns alone: the phrases' last words."""

    def __init__(self, asked: Any) -> None:
        super().__init__()
        self.asked = asked

    def __call__(self, image: Any, phrases: Sequence[str]) -> list[tuple[Mask, float] | None]:
        """As that segmenter answers."""
        answers: list[tuple[Mask, float] | None] = self.asked(image, [text.split()[-1] for text in phrases])
        return answers


class ByTag(Segmenter):
    """A CLIPSeg, asked for the nouns; what several claim goes to the one whose phrase is most probable there."""

    def __init__(self, asked: Any) -> None:
        super().__init__()
        self.asked = asked

    def __call__(self, image: Any, phrases: Sequence[str]) -> list[tuple[Mask, float] | None]:
        """For each phrase its mask, bool (H, W), and its noun's mean probability inside; None where it is not found."""
        if not phrases:
            return []
        unique = list(dict.fromkeys(phrases))  # a phrase given twice must not compete with itself
        nouns = self.asked.probabilities(image, [text.split()[-1] for text in unique]).numpy()
        claimed = nouns >= self.asked.options.threshold
        likely = np.where(claimed, self.asked.logits(image, unique).numpy(), -np.inf)
        masks = claimed & (likely.argmax(0) == np.arange(len(unique))[:, None, None])
        found = {
            text: (mask, float(noun[mask].mean())) if mask.mean() >= max(self.asked.options.min_area, 1e-9) else None
            for text, mask, noun in zip(unique, masks, nouns, strict=True)
        }
        return [found[text] for text in phrases]


class ByFit(Segmenter):
    """No segmenter is asked: the world's drawings, fitted near what the oracle detects (only on renderings)."""

    def __init__(self, asked: Any) -> None:
        super().__init__()
        self.oracle = Oracle.load()

    def __call__(self, image: Any, phrases: Sequence[str]) -> list[tuple[Mask, float] | None]:
        """For each phrase the place of its noun's best detection; None where the oracle sees none."""
        seen = {detection.noun: detection for detection in reversed(self.oracle.detect([image])[0])}
        found = [seen.get(text.split()[-1]) for text in phrases]
        fits = [fit(np.asarray(image), best.noun, best.x, best.y) if best else None for best in found]
        return [(fitted.mask, fitted.explained) if fitted else None for fitted in fits]


WAYS = {"noun": ByNoun, "tag": ByTag}


@dataclass(frozen=True, eq=False)
class Picture:
    """An image, what was asked for in it, and where that is.

    Attributes:
        image: RGB.
        things: the objects by noun and asked colour.
        masks: where each is, bool (H, W); None where that is not known.
        right: for generated pictures, whether each was drawn in the asked colour.
    """

    image: Image.Image
    things: Sequence[Thing]
    masks: Sequence[Mask | None]
    right: Sequence[bool] = ()


def asked(things: Sequence[Thing], ask: str) -> list[str]:
    """The phrases that a segmenter is given, one per object."""
    if ask == "exchanged":
        return [phrase(replace(thing, colour=other.colour)) for thing, other in zip(things, things[::-1], strict=True)]
    return [phrase(thing) for thing in things]


def lends_itself(things: Sequence[Thing], asks: Sequence[str]) -> bool:
    """Whether every way of asking makes sense for these objects."""
    if set(asks) <= {"phrase"}:
        return len({phrase(thing) for thing in things}) == len(things)
    return len(things) == 2 and things[0].noun != things[1].noun and things[0].colour != things[1].colour


def renderings(count: int, asks: Sequence[str]) -> list[Picture]:
    """Those of the first ``count`` scenes that lend themselves to all that is asked."""
    scenes = [
        drawn for drawn in (scene(SEED, index, "all") for index in range(count)) if lends_itself(drawn.things, asks)
    ]
    drawings = [(drawn, render(drawn)) for drawn in scenes]
    return [
        Picture(
            Image.fromarray(rendering.image), drawn.things, rendering.masks[: len(drawn.things)]
        )  # extras come last
        for drawn, rendering in drawings
    ]


def generated(count: int, asks: Sequence[str]) -> list[Picture]:
    """What the base model draws for ``count`` validation prompts, as far as its objects are clear."""
    prompts = list(WorldPrompts(purpose="validation", objects=2, size=count))
    wanted = [
        [Thing(noun, colour, (0, 0, 0), 0, 0, 1, False) for noun, colour, _ in expected(text)] for text in prompts
    ]
    chosen = [number for number, things in enumerate(wanted) if lends_itself(things, asks)]
    realigner = Realigner.from_pretrained("micro", batch_size=32)
    images = realigner.generate([prompts[number] for number in chosen], chosen)
    pictures = []
    for number, image, seen in zip(chosen, images, Oracle.load().detect(images), strict=True):
        masks, right = [], []
        for thing in wanted[number]:
            alike = [detection for detection in seen if detection.noun == thing.noun]
            found = fit(np.asarray(image), thing.noun, alike[0].x, alike[0].y) if len(alike) == 1 else None
            masks.append(found.mask if found and found.explained >= CLEAR else None)
            right.append(bool(alike) and alike[0].colour == thing.colour)
        pictures.append(Picture(image, wanted[number], masks, right))
    return pictures


def overlaps(segmenter: Any, pictures: Sequence[Picture], ask: str = "phrase") -> list[list[float | None]]:
    """IoU of every object whose place is known, a list per picture; None where the segmenter did not find it."""
    found: list[list[float | None]] = []
    for picture in pictures:
        answers = zip(picture.masks, segmenter(picture.image, asked(picture.things, ask)), strict=True)
        found.append(
            [
                None if answer is None else float((answer[0] & mask).sum() / (answer[0] | mask).sum())
                for mask, answer in answers
                if mask is not None
            ]
        )
    return found


def split(
    pictures: Sequence[Picture], found: Sequence[Sequence[float | None]], right: bool
) -> list[list[float | None]]:
    """Only the objects that were drawn in the asked colour, or only the others."""
    known = [[flag for flag, mask in zip(p.right, p.masks, strict=True) if mask is not None] for p in pictures]
    return [
        [value for value, flag in zip(values, flags, strict=True) if flag is right]
        for values, flags in zip(found, known, strict=True)
    ]


def row(name: str, found: Sequence[Sequence[float | None]]) -> str:
    """A line of the table: objects, pictures, share found, mean IoU with its interval, share above one half.

    The objects of a picture are found or missed together: the bootstrap draws pictures.
    """
    found = [picture for picture in found if picture]
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
    parser.add_argument("--generated", action="store_true", help="pictures of the base model instead of renderings")
    parser.add_argument("--pictures", type=int, default=300)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    asks = arguments.ask or ["phrase"]
    pictures = (generated if arguments.generated else renderings)(arguments.pictures, asks)
    lines = ["| segmenter | objects | pictures | found | mean IoU [95 %] | IoU above 0.5 |", f"|{' --- |' * 6}"]
    for name in arguments.segmenter or ["micro"]:
        given = dict(
            item.removeprefix(f"{name}.").split("=", 1) for item in arguments.set if item.startswith(f"{name}.")
        )
        segmenter = default_registry().create("segmenter", name, **_parsed(given))
        for ask in asks:
            way = {**WAYS, "fit": ByFit}.get(ask)
            found = overlaps(way(segmenter) if way else segmenter, pictures, ask)
            lines.append(row(f"{name}, by {ask}", found))
            if arguments.generated:
                lines.append(row(f"{name}, by {ask}, drawn in the asked colour", split(pictures, found, True)))
                lines.append(row(f"{name}, by {ask}, drawn in another", split(pictures, found, False)))
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
