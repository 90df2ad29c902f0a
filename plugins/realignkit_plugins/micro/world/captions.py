"""Captions of scenes, in the forms people use, with as much of the web's carelessness as a recipe asks for."""

from __future__ import annotations

import numpy as np

from .scenes import Scene, Thing
from .vocabulary import BACKGROUNDS, COLOURS, COUNTS, article, plural


def phrase(thing: Thing) -> str:
    """Name a thing: "a red book"."""
    words = f"{thing.colour} {thing.noun}" if thing.colour else thing.noun
    return f"{article(words)} {words}"


def caption(scene: Scene, rng: np.random.Generator, noise: float = 0.0) -> str:
    """Describe a scene.

    Args:
        scene: what to describe.
        rng: chooses among the forms: a list ("a red book and a yellow pen", CC-500's), a count ("two red birds"),
            a relation ("… to the left of …", "above", …), each with or without the background.
        noise: probability of a careless caption: an object left out, or a colour left out or wrong.
    """
    phrases = [phrase(thing) for thing in scene.things]
    if noise and rng.random() < noise:
        phrases = _careless(phrases, scene, rng)
    text = _relation(scene, phrases, rng) or _counted(scene, phrases) or _list(phrases)
    if scene.background and rng.random() < 0.3:
        text = f"{text} {BACKGROUNDS[scene.background]}"
    return text


def _list(phrases: list[str]) -> str:
    return " and ".join(filter(None, (", ".join(phrases[:-1]), phrases[-1])))


def _counted(scene: Scene, phrases: list[str]) -> str | None:
    kinds = {(thing.noun, thing.colour) for thing in scene.things}
    if len(phrases) != len(scene.things):
        return None
    if len(kinds) == 1 and len(phrases) > 1:
        noun, colour = next(iter(kinds))
        return f"{COUNTS[len(phrases)]} {colour} {plural(noun)}"
    if len(kinds) == 2 and len(phrases) == 3:
        pairs = [(thing.noun, thing.colour) for thing in scene.things]
        twice = max(kinds, key=pairs.count)
        other = next(phrases[i] for i, pair in enumerate(pairs) if pair != twice)
        return f"two {twice[1]} {plural(twice[0])} and {other}"
    return None


def _relation(scene: Scene, phrases: list[str], rng: np.random.Generator) -> str | None:
    if len(scene.things) != 2 or len(set(phrases)) != 2 or rng.random() > 0.15:
        return None
    (x0, y0), (x1, y1) = (thing.centre for thing in scene.things)
    if abs(x0 - x1) > abs(y0 - y1):
        words = "to the left of" if x0 < x1 else "to the right of"
    else:
        words = "above" if y0 < y1 else "below"
    return f"{phrases[0]} {words} {phrases[1]}"


def _careless(phrases: list[str], scene: Scene, rng: np.random.Generator) -> list[str]:
    victim = int(rng.integers(len(phrases)))
    kind = rng.integers(3)
    if kind == 0 and len(phrases) > 1:
        return [text for i, text in enumerate(phrases) if i != victim]
    noun = scene.things[victim].noun
    words = noun if kind == 1 else f"{rng.choice(tuple(COLOURS))} {noun}"
    return [f"{article(words)} {words}" if i == victim else text for i, text in enumerate(phrases)]
