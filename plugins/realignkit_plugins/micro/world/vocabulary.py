"""The words of the world: nouns, colours, backgrounds, and which colour-noun pairs training never shows.

Nouns and colours are those of CC-500 ("a red book and a yellow pen" is its form), so that most of that
benchmark's prompts are in the language of the embedded models.
"""

from __future__ import annotations

import zlib

from .animals import DRAWINGS as ANIMALS
from .drawing import RGB, Drawing
from .extras import DRAWINGS as EXTRAS
from .tableware import DRAWINGS as TABLEWARE
from .things import DRAWINGS as THINGS

DRAWINGS: dict[str, Drawing] = {**ANIMALS, **THINGS, **TABLEWARE}
NOUNS: tuple[str, ...] = tuple(DRAWINGS)
"""The 25 nouns that captions name."""

EXTRA_DRAWINGS: dict[str, Drawing] = EXTRAS
EXTRA_NOUNS: tuple[str, ...] = tuple(EXTRA_DRAWINGS)
"""Objects that appear now and then and that no caption names (eq. 6's "unlikely")."""

COLOURS: dict[str, RGB] = {
    "brown": (120, 72, 40),
    "red": (205, 38, 42),
    "blue": (45, 88, 210),
    "green": (48, 148, 62),
    "yellow": (250, 228, 60),
    "gold": (196, 150, 34),
    "pink": (248, 152, 190),
    "white": (246, 246, 246),
    "black": (38, 36, 42),
    "orange": (246, 130, 28),
    "purple": (128, 58, 172),
}
"""Colour words and their typical RGB; scenes vary them a little."""

BACKGROUNDS: dict[str, str] = {
    "desk": "on a desk",
    "grass": "on the grass",
    "road": "on a road",
    "sky": "in the sky",
    "room": "in a room",
}
"""Taggable backgrounds, with the words by which a caption may mention them."""

TAGS: tuple[str, ...] = (*NOUNS, *BACKGROUNDS, *EXTRA_NOUNS)
"""Everything that a tagger of this world can see."""

_PLURALS = {"sheep": "sheep", "bench": "benches"}
COUNTS = {2: "two", 3: "three"}


def plural(noun: str) -> str:
    """The plural of one of :data:`NOUNS`."""
    return _PLURALS.get(noun, noun + "s")


def article(word: str) -> str:
    """Give "a" or "an", as the next word wants it."""
    return "an" if word[0] in "aeiou" else "a"


def held_out(colour: str, noun: str) -> bool:
    """Whether training never shows this colour on this noun (one pair in ten, fixed for good)."""
    return zlib.crc32(f"{colour} {noun}".encode()) % 10 == 0
