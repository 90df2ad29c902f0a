"""A prompt's characters as they are meant: composed, of ordinary width, without those that only format."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass

_SAME_LETTERS = ("<wide>", "<narrow>", "<font>")
"""Kinds of compatibility characters that are letters and marks in another dress (full width, "mathematical" bold)."""


@dataclass(frozen=True)
class PlainText:
    """What a text says, with the place of each character in it.

    Attributes:
        text: composed (NFC), without format characters (zero width, direction, soft hyphen, byte-order mark).
        starts, ends: for each character of ``text`` the slice of the original that it stands for.
    """

    text: str
    starts: tuple[int, ...]
    ends: tuple[int, ...]

    @classmethod
    def of(cls, original: str) -> PlainText:
        """Read any string."""
        text: list[str] = []
        starts: list[int] = []
        ends: list[int] = []
        i = 0
        while i < len(original):
            stop = i + 1
            while stop < len(original) and unicodedata.combining(original[stop]):
                stop += 1
            for character in _plain(original[i:stop]):
                text.append(character)
                starts.append(i)
                ends.append(stop)
            i = stop
        return cls("".join(text), tuple(starts), tuple(ends))

    def place(self, start: int, stop: int) -> tuple[int, int]:
        """The slice of the original that ``text[start:stop]``, not empty, stands for."""
        return self.starts[start], self.ends[stop - 1]


def _plain(characters: str) -> str:
    if characters.isascii():
        return characters if characters.isprintable() or characters.isspace() else " "
    composed = unicodedata.normalize("NFC", "".join(map(_dressed_down, characters)))
    return "".join(" " if unicodedata.category(c) == "Cc" else c for c in composed if unicodedata.category(c) != "Cf")


def _dressed_down(character: str) -> str:
    kind = unicodedata.decomposition(character).partition(" ")[0]
    ligature = kind == "<compat>" and character.isalpha()
    return unicodedata.normalize("NFKC", character) if kind in _SAME_LETTERS or ligature else character
