"""The texts that a pipeline is given, as it reads them: its tokenizers, their limits, and the embeddings."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from torch import Tensor

from realignkit.arguments import shown
from realignkit.errors import PromptError
from realignkit.pipelines import families


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


def encoders(pipeline: Any) -> list[tuple[Any, Any]]:
    """(tokenizer, text encoder) pairs of an SD or PixArt (one) or SDXL (two) pipeline."""
    pairs = [
        (getattr(pipeline, f"tokenizer{suffix}", None), getattr(pipeline, f"text_encoder{suffix}", None))
        for suffix in ("", "_2")
    ]
    return [
        (_prepared(pipeline, tokenizer), encoder)
        for tokenizer, encoder in pairs
        if tokenizer is not None and encoder is not None
    ]


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


def token_limit(pipeline: Any) -> int:
    """How many tokens, start and end included, every text encoder of the pipeline reads."""
    padded = families.padded_text_length(pipeline)
    limits = [] if padded is None else [padded]
    for tokenizer, encoder in encoders(pipeline):
        limits.append(int(tokenizer.model_max_length))
        limits.append(int(getattr(encoder.config, "max_position_embeddings", limits[-1])))
    return min(limits, default=sys.maxsize)


def token_count(pipeline: Any, text: str) -> int:
    """How many tokens ``text`` has, start and end included, in the encoder where it has most."""
    return max((len(full_ids(tokenizer, text)) for tokenizer, _ in encoders(pipeline)), default=0)


def padded_length(pipeline: Any) -> int:
    """The token length K that the pipeline pads texts to."""
    return families.padded_text_length(pipeline) or int(encoders(pipeline)[0][0].model_max_length)


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
    out = pipeline.encode_prompt(
        prompt=texts,
        device=pipeline._execution_device,
        num_images_per_prompt=1,
        do_classifier_free_guidance=False,
    )
    # (text, None), PixArt: (text, its mask, negative, its mask), SDXL: (text, negative, pooled, negative pooled)
    second = {"prompt_attention_mask": 1, "pooled_prompt_embeds": 2}.get(families.text_extra(pipeline) or "")
    return out[0], None if second is None else out[second]
