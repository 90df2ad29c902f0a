"""Phrases seen together: lists of what is not there, and an object that is spoken of twice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from .chunks import Chunk
from .tokens import Token

_DEFINITE = ("the", "this", "that", "these", "those")


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
