"""Which occurrence of each phrase is meant, where a text holds several: so that as few of them overlap as possible."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

BUDGET = 2_000
"""Placements that are tried at most; prompts need a few dozen, and what is best so far is good."""

Cost = tuple[int, int]


@dataclass(frozen=True)
class Choice:
    """A phrase, and where it can stand.

    Attributes:
        kind: equal for equal phrases, which share an occurrence rather than stand inside another phrase.
        spans: its occurrences, in the text's order; at least one.
        inside: of each whether it is part of a longer word ("cat" in "bobcat").
    """

    kind: Hashable
    spans: Sequence[slice]
    inside: Sequence[bool]


def occurrences(ids: Sequence[int], phrase: Sequence[int]) -> list[slice]:
    """Every place of ``phrase`` in ``ids``."""
    ids, phrase = list(ids), list(phrase)
    starts = range(len(ids) - len(phrase) + 1 if phrase else 0)
    return [slice(start, start + len(phrase)) for start in starts if ids[start : start + len(phrase)] == phrase]


def overlap(one: slice, other: slice) -> bool:
    """Whether two spans have a token in common."""
    return bool(one.start < other.stop and other.start < one.stop)


def assign(choices: Sequence[Choice]) -> list[slice]:
    """An occurrence for each phrase: as few as possible inside of longer words, then as few overlaps as possible.

    Branch and bound, the longest phrases first; each tries first what costs least, of equals to share an equal
    phrase's occurrence rather than another one's words, and then the earlier. The first of equally good ones is taken.
    """
    order = sorted(range(len(choices)), key=lambda i: choices[i].spans[0].start - choices[i].spans[0].stop)
    best: tuple[Cost, list[slice]] | None = None
    tried = 0

    def place(chosen: list[slice], cost: Cost) -> None:
        nonlocal best, tried
        tried += 1
        if best is not None and (cost >= best[0] or tried > BUDGET):
            return
        if len(chosen) == len(order):
            best = (cost, chosen)
            return
        choice = choices[order[len(chosen)]]
        ranked = []
        for span, inside in zip(choice.spans, choice.inside, strict=True):
            met = [choices[i].kind for i, other in zip(order, chosen, strict=False) if overlap(span, other)]
            foreign, shares = sum(kind != choice.kind for kind in met), choice.kind in met
            ranked.append(((int(inside), foreign + shares), foreign, span.start, span))
        for (words, overlaps), *_, span in sorted(ranked, key=lambda item: item[:3]):
            place([*chosen, span], (cost[0] + words, cost[1] + overlaps))

    place([], (0, 0))
    assert best is not None  # the first descent is never cut short
    by_phrase = dict(zip(order, best[1], strict=True))
    return [by_phrase[i] for i in range(len(choices))]
