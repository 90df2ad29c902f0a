"""From a free answer to one of a question's choices: by a sentence encoder as TIFA does, or by words."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from realignkit_plugins.english.words import singular
from realignkit_plugins.loading import Checkpoint, CheckpointPlugin, text_tokenizer
from realignkit_plugins.metrics.tifa_scores import in_digits, sentence_embedding, similarities, token_f1

ENCODER = "sentence-transformers/all-mpnet-base-v2"
"""TIFA's own."""
_ARTICLES = re.compile(r"\b(?:an?|the|some)\b")


class SentenceEncoder(CheckpointPlugin):
    """The nearest choice by the cosine of mean token states, as TIFA computes it."""

    role = "sentence encoder"
    checkpoint = Checkpoint("sentence encoder", other="AutoModel", tokenizer=text_tokenizer)

    @cached_property
    def _known(self) -> dict[str, npt.NDArray[np.float64]]:
        return {}

    def __call__(self, said: str, choices: Sequence[str]) -> str:
        """The choice whose embedding is nearest to the answer's; the first of several."""
        near = similarities(self._embedding(said), [self._embedding(choice) for choice in choices])
        return choices[int(np.argmax(near))]

    def _embedding(self, text: str) -> npt.NDArray[np.float64]:
        import torch

        if text not in self._known:
            kept: Any = self.loaded
            tokens = kept.tokenizer(text, truncation=True, return_tensors="pt").to(kept.network.device)
            with torch.inference_mode():
                states = self.finite(kept.network(**tokens).last_hidden_state.float())
            self._known[text] = sentence_embedding(states[0].cpu().numpy(), tokens["attention_mask"][0].cpu().numpy())
        return self._known[text]


def nearest_by_words(said: str, choices: Sequence[str]) -> str:
    """The choice with most words in common; "" where none has any.

    Case, punctuation, articles and plurals do not count, and numbers are the same in words and digits: "Two dogs." is
    "2 dog", and "a light blue" is nearest to "blue".
    """
    words = [_essence(choice) for choice in choices]
    shared = [float(each == _essence(said)) or token_f1(each, _essence(said)) for each in words]
    best = max(range(len(choices)), key=shared.__getitem__)
    return choices[best] if shared[best] > 0 else ""


def _essence(text: str) -> str:
    bare = _ARTICLES.sub(" ", re.sub(r"[^\w\s]", " ", text.lower()))
    return " ".join(singular(word) for word in in_digits(bare).split())
