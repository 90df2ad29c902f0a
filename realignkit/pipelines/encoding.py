"""The texts that a pipeline is given, as it reads them: its tokenizers, their limits, and the embeddings."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import Tensor

from realignkit.arguments import shown
from realignkit.errors import PromptError
from realignkit.pipelines import families
from realignkit.pipelines.families.family import Reader


class PreparedTokenizer:
    """A tokenizer that sees texts as the pipeline hands them to it."""

    def __init__(self, tokenizer: Any, prepare: Callable[[str], str]) -> None:
        self._tokenizer, self._prepare = tokenizer, prepare

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def __call__(self, text: Any, **options: Any) -> Any:
        """Tokenise one text or many."""
        prepared = self._prepare(text) if isinstance(text, str) else [self._prepare(item) for item in text]
        return self._tokenizer(prepared, **options)


def readers(pipeline: Any) -> list[Reader]:
    """What makes the stretches of text tokens that the network sees, first the encoders that read most.

    Of SD and PixArt it is one encoder, of SDXL two that make the same tokens.
    """
    family = families.family_of(pipeline)
    if family is not None and family.joint is not None:
        return [
            replace(reader, encoders=tuple((_prepared(pipeline, each), encoder) for each, encoder in reader.encoders))
            for reader in family.joint.readers(pipeline)
        ]
    pairs = [
        (getattr(pipeline, f"tokenizer{suffix}", None), getattr(pipeline, f"text_encoder{suffix}", None))
        for suffix in ("", "_2")
    ]
    together = tuple(
        (_prepared(pipeline, tokenizer), encoder)
        for tokenizer, encoder in pairs
        if tokenizer is not None and encoder is not None
    )
    if not together:
        return []
    length = families.padded_text_length(pipeline) or int(together[0][0].model_max_length)
    return [Reader(together, 0, length)]


def encoders(pipeline: Any) -> list[tuple[Any, Any]]:
    """(tokenizer, text encoder) pairs of the first of :func:`readers`; none of a pipeline without them."""
    return [pair for reader in readers(pipeline)[:1] for pair in reader.encoders]


def _prepared(pipeline: Any, tokenizer: Any) -> Any:
    if families.padded_text_length(pipeline) is not None:  # PixArt's pipelines
        return PreparedTokenizer(tokenizer, lambda text: text.lower().strip())
    learned = tokenizer.get_added_vocab() if hasattr(pipeline, "maybe_convert_prompt") else {}
    if any(f"{token}_1" in learned for token in learned):  # textual inversion: a word of several vectors
        return PreparedTokenizer(tokenizer, lambda text: pipeline.maybe_convert_prompt(text, tokenizer))
    return tokenizer


def content_ids(tokenizer: Any, text: str) -> list[int]:
    """Token ids of ``text`` alone, without start, end or padding."""
    return [int(i) for i in tokenizer(text, add_special_tokens=False, verbose=False).input_ids]


def full_ids(tokenizer: Any, text: str) -> list[int]:
    """Token ids of ``text`` with start and end tokens, neither padded nor truncated."""
    return [int(i) for i in tokenizer(text, truncation=False, verbose=False).input_ids]


def stretch(reader: Reader, text: str) -> slice:
    """Where a reader's tokens of a text stand among those that the network sees; the rest of its places is padding."""
    count = min(len(full_ids(reader.encoders[0][0], text)), reader.length)
    start = reader.start + (reader.length - count if reader.left else 0)
    return slice(start, start + count)


def token_limit(pipeline: Any) -> int:
    """How many tokens, start and end included, the text encoder of the pipeline reads that reads most.

    Of encoders that make the same tokens, every one.
    """
    limits = []
    for reader in readers(pipeline)[:1]:
        limits.append(reader.length)
        for tokenizer, encoder in reader.encoders:
            limits.append(int(tokenizer.model_max_length))
            limits.append(int(getattr(encoder.config, "max_position_embeddings", limits[-1])))
    return min(limits, default=sys.maxsize)


def token_count(pipeline: Any, text: str) -> int:
    """How many tokens ``text`` has, start and end included, in the encoder where it has most."""
    return max((len(full_ids(tokenizer, text)) for tokenizer, _ in encoders(pipeline)), default=0)


def padded_length(pipeline: Any) -> int:
    """The token length K that the pipeline pads texts to, those of all :func:`readers` together."""
    return max(reader.start + reader.length for reader in readers(pipeline))


def check_prompt(pipeline: Any, prompt: str) -> None:
    """Refuse what the pipeline would silently truncate.

    Raises:
        PromptError: the prompt is no text, empty, or over the encoder's limit.
    """
    if not isinstance(prompt, str):
        raise PromptError(f"a prompt is text, not {shown(prompt)}.")
    if not prompt.strip():
        raise PromptError("the prompt is empty: say what the picture should show.")
    count, limit = token_count(pipeline, prompt), token_limit(pipeline)
    if count > limit:
        raise PromptError(
            f"the prompt has {count} tokens (start and end included), but the text encoder reads {limit}: "
            f"leave out at least {count - limit}. It begins: '{prompt[:60]}'."
        )


def encode_texts(pipeline: Any, texts: list[str]) -> tuple[Tensor, Tensor | None]:
    """What :func:`encode` gives for plain texts; differentiable in the text encoders' weights."""
    family = families.family_of(pipeline)
    return (families.unet.FAMILY if family is None else family).encode(pipeline, texts)
