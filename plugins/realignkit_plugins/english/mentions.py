"""Noun phrases in the making, and seen together: lists of what is not there, an object that is spoken of twice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from .tokens import Token

_DEFINITE = ("the", "this", "that", "these", "those")


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


def negated_lists(tokens: Sequence[Token], chunks: Sequence[Chunk]) -> list[Chunk]:
    """In "without a dog, a cat, or a bird" there is no cat either."""
    out = list(chunks)
    begun: int | None = None
    for k in range(1, len(chunks)):
        link = {token.text for token in tokens[chunks[k - 1].stop : chunks[k].first]}
        if (link != {","} and not ("or" in link or "nor" in link)) or not link <= {",", "or", "nor"}:
            begun = None
            continue
        begun = k - 1 if begun is None else begun
        if link != {","} and out[begun].negated:
            out[begun : k + 1] = [replace(chunk, negated=True) for chunk in out[begun : k + 1]]
    return out


def one_mention_each(tokens: Sequence[Token], chunks: Sequence[Chunk]) -> list[Chunk]:
    """In "a cup and a box; the cup is red" there is one cup, and it is red.

    A definite phrase that a sentence describes is an earlier phrase with its noun, where just one can be meant.
    """
    out: list[Chunk] = []
    for chunk in chunks:
        attributes = set(chunk.attributes[: len(chunk.attributes) - len(chunk.predicated)])
        same = [k for k, other in enumerate(out) if _may_mean(chunk, attributes, other)]
        if not chunk.predicated or tokens[chunk.first].text not in _DEFINITE or len(same) != 1:
            out.append(chunk)
            continue
        before = out[same[0]]
        if set(before.attributes) <= set(chunk.attributes):
            del out[same[0]]
            out.append(replace(chunk, count=before.count))
        else:
            new = tuple(attribute for attribute in chunk.predicated if attribute not in before.attributes)
            out[same[0]] = replace(before, attributes=before.attributes + new, stated=before.stated + new)
    return out


def _may_mean(chunk: Chunk, attributes: set[str], other: Chunk) -> bool:
    return other.listed and not other.negated and other.head == chunk.head and attributes <= set(other.attributes)
