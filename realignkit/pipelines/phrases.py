"""Local captions in the text that an image is conditioned on: finding, appending and isolating them.

Everything works on token ids, never on characters, so any tokenizer of ``transformers`` will do. Positions count
from the start of the padded sequence, special tokens included, as the U-Net's cross-attention sees it.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from realignkit.errors import ModelError, PromptError
from realignkit.pipelines.encoding import (
    content_ids,
    encode_texts,
    encoders,
    full_ids,
    readers,
    token_count,
    token_limit,
)
from realignkit.types import Layout, Segment

BUDGET = 2_000
"""Placements that are tried at most; prompts need a few dozen, and what is best so far is good."""

Cost = tuple[int, int]


@dataclass(frozen=True, eq=False)
class Conditioning:
    """The text that an image is conditioned on, and where its objects stand in it.

    Attributes:
        text: the prompt with the missing local captions appended.
        segments: the segments that take part: spanned ones, and unlikely ones (score 0).
        spans: for each its slice of the text's tokens; None for unlikely objects that the text does not name.
        notes: what was left out and why, in words.
        more_spans: for each its slices in the tokens of further encoders, such as CLIP's beside T5's.
    """

    text: str
    segments: tuple[Segment, ...] = ()
    spans: tuple[slice | None, ...] = ()
    notes: tuple[str, ...] = ()
    more_spans: tuple[tuple[slice, ...], ...] = ()

    @property
    def places(self) -> list[list[slice]]:
        """For each segment every slice of the text's tokens that its phrase has."""
        more = self.more_spans or ((),) * len(self.spans)
        return [[*([] if one is None else [one]), *others] for one, others in zip(self.spans, more, strict=True)]


def condition(
    pipeline: Any, prompt: str, layout: Layout, *, append: bool = True, separator: str = ", "
) -> Conditioning:
    """Choose the conditioning text: the prompt where it holds every local caption, else with the rest appended.

    Over the encoder's limit the least certain captions are dropped first (of equals the less confident segment,
    then the later one), and the notes say so. Unlikely objects' captions are never appended.

    Args:
        pipeline: whose tokenizers count.
        prompt: a prompt that :func:`check_prompt` accepts.
        layout: the image's segments; empty masks are left out with a note.
        append: False leaves segments out that the prompt does not name.
        separator: what stands between prompt and appended captions.

    Raises:
        PromptError: a local caption is empty.
        ModelError: the pipeline's tokenizers split the text differently.
    """
    notes: list[str] = []
    segments = []
    for segment in layout:
        caption = segment.caption.caption
        if not caption.strip():
            raise PromptError(f"the local caption of '{segment.caption.tag}' is empty: describe it or leave it out.")
        if not segment.mask.any():
            notes.append(f"'{caption}' is not modulated: its mask is empty")
        elif not all(knows(tokenizer, caption) for tokenizer, _ in encoders(pipeline)):
            notes.append(f"'{caption}' is not modulated: the text encoder does not know its words")
        else:
            segments.append(segment)
    tokenizer = encoders(pipeline)[0][0]
    present = {id(s) for s in segments if _spanned(tokenizer, prompt, s.caption.caption)}
    missing = [s for s in segments if id(s) not in present and s.caption.score > 0]
    if not append:
        notes += [f"'{s.caption.caption}' is not modulated: the prompt does not contain it" for s in missing]
        segments = [s for s in segments if s not in missing]
        missing = []
    missing.sort(key=lambda s: (-s.caption.score, -s.confidence))

    def text_with(extra: Sequence[Segment]) -> str:
        captions = dict.fromkeys(s.caption.caption.strip() for s in extra)  # equal captions once
        return separator.join([prompt, *captions])

    limit = token_limit(pipeline)
    while missing and token_count(pipeline, text_with(missing)) > limit:
        dropped = missing.pop()
        segments.remove(dropped)
        notes.append(
            f"'{dropped.caption.caption}' ({dropped.caption.likelihood}) is not modulated: "
            f"with it the text has more than the encoder's {limit} tokens"
        )
    text = text_with(missing)
    appended = {id(s) for s in missing}
    named = [s for s in segments if id(s) in present or id(s) in appended]
    captions = [s.caption.caption for s in named]
    spans = _agreed_spans(pipeline, text, captions)
    by_segment = {id(s): span for s, span in zip(named, spans, strict=True)}
    more = {id(s): others for s, others in zip(named, _more_spans(pipeline, text, captions), strict=True)}
    return Conditioning(
        text,
        tuple(segments),
        tuple(by_segment.get(id(s)) for s in segments),
        tuple(notes),
        tuple(more.get(id(s), ()) for s in segments),
    )


def _spanned(tokenizer: Any, text: str, phrase: str) -> bool:
    return find_span(content_ids(tokenizer, text), content_ids(tokenizer, phrase)) is not None


def _agreed_spans(pipeline: Any, text: str, phrases: Sequence[str]) -> list[slice]:
    reader = readers(pipeline)[0]
    spans = [phrase_spans(tokenizer, text, phrases) for tokenizer, _ in reader.encoders]
    if any(other != spans[0] for other in spans[1:]):
        raise ModelError(
            f"the pipeline's tokenizers split '{text}' differently, so its phrases have no common position. "
            "Modulation needs tokenizers with one vocabulary, as SDXL's are."
        )
    return [_moved(span, reader.start) for span in spans[0]]


def _more_spans(pipeline: Any, text: str, phrases: Sequence[str]) -> list[tuple[slice, ...]]:
    """Of each phrase the places among the tokens of all readers but the first, as far as those read it."""
    out: list[tuple[slice, ...]] = [()] * len(phrases)
    for reader in readers(pipeline)[1:]:
        every = [_spans_where_known(tokenizer, text, phrases) for tokenizer, _ in reader.encoders]
        for i, spans in enumerate(zip(*every, strict=True)):
            span = spans[0]
            # Behind the last token that is read there is the end token alone.
            if span is not None and span.stop < reader.length and all(other == span for other in spans):
                out[i] += (_moved(span, reader.start),)
    return out


def _spans_where_known(tokenizer: Any, text: str, phrases: Sequence[str]) -> list[slice | None]:
    known = [phrase for phrase in phrases if knows(tokenizer, phrase) and _spanned(tokenizer, text, phrase)]
    spans = iter(phrase_spans(tokenizer, text, known))
    return [next(spans) if phrase in known else None for phrase in phrases]


def _moved(span: slice, start: int) -> slice:
    return slice(span.start + start, span.stop + start)


@torch.no_grad()
def encode(
    pipeline: Any, conditionings: Sequence[Conditioning], *, isolate_phrases: bool = True
) -> tuple[Tensor, Tensor | None]:
    """Text embeddings (B, K, C) and what comes with them: SDXL's pooled ones (B, P), PixArt's mask (B, K), or None.

    With ``isolate_phrases`` each span of a positively scored segment carries the embeddings of its caption encoded
    alone. The pooled embedding, or the mask, stays the whole text's.
    """
    texts = [item.text for item in conditionings]
    phrases: list[tuple[int, slice, str]] = []
    if isolate_phrases:
        for i, item in enumerate(conditionings):
            for segment, spans in zip(item.segments, item.places, strict=True):
                if segment.caption.score > 0:
                    phrases += [(i, span, segment.caption.caption) for span in spans]
    embeddings, pooled = encode_texts(pipeline, texts)
    if not phrases:
        return embeddings, pooled
    unique = list(dict.fromkeys(phrase for _, _, phrase in phrases))
    alone, _ = encode_texts(pipeline, unique)
    for i, span, phrase in phrases:
        reader = next(each for each in readers(pipeline) if each.start <= span.start < each.start + each.length)
        offset = reader.start + phrase_spans(reader.encoders[0][0], phrase, [phrase])[0].start
        embeddings[i] = isolate(embeddings[i], span, alone[unique.index(phrase)], offset)
    return embeddings, pooled


def isolate(embeddings: Tensor, span: slice, alone: Tensor, offset: int) -> Tensor:
    """Replace a span's embeddings by those of the phrase encoded alone.

    Args:
        embeddings: (K, C) of the text. alone: (K, C) of the phrase.
        span: where the phrase stands in the text.
        offset: where it stands in its own sequence (1 behind a start token).

    Returns:
        A new (K, C).
    """
    out = embeddings.clone()
    out[span] = alone[offset : offset + span.stop - span.start]
    return out


def knows(tokenizer: Any, phrase: str) -> bool:
    """Whether the phrase has tokens, none of them the unknown one (which equals any other unknown word)."""
    ids = content_ids(tokenizer, phrase)
    return bool(ids) and tokenizer.unk_token_id not in ids


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
    offset = _offset(tokenizer, text, ids)
    choices = []
    for phrase in phrases:
        wanted = tuple(content_ids(tokenizer, phrase))
        spans = occurrences(ids, wanted) if knows(tokenizer, phrase) else []
        if not spans:
            raise PromptError(
                f"'{phrase}' is not part of '{text}', token by token. Write it as the text does, or append it."
            )
        inside = [_in_word(tokenizer, ids, span) for span in spans] if len(spans) > 1 else [False]
        choices.append(Choice(wanted, spans, inside))
    return [slice(span.start + offset, span.stop + offset) for span in assign(choices)]


def every_span(tokenizer: Any, text: str, phrase: str) -> list[slice]:
    """Every place of ``phrase`` in ``text`` but for those within longer words, as :func:`phrase_spans` counts them."""
    ids, wanted = content_ids(tokenizer, text), content_ids(tokenizer, phrase)
    if not knows(tokenizer, phrase):
        return []
    offset = _offset(tokenizer, text, ids)
    spans = (span for span in occurrences(ids, wanted) if not _in_word(tokenizer, ids, span))
    return [slice(span.start + offset, span.stop + offset) for span in spans]


def _offset(tokenizer: Any, text: str, ids: Sequence[int]) -> int:
    """How many special tokens stand before those of the text itself."""
    whole = find_span(full_ids(tokenizer, text), ids)
    return whole.start if whole else 0


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
