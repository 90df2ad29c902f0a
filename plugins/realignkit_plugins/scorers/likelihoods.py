"""Likelihoods by comparing probabilities of words: what small language models are able to answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from realignkit.errors import ScorerError
from realignkit.types import Likelihood, LocalCaption, Tag

from . import templates
from .lexical import LexicalScorer
from .noun_phrases import noun_phrases
from .words import with_article

if TYPE_CHECKING:
    from llama_cpp import Llama

CONTENT_FREE = ("N/A", "", "[MASK]")
"""Descriptions without content, those of contextual calibration (Zhao et al. 2021)."""

Array = npt.NDArray[np.float64]


class LikelihoodJudge:
    """Has a model complete "Answer:" by one of the three likelihoods and takes the most probable.

    Calibrated (Zhao et al. 2021, "Calibrate before use"): a model prefers some words whatever it is asked. What it
    says about content-free descriptions is that preference, so its log-probabilities, averaged, are taken off before
    comparing.

    The caption of a certain object is the noun phrase of the prompt that names it; where no rule finds one, the
    phrase that the model thinks likeliest. Of any other object it is its name with an article.

    Args:
        llama: made with ``logits_all=True``.
        n_ctx: its context, in tokens.
        calibrate: see above.
        version: of the templates.
    """

    def __init__(self, llama: Llama, n_ctx: int, calibrate: bool = True, version: str = templates.NEWEST) -> None:
        self._model = TokenProbabilities(llama, n_ctx)
        self._calibrate, self._version = calibrate, version
        self._preference: dict[str, Array] = {}

    def __call__(self, prompt: str, tags: Sequence[Tag]) -> tuple[LocalCaption, ...]:
        """One local caption per tag, in order.

        Raises:
            ScorerError: the prompt is longer than the context.
        """
        likelihoods = [self._best(prompt, tag.name) for tag in tags]
        return tuple(
            LocalCaption(tag.name, self._caption(prompt, tag, likelihood), likelihood)
            for tag, likelihood in zip(tags, likelihoods, strict=True)
        )

    def probabilities(self, prompt: str, tag: str) -> Mapping[Likelihood, float]:
        """The (calibrated) probability of each likelihood; they add up to 1."""
        scores = self._scores(prompt, tag)
        if self._calibrate:
            if tag not in self._preference:
                self._preference[tag] = np.mean([self._scores(empty, tag) for empty in CONTENT_FREE], axis=0)
            scores = _normalised(scores - self._preference[tag])
        return dict(zip(Likelihood, np.exp(scores).tolist(), strict=True))

    def _best(self, prompt: str, tag: str) -> Likelihood:
        found = self.probabilities(prompt, tag)
        return max(found, key=lambda likelihood: found[likelihood])

    def _scores(self, prompt: str, tag: str) -> Array:
        question = templates.likelihood_question(prompt, tag, self._version)
        return _normalised(self._model.log_probabilities(question, [f" {likelihood}" for likelihood in Likelihood]))

    def _caption(self, prompt: str, tag: Tag, likelihood: Likelihood) -> str:
        if likelihood is not Likelihood.CERTAIN:
            return with_article(tag.name)
        (named,) = LexicalScorer()(prompt, [tag])
        if named.likelihood is Likelihood.CERTAIN:
            return named.caption
        phrases = [phrase.text for phrase in noun_phrases(prompt) if not phrase.negated]
        if not phrases:
            return with_article(tag.name)
        question = f"In {templates.quoted(prompt)}, the {tag.name} is the part that says:"
        means = self._model.log_probabilities(question, [f" {phrase}" for phrase in phrases], mean=True)
        return phrases[int(np.argmax(means))]


class TokenProbabilities:
    """Log-probabilities of continuations; what two questions have in common at the start is evaluated once."""

    def __init__(self, llama: Llama, n_ctx: int) -> None:
        self._llama, self._n_ctx = llama, n_ctx
        self._evaluated: list[int] = []

    def log_probabilities(self, text: str, continuations: Sequence[str], *, mean: bool = False) -> Array:
        """Natural logarithm of p(continuation | text), per continuation; ``mean``: per token of it.

        Raises:
            ScorerError: text and continuation are longer than the context.
        """
        prefix = self._tokens(text)
        full = [self._tokens(text + continuation) for continuation in continuations]
        # A tokenizer may draw the border elsewhere; all continuations must be judged from the same place.
        start = min(_common(prefix, tokens) for tokens in full)
        totals = []
        for tokens in full:
            logits = self._logits(tokens)[start - 1 : len(tokens) - 1].astype(np.float64)
            chosen = np.array([_normalised(row)[token] for row, token in zip(logits, tokens[start:], strict=True)])
            totals.append(chosen.mean() if mean else chosen.sum())
        return np.array(totals)

    def _tokens(self, text: str) -> list[int]:
        tokens: list[int] = self._llama.tokenize(text.encode(), add_bos=True, special=False)
        if len(tokens) > self._n_ctx:
            raise ScorerError(
                f"the prompt fills the context of {self._n_ctx} tokens. Raise n_ctx.", "too long", final=True
            )
        return tokens

    def _logits(self, tokens: list[int]) -> Any:
        """Logits after each token, float32 (tokens, vocabulary)."""
        llama = self._llama
        keep = _common(self._evaluated, tokens)
        # Before evaluating, llama.cpp forgets whatever is behind this many tokens.
        llama.n_tokens = keep
        self._evaluated = tokens[:keep]
        if keep < len(tokens):
            llama.eval(tokens[keep:])
        self._evaluated = list(tokens)
        return llama.scores[: len(tokens)]


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _normalised(scores: Array) -> Array:
    """Minus the logarithm of their sum of exponentials."""
    top = scores.max()
    return scores - (top + np.log(np.exp(scores - top).sum()))
