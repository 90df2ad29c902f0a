"""Local captions in the text that an image is conditioned on: finding, appending and isolating them.

Positions count from the start of the padded sequence, special tokens included, as the network's attention sees it.
"""

from __future__ import annotations

from collections.abc import Sequence
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
    stretch,
    token_count,
    token_limit,
)
from realignkit.pipelines.families.family import Reader
from realignkit.pipelines.spans import knows, names, phrase_spans, ways_to_stand
from realignkit.types import Layout, Segment


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
    present = {id(s) for s in segments if names(tokenizer, prompt, s.caption.caption)}
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


def _agreed_spans(pipeline: Any, text: str, phrases: Sequence[str]) -> list[slice]:
    reader = readers(pipeline)[0]
    spans = [phrase_spans(tokenizer, text, phrases) for tokenizer, _ in reader.encoders]
    if any(other != spans[0] for other in spans[1:]):
        raise ModelError(
            f"the pipeline's tokenizers split '{text}' differently, so its phrases have no common position. "
            "Modulation needs tokenizers with one vocabulary, as SDXL's are."
        )
    start = stretch(reader, text).start
    return [_moved(span, start) for span in spans[0]]


def _more_spans(pipeline: Any, text: str, phrases: Sequence[str]) -> list[tuple[slice, ...]]:
    """Of each phrase the places among the tokens of all readers but the first, as far as those read it."""
    out: list[tuple[slice, ...]] = [()] * len(phrases)
    for reader in readers(pipeline)[1:]:
        every = [_spans_where_known(tokenizer, text, phrases) for tokenizer, _ in reader.encoders]
        for i, spans in enumerate(zip(*every, strict=True)):
            span = spans[0]
            # Behind the last token that is read there is the end token alone.
            if span is not None and span.stop < reader.length and all(other == span for other in spans):
                out[i] += (_moved(span, stretch(reader, text).start),)
    return out


def _spans_where_known(tokenizer: Any, text: str, phrases: Sequence[str]) -> list[slice | None]:
    known = [phrase for phrase in phrases if knows(tokenizer, phrase) and names(tokenizer, text, phrase)]
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
                    phrases += [(i, span, _as_written(pipeline, item.text, span, segment)) for span in spans]
    embeddings, pooled = encode_texts(pipeline, texts)
    if not phrases:
        return embeddings, pooled
    unique = list(dict.fromkeys(phrase for _, _, phrase in phrases))
    alone, _ = encode_texts(pipeline, unique)
    for i, span, phrase in phrases:
        reader = _reader_at(pipeline, span)
        offset = stretch(reader, phrase).start + phrase_spans(reader.encoders[0][0], phrase, [phrase])[0].start
        embeddings[i] = isolate(embeddings[i], span, alone[unique.index(phrase)], offset)
    return embeddings, pooled


def _reader_at(pipeline: Any, span: slice) -> Reader:
    return next(each for each in readers(pipeline) if each.start <= span.start < each.start + each.length)


def _as_written(pipeline: Any, text: str, span: slice, segment: Segment) -> str:
    """A segment's caption so that alone it has the tokens that it has in the text, be it behind a space there."""
    reader = _reader_at(pipeline, span)
    tokenizer, start = reader.encoders[0][0], stretch(reader, text).start
    ids = full_ids(tokenizer, text)[span.start - start : span.stop - start]
    ways = ways_to_stand(segment.caption.caption)
    return next((way for way in ways if content_ids(tokenizer, way) == ids), ways[0])


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
