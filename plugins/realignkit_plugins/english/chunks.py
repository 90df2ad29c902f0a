"""A noun phrase in the making."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Chunk:
    """A noun phrase, tokens first .. stop - 1.

    Attributes:
        content: the first token behind its determiners.
        head, attributes, count, negated: as a noun phrase has them.
        listed: False for words that only frame or place ("a photo of", "the left").
        predicated: the last of the attributes, those that a sentence gives it ("the cup *is red*").
        stated: of these the ones that do not stand right behind it ("the cup and the box *are red*").
    """

    first: int
    stop: int
    head: str
    attributes: tuple[str, ...]
    count: int | None
    negated: bool = False
    listed: bool = True
    content: int = 0
    predicated: tuple[str, ...] = ()
    stated: tuple[str, ...] = ()
