"""Questions about scenes, with their answers: is it there, in which colour, how many, where, what stands left of it?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from .captions import caption
from .scenes import IMAGE_SIZE, Scene, Thing
from .vocabulary import BACKGROUNDS, COLOURS, COUNTS, EXTRA_NOUNS, NOUNS, article, plural

T = TypeVar("T")
YES_NO = ("yes", "no")
NUMBERS = ("zero", "one", *COUNTS.values())
PLACES = ("left", "right", "top", "bottom", "middle")
RELATIONS = {
    "to the left of": "to the right of",
    "to the right of": "to the left of",
    "above": "below",
    "below": "above",
}
"""Each with its opposite."""
_CLEAR = 5.0
"""How many pixels make one thing left of another, or of the middle."""
_SHOWS = (
    "is there {}?",
    "is there {} in the picture?",
    "is there {} in the image?",
    "is this {}?",
    "does the picture show {}?",
    "does this image show {}?",
)
_CAPTIONED = (
    'does this figure show "{}"? please answer yes or no.',
    'does this image show "{}"? answer the question with yes or no.',
    "does this picture show {}?",
)


@dataclass(frozen=True)
class Question:
    """What is asked about a scene.

    Attributes:
        kind: one of :data:`KINDS`.
        text: in lower case.
        answer: one word.
    """

    kind: str
    text: str
    answer: str


def ask(scene: Scene, kind: str, rng: np.random.Generator) -> Question | None:
    """A question of a kind about a scene, in one of its forms; None where the scene has none to ask.

    Half of those that ask for yes or no are answered no.
    """
    asked = _ASKERS[kind](scene, rng)
    return asked and Question(kind, *asked)


def about_caption(scene: Scene, described: Scene, rng: np.random.Generator) -> Question:
    """Whether a scene shows a caption of ``described``: yes, where that is the scene itself."""
    text = str(rng.choice(_CAPTIONED)).format(caption(described, rng))
    return Question("caption", text, YES_NO[described is not scene])


def _there(scene: Scene, rng: np.random.Generator) -> tuple[str, str]:
    """Is there a bird, a desk, a red bird? Are there birds?"""
    present = [thing.noun for thing in scene.things]
    if rng.random() < 0.2:
        backdrops = (*BACKGROUNDS, *EXTRA_NOUNS)
        known = [tag for tag in backdrops if (tag in scene.tags) == (rng.random() < 0.5)] or list(backdrops)
        name = _one(known, rng)
        return _shows(_with_article(name), rng), _yes(name in scene.tags)
    if rng.random() < 0.2:
        twice = sorted({noun for noun in present if present.count(noun) > 1})
        noun = _one(twice if twice and rng.random() < 0.7 else [noun for noun in NOUNS if noun not in present], rng)
        return f"are there {plural(noun)}?", _yes(noun in present)
    if rng.random() < 0.5:
        noun = _one(present if rng.random() < 0.5 else [noun for noun in NOUNS if noun not in present], rng)
        return _shows(_with_article(noun), rng), _yes(noun in present)
    pairs = {(thing.noun, str(thing.colour)) for thing in scene.things}
    noun, colour = _one(sorted(pairs), rng)
    if rng.random() < 0.5:
        others = [pair[1] for pair in pairs if pair[1] != colour]
        if rng.random() < 0.6:
            colour = _one(others if others and rng.random() < 0.6 else list(COLOURS), rng)
        else:
            noun = _one(NOUNS, rng)
    return _shows(_with_article(f"{colour} {noun}"), rng), _yes((noun, colour) in pairs)


def _coloured(scene: Scene, rng: np.random.Generator) -> tuple[str, str]:
    """Is the bird red?"""
    thing = _one(scene.things, rng)
    own = {str(other.colour) for other in scene.things if other.noun == thing.noun}
    colour = str(thing.colour)
    if rng.random() < 0.5:
        others = sorted({str(other.colour) for other in scene.things} - own)
        colour = _one(others if others and rng.random() < 0.6 else [c for c in COLOURS if c not in own], rng)
    if len(own) == 1 and _several(scene, thing):
        return f"are the {plural(thing.noun)} {colour}?", _yes(colour in own)
    return f"is the {thing.noun} {colour}?", _yes(colour in own)


def _several(scene: Scene, thing: Thing) -> bool:
    return sum(other.noun == thing.noun for other in scene.things) > 1


def _colour(scene: Scene, rng: np.random.Generator) -> tuple[str, str] | None:
    """What color is the bird?"""
    alone = [t for t in scene.things if all(o.colour == t.colour for o in scene.things if o.noun == t.noun)]
    if not alone:
        return None
    thing = _one(alone, rng)
    if _several(scene, thing):
        return f"what color are the {plural(thing.noun)}?", str(thing.colour)
    forms = ("what color is the {}?", "what colour is the {}?", "what is the color of the {}?")
    return _one(forms, rng).format(thing.noun), str(thing.colour)


def _what(scene: Scene, rng: np.random.Generator) -> tuple[str, str] | None:
    """What is red? What is to the left of the car?"""
    if len(scene.things) == 2 and rng.random() < 0.5:
        first, second, relation = _related(scene.things, rng)
        if not relation or first.noun == second.noun:
            return None
        return f"what is {relation} the {second.noun}?", first.noun
    alone = [t for t in scene.things if all(o.noun == t.noun for o in scene.things if o.colour == t.colour)]
    if not alone:
        return None
    thing = _one(alone, rng)
    return _one(("what is {}?", "what object is {}?"), rng).format(thing.colour), thing.noun


def _count(scene: Scene, rng: np.random.Generator) -> tuple[str, str]:
    """How many birds are there?"""
    noun = _one([thing.noun for thing in scene.things] if rng.random() < 0.85 else NOUNS, rng)
    things = [thing for thing in scene.things if thing.noun == noun]
    what = plural(noun)
    if things and rng.random() < 0.3:
        colour = str(_one(things, rng).colour)
        things = [thing for thing in things if thing.colour == colour]
        what = f"{colour} {what}"
    forms = ("how many {} are there?", "how many {} are in the picture?", "how many {} are in the image?")
    return _one(forms, rng).format(what), NUMBERS[len(things)]


def _where(scene: Scene, rng: np.random.Generator) -> tuple[str, str] | None:
    """Where is the bird?"""
    nouns = [thing.noun for thing in scene.things]
    alone = [thing for thing in scene.things if nouns.count(thing.noun) == 1]
    if not alone:
        return None
    thing = _one(alone, rng)
    place = place_of(thing)
    return (f"where is the {thing.noun}?", place) if place else None


def place_of(thing: Thing) -> str | None:
    """Which of :data:`PLACES` a thing is at, seen from the middle of the picture; None where it is neither clearly."""
    x, y = (value - IMAGE_SIZE / 2 for value in thing.centre)
    if max(abs(x), abs(y)) < _CLEAR:
        return "middle"
    if max(abs(x), abs(y)) < 2 * _CLEAR or abs(abs(x) - abs(y)) < _CLEAR:
        return None
    return ("left", "right")[x > 0] if abs(x) > abs(y) else ("top", "bottom")[y > 0]


def _relation(scene: Scene, rng: np.random.Generator) -> tuple[str, str] | None:
    """Is the red bird to the left of the blue car?"""
    nouns = [thing.noun for thing in scene.things]
    alone = [thing for thing in scene.things if nouns.count(thing.noun) == 1]
    if len(alone) < 2:
        return None
    first, second, relation = _related(alone, rng)
    if not relation:
        return None
    true = rng.random() < 0.5
    names = [f"the {t.noun}" if rng.random() < 0.5 else f"the {t.colour} {t.noun}" for t in (first, second)]
    return f"is {names[0]} {relation if true else RELATIONS[relation]} {names[1]}?", _yes(true)


def _related(things: Sequence[Thing], rng: np.random.Generator) -> tuple[Thing, Thing, str]:
    """Two things and how the first stands to the second; "" where that is not clear."""
    first, second = (things[i] for i in rng.permutation(len(things))[:2])
    x, y = (a - b for a, b in zip(first.centre, second.centre, strict=True))
    if abs(abs(x) - abs(y)) < _CLEAR:
        return first, second, ""
    relations = list(RELATIONS)
    return first, second, relations[x > 0] if abs(x) > abs(y) else relations[2 + (y > 0)]


def _background(scene: Scene, rng: np.random.Generator) -> tuple[str, str] | None:
    """Is the bird on a desk? What is in the background?"""
    if scene.background is None:
        return None
    if rng.random() < 0.3:
        return "what is in the background?", scene.background
    name = scene.background if rng.random() < 0.5 else _one([b for b in BACKGROUNDS if b != scene.background], rng)
    return f"is the {_one(scene.things, rng).noun} {BACKGROUNDS[name]}?", _yes(name == scene.background)


_ASKERS: dict[str, Callable[[Scene, np.random.Generator], tuple[str, str] | None]] = {
    "there": _there,
    "coloured": _coloured,
    "colour": _colour,
    "what": _what,
    "count": _count,
    "where": _where,
    "relation": _relation,
    "background": _background,
}
KINDS = (*_ASKERS, "caption")
"""Kinds of question; the last is asked by :func:`about_caption`."""


def words() -> frozenset[str]:
    """The words of all questions that are neither names of the world's things nor of their colours."""
    glue = [*_SHOWS, *_CAPTIONED, *YES_NO, *NUMBERS, *PLACES, *RELATIONS, "what color colour is the of object how many"]
    text = " ".join([*glue, "are there in picture image where background answer one word a an"])
    for mark in '{}?".':
        text = text.replace(mark, " ")
    return frozenset(text.split()) | frozenset('?".,')


def _shows(name: str, rng: np.random.Generator) -> str:
    return _one(_SHOWS, rng).format(name)


def _with_article(name: str) -> str:
    return f"{article(name)} {name}"


def _yes(true: bool) -> str:
    return YES_NO[not true]


def _one(options: Sequence[T], rng: np.random.Generator) -> T:
    return options[int(rng.integers(len(options)))]
