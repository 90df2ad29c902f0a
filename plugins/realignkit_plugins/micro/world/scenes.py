"""Scenes: what there is, where, and in which colour; drawn from a seed, rendered with ground truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from .backgrounds import VARIANTS, background, background_top
from .drawing import RGB
from .sprites import Sprite, sprite
from .vocabulary import BACKGROUNDS, COLOURS, EXTRA_NOUNS, NOUNS, held_out

IMAGE_SIZE = 64
Split = Literal["train", "held_out", "all"]
_SIZES = {1: (34, 46), 2: (27, 34), 3: (22, 27)}
"""Sprite sizes in pixels (of a 64-pixel image), by how many objects there are."""


@dataclass(frozen=True)
class Thing:
    """One object: its noun, its colour word (None for an extra) and RGB, its box in pixels."""

    noun: str
    colour: str | None
    rgb: RGB
    left: int
    top: int
    size: int
    flip: bool

    @property
    def sprite(self) -> Sprite:
        """Its pixels."""
        return sprite(self.noun, self.size, self.flip)

    @property
    def box(self) -> tuple[int, int, int, int]:
        """(left, top, right, bottom) in pixels, the last two exclusive."""
        height, width = self.sprite.solid.shape
        return self.left, self.top, self.left + width, self.top + height

    @property
    def centre(self) -> tuple[float, float]:
        """(x, y) of the box's centre, in pixels."""
        left, top, right, bottom = self.box
        return (left + right) / 2, (top + bottom) / 2


@dataclass(frozen=True)
class Scene:
    """Objects in the order a caption would mention them, extras that it would not, and what they stand on."""

    things: tuple[Thing, ...]
    extras: tuple[Thing, ...] = ()
    background: str | None = None
    variant: int = 0
    size: int = IMAGE_SIZE

    @property
    def tags(self) -> frozenset[str]:
        """Every name that a perfect tagger would give."""
        names = {thing.noun for thing in (*self.things, *self.extras)}
        return frozenset(names | ({self.background} if self.background else set()))


@dataclass(frozen=True, eq=False)
class Rendering:
    """A scene's picture with its ground truth.

    Attributes:
        image: uint8 (H, W, 3).
        masks: the visible part of each thing, then of each extra: bool (n, H, W).
        backdrop: the visible part of the named background: bool (H, W), all False when there is none.
    """

    image: npt.NDArray[np.uint8]
    masks: npt.NDArray[np.bool_]
    backdrop: npt.NDArray[np.bool_]


def scene(seed: int, index: int, split: Split = "train") -> Scene:
    """Scene number ``index`` of an endless reproducible sequence."""
    return sample_scene(np.random.default_rng([seed, index]), split)


def sample_scene(rng: np.random.Generator, split: Split = "train", count: int | None = None) -> Scene:
    """Draw a scene of 1-3 objects.

    ``train`` never pairs a held-out colour and noun; ``held_out`` has at least one such pair; ``all`` ignores it.
    """
    count = count or int(rng.choice([1, 2, 2, 2, 3]))
    pairs = [_pair(rng, split if i == 0 or split != "held_out" else "all") for i in range(count)]
    if count > 1 and rng.random() < 0.12:
        # "two red birds": the same thing again, which counting captions need.
        pairs[1] = pairs[0]
    return compose(rng, pairs)


def compose(rng: np.random.Generator, pairs: Sequence[tuple[str, str]]) -> Scene:
    """Draw a scene of 1-3 given objects, each a (noun, colour): where, how large, on what."""
    boxes = _place(rng, [noun for noun, _ in pairs], len(pairs))
    things = [_thing(rng, noun, colour, *box) for (noun, colour), box in zip(pairs, boxes, strict=True)]
    if rng.random() < 0.8:
        # Writers mostly go from left to right and from top to bottom; a fifth of the captions do not.
        things.sort(key=lambda thing: thing.centre[0] + 0.7 * thing.centre[1])
    name = str(rng.choice([*BACKGROUNDS, ""])) or None
    extras = _extras(rng, things) if rng.random() < 0.12 else ()
    return Scene(tuple(things), extras, name, int(rng.integers(VARIANTS)))


def _pair(rng: np.random.Generator, split: Split) -> tuple[str, str]:
    colours = tuple(COLOURS)
    while True:
        noun, colour = NOUNS[rng.integers(len(NOUNS))], colours[rng.integers(len(colours))]
        if split == "all" or held_out(colour, noun) == (split == "held_out"):
            return noun, colour


def _thing(rng: np.random.Generator, noun: str, colour: str, left: int, top: int, size: int, flip: bool) -> Thing:
    red, green, blue = (int(np.clip(c + rng.normal(0, 5), 0, 255)) for c in COLOURS[colour])
    return Thing(noun, colour, (red, green, blue), left, top, size, flip)


def _place(rng: np.random.Generator, nouns: list[str], count: int) -> list[tuple[int, int, int, bool]]:
    """A (left, top, size, flip) per noun; boxes overlap by no more than a few pixels."""
    low, high = _SIZES[count]
    for attempt in range(60):
        shrink = attempt // 15
        placed: list[tuple[int, int, int, bool]] = []
        boxes: list[tuple[int, int, int, int]] = []
        for noun in nouns:
            size, flip = int(rng.integers(low, high + 1)) - shrink, bool(rng.random() < 0.5)
            height, width = sprite(noun, size, flip).solid.shape
            left = int(rng.integers(1, IMAGE_SIZE - width))
            top = int(rng.integers(1, IMAGE_SIZE - height))
            box = (left, top, left + width, top + height)
            if any(_overlap(box, other) > 1 for other in boxes):
                break
            placed.append((left, top, size, flip))
            boxes.append(box)
        if len(placed) == count:
            return placed
    return _row(nouns)


def _row(nouns: list[str]) -> list[tuple[int, int, int, bool]]:
    """The layout that always fits: side by side."""
    cell = IMAGE_SIZE // len(nouns)
    return [(i * cell, (IMAGE_SIZE - cell) // 2, cell - 1, False) for i in range(len(nouns))]


def _overlap(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> int:
    """How far two boxes reach into each other, in pixels along the shallower axis."""
    return min(min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1]))


def _extras(rng: np.random.Generator, things: list[Thing]) -> tuple[Thing, ...]:
    noun, size, flip = str(rng.choice(EXTRA_NOUNS)), int(rng.integers(16, 23)), bool(rng.random() < 0.5)
    height, width = sprite(noun, size, flip).solid.shape
    for _ in range(20):
        left, top = int(rng.integers(0, IMAGE_SIZE - width)), int(rng.integers(0, IMAGE_SIZE - height))
        box = (left, top, left + width, top + height)
        if all(_overlap(box, thing.box) <= 1 for thing in things):
            return (Thing(noun, None, (0, 0, 0), left, top, size, flip),)
    return ()


def render(scene: Scene, scale: int = 1) -> Rendering:
    """Paint a scene, later things over earlier ones, extras at the back; ``scale`` times as many pixels to a side."""
    size = scale * scene.size
    canvas = background(scene.background, scene.size, scene.variant, scale).copy()
    painted = (*scene.extras, *scene.things)
    owner = np.zeros((size, size), np.uint8)
    for number, thing in enumerate(painted, start=1):
        left, top, right, bottom = (scale * edge for edge in thing.box)
        pixels = sprite(thing.noun, thing.size, thing.flip, scale)
        window = canvas[top:bottom, left:right]
        window *= 1.0 - pixels.alpha
        window += pixels.coloured(thing.rgb)
        owner[top:bottom, left:right][pixels.solid] = number
    # Stored things first, then extras, whatever the painting order was.
    numbers = [*range(len(scene.extras) + 1, len(painted) + 1), *range(1, len(scene.extras) + 1)]
    masks = owner[None] == np.array(numbers, np.uint8)[:, None, None]
    backdrop = owner == 0
    first = background_top(scene.background, scene.size, scene.variant) if scene.background else scene.size
    backdrop[: scale * first] = False
    return Rendering(np.clip(canvas + 0.5, 0, 255).astype(np.uint8), masks, backdrop)
