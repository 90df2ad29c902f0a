"""Where phrases stand in a text.

Everything works on token ids, never on characters, so any tokenizer of ``transformers`` will do.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

from realignkit.errors import PromptError
from realignkit.pipelines.encoding import content_ids, full_ids
from realignkit.pipelines.families.chat import ChatTokenizer

BUDGET = 2_000
"""Placements that are tried at most; prompts need a few dozen, and what is best so far is good."""

Cost = tuple[int, int]


def knows(tokenizer: Any, phrase: str) -> bool:
    """Whether the phrase has tokens, none of them the unknown one (which equals any other unknown word)."""
    ids = content_ids(tokenizer, phrase)
    return bool(ids) and tokenizer.unk_token_id not in ids


def names(tokenizer: Any, text: str, phrase: str) -> bool:
    """Whether a text contains a phrase, token by token."""
    ids = content_ids(tokenizer, text)
    return any(find_span(ids, form) is not None for form in forms(tokenizer, phrase))


def forms(tokenizer: Any, phrase: str) -> list[tuple[int, ...]]:
    """The tokens of a phrase, and where a tokenizer counts spaces as part of words those that it has behind one."""
    return list(dict.fromkeys(tuple(content_ids(tokenizer, way)) for way in ways_to_stand(phrase)))


def ways_to_stand(phrase: str) -> tuple[str, str]:
    """A phrase at the beginning of a text, and behind a space."""
    return phrase, f" {phrase}"


def find_span(ids: Sequence[int], phrase: Sequence[int], taken: Sequence[slice] = ()) -> slice | None:
    """First occurrence of ``phrase`` in ``ids`` that does not overlap ``taken``; None if there is none."""
    free = (span for span in occurrences(ids, phrase) if not any(overlap(span, other) for other in taken))
    return next(free, None)


def phrase_spans(tokenizer: Any, text: str, phrases: Sequence[str]) -> list[slice]:
    """Where each phrase stands in ``text``, as slices of its token sequence (start token included).

    Of a phrase that stands there more than once the occurrence that overlaps no other phrase's; equal phrases take one
    each, and share when those run out. See :func:`assign`.

    Raises:
        PromptError: a phrase is empty, unknown to the tokenizer, or no token span of the text.
    """
    ids = content_ids(tokenizer, text)
    offset = content_start(tokenizer, text)
    choices = []
    for phrase in phrases:
        spans = _every_occurrence(tokenizer, ids, phrase)
        if not spans:
            raise PromptError(
                f"'{phrase}' is not part of '{text}', token by token. Write it as the text does, or append it."
            )
        inside = [_in_word(tokenizer, ids, span) for span in spans] if len(spans) > 1 else [False]
        choices.append(Choice(forms(tokenizer, phrase)[0], spans, inside))
    return [slice(span.start + offset, span.stop + offset) for span in assign(choices)]


def every_span(tokenizer: Any, text: str, phrase: str) -> list[slice]:
    """Every place of ``phrase`` in ``text`` but for those within longer words, as :func:`phrase_spans` counts them."""
    ids, offset = content_ids(tokenizer, text), content_start(tokenizer, text)
    spans = (span for span in _every_occurrence(tokenizer, ids, phrase) if not _in_word(tokenizer, ids, span))
    return [slice(span.start + offset, span.stop + offset) for span in spans]


def content_start(tokenizer: Any, text: str) -> int:
    """How many special tokens, or tokens of a conversation, stand before those of the text itself."""
    if isinstance(tokenizer, ChatTokenizer):
        return tokenizer.content_start(text)
    whole = find_span(full_ids(tokenizer, text), content_ids(tokenizer, text))
    return whole.start if whole else 0


def _every_occurrence(tokenizer: Any, ids: Sequence[int], phrase: str) -> list[slice]:
    if not knows(tokenizer, phrase):
        return []
    spans = [span for form in forms(tokenizer, phrase) for span in occurrences(ids, form)]
    return sorted(spans, key=lambda span: span.start)


def _in_word(tokenizer: Any, ids: Sequence[int], span: slice) -> bool:
    """Whether a span begins or ends within a word, as "cat" does in a "bobcat" of two tokens."""

    def joined(left: int, right: int) -> bool:
        before, after, both = (tokenizer.decode(some).strip() for some in ([left], [right], [left, right]))
        return bool(both == before + after and before[-1:].isalnum() and after[:1].isalnum())

    starts = span.start > 0 and joined(ids[span.start - 1], ids[span.start])
    return starts or (span.stop < len(ids) and joined(ids[span.stop - 1], ids[span.stop]))


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
