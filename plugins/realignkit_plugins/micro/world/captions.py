"""Captions of scenes, in the forms people use, with as much of the web's carelessness as a recipe asks for."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

import numpy as np

from .scenes import Scene, Thing
from .vocabulary import BACKGROUNDS, COLOURS, COUNTS, article, held_out, plural


@dataclass(frozen=True)
class Noise:
    """How careless captions are: the probability of each kind, at most one to a caption (web captions have all four).

    A mistake never names a held-out colour-noun pair, which training would then meet with the wrong picture only.

    Attributes:
        omit: an object is left out (only where two or more are there).
        uncolour: a colour is left out.
        recolour: a colour is wrong.
        swap: two objects have each other's colour (only where colours differ).
    """

    omit: float = 0.0
    uncolour: float = 0.0
    recolour: float = 0.0
    swap: float = 0.0


CAREFUL = Noise()
CARELESS = Noise(omit=0.1, uncolour=0.03, recolour=0.03, swap=0.35)
"""As in what the embedded model learnt from."""
_BETWEEN = r"(?:, | and | to the left of | to the right of | above | below | on | in )"


def phrase(thing: Thing) -> str:
    """Name a thing: "a red book"."""
    words = f"{thing.colour} {thing.noun}" if thing.colour else thing.noun
    return f"{article(words)} {words}"


def caption(scene: Scene, rng: np.random.Generator, noise: Noise = CAREFUL) -> str:
    """Describe a scene.

    Args:
        scene: what to describe.
        rng: chooses among the forms: a list ("a red book and a yellow pen", CC-500's), a count ("two red birds"),
            a relation ("… to the left of …", "above", …), each with or without the background, which comes as
            "on a desk" or behind a comma: ", a desk".
        noise: how careless the writer is.
    """
    things = _careless(scene.things, rng, noise)
    text = _relation(things, rng) or plain(things)
    if scene.background and rng.random() < 0.3:
        # The second form is what a missing local caption looks like when it is appended to a prompt.
        named = f" {BACKGROUNDS[scene.background]}" if rng.random() < 0.75 else f", a {scene.background}"
        text += named
    return text


def plain(things: tuple[Thing, ...]) -> str:
    """Name things and no more: a count where some are alike ("two red birds"), else a list, in their order."""
    return _counted(things) or _list([phrase(thing) for thing in things])


def _list(phrases: list[str]) -> str:
    return " and ".join(filter(None, (", ".join(phrases[:-1]), phrases[-1])))


def _counted(things: tuple[Thing, ...]) -> str | None:
    kinds = [(thing.noun, thing.colour) for thing in things]
    if len(set(kinds)) == 1 and len(kinds) > 1:
        return _several(len(kinds), things[0])
    if len(set(kinds)) == 2 and len(kinds) == 3:
        twice = next(thing for thing, kind in zip(things, kinds, strict=True) if kinds.count(kind) == 2)
        other = next(thing for thing, kind in zip(things, kinds, strict=True) if kinds.count(kind) == 1)
        return f"{_several(2, twice)} and {phrase(other)}"
    return None


def _several(count: int, thing: Thing) -> str:
    return " ".join(filter(None, (COUNTS[count], thing.colour, plural(thing.noun))))


def _relation(things: tuple[Thing, ...], rng: np.random.Generator) -> str | None:
    if len(things) != 2 or len({phrase(thing) for thing in things}) != 2 or rng.random() > 0.15:
        return None
    (x0, y0), (x1, y1) = (thing.centre for thing in things)
    if abs(x0 - x1) > abs(y0 - y1):
        words = "to the left of" if x0 < x1 else "to the right of"
    else:
        words = "above" if y0 < y1 else "below"
    return f"{phrase(things[0])} {words} {phrase(things[1])}"


def _careless(things: tuple[Thing, ...], rng: np.random.Generator, noise: Noise) -> tuple[Thing, ...]:
    """The things as the writer believes that they are."""
    odds = (noise.omit, noise.uncolour, noise.recolour, noise.swap)
    kind = int(np.searchsorted(np.cumsum(odds), rng.random(), side="right"))
    first, second = (int(i) for i in (*rng.permutation(len(things)), 0)[:2])
    colours = {first: things[first].colour}
    if kind == 0 and len(things) > 1:
        return tuple(thing for i, thing in enumerate(things) if i != first)
    if kind == 1:
        colours = {first: None}
    elif kind == 2:
        colours = {first: str(rng.choice(tuple(COLOURS)))}
    elif kind == 3:
        colours = {first: things[second].colour, second: things[first].colour}
    if any(colour and held_out(colour, things[i].noun) for i, colour in colours.items()):
        return things
    return tuple(replace(t, colour=colours[i]) if i in colours else t for i, t in enumerate(things))


def phrases(text: str) -> list[str]:
    """What a caption is made of: "a red book and a yellow pen on a desk" gives a red book, a yellow pen, a desk."""
    return [piece for piece in re.split(_BETWEEN, text) if piece]
