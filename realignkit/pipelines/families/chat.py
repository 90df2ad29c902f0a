"""Tokenizers of language models as pipelines use them: a text stands within a conversation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

from realignkit.errors import ModelError


class ChatTokenizer:
    """A tokenizer whose texts come with the conversation around them, which counts as start and end tokens do.

    Args:
        tokenizer: of plain texts.
        conversation: the token ids of the conversation in which a text is handed to the encoder.
        dropped: how many of its first tokens the network does not see.
    """

    def __init__(self, tokenizer: Any, conversation: Callable[[str], Sequence[int]], *, dropped: int = 0) -> None:
        self._tokenizer, self._conversation, self._dropped = tokenizer, conversation, dropped

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def __call__(self, text: str, *, add_special_tokens: bool = True, **_: Any) -> Any:
        """Token ids of a text as it stands in the conversation, or with what the network sees of that around it."""
        from transformers import BatchEncoding

        ids = list(self._conversation(text))
        first, behind = self._around(ids)
        seen = ids[self._dropped :] if add_special_tokens else ids[first : len(ids) - behind]
        return BatchEncoding({"input_ids": seen})

    def content_start(self, text: str) -> int:
        """How many tokens that the network sees stand before those of the text itself."""
        return max(0, self._around(list(self._conversation(text)))[0] - self._dropped)

    @cached_property
    def _empty(self) -> list[int]:
        return list(self._conversation(""))

    def _around(self, ids: Sequence[int]) -> tuple[int, int]:
        """How many tokens before and behind are the conversation's, which begins and ends so whatever the text is."""
        before = _equal(ids, self._empty)
        most = min(len(ids), len(self._empty)) - before
        return before, min(most, _equal(ids[::-1], self._empty[::-1]))


def _equal(one: Sequence[int], other: Sequence[int]) -> int:
    """How many elements are equal from the first."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))


def chat_template(tokenizer: Any, kind: str) -> Any:
    """What lays out conversations: the tokenizer, or processor, itself, which has to know how.

    Args:
        tokenizer: of a pipeline.
        kind: the pipeline's class, for messages.

    Raises:
        ModelError: it has no chat template.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise ModelError(
            f"the tokenizer of this {kind} has no chat template, in which texts are handed to its text encoder. "
            "Copy or download the tokenizer again, with its chat_template.jinja."
        )
    return tokenizer
