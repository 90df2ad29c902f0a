"""Likelihoods by comparing probabilities of words: what small language models are able to answer."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from realignkit.errors import OutputError, ScorerError
from realignkit.types import Likelihood, LocalCaption, Tag
from realignkit_plugins.english.words import with_article

from . import templates
from .cache import AnswerCache
from .lexical import LexicalScorer

if TYPE_CHECKING:
    from llama_cpp import Llama

CONTENT_FREE = "N/A"
"""A description without content, as in contextual calibration (Zhao et al. 2021)."""

Array = npt.NDArray[np.float64]


class LikelihoodJudge:
    """Decides between the three likelihoods by probabilities, without letting the model write anything.

    Three numbers are measured for a prompt and a tag:

    - how much more probable the prompt makes the tag, ``log p(tag | prompt) - log p(tag)``;
    - by how much the model prefers the answer "certain" to "unlikely", and "possible" to "unlikely", each minus the
      same about a content-free description (Zhao et al. 2021, "Calibrate before use").

    Small models are good at the first and blind in the other two, large ones the other way round. So the numbers are
    calibrated per model: a linear discriminant with a shared, shrunk covariance and equal priors, fitted to the
    numbers of a few examples with known likelihoods (a file beside the templates), makes them log-probabilities.
    Uncalibrated, the bare probabilities of the three words decide.

    The caption of a certain object is the noun phrase of the prompt that names it. An object that no phrase names is
    not certain, whatever the probabilities: of the other two likelihoods the higher one is taken.

    Args:
        llama: made with ``logits_all=True``.
        n_ctx: its context, in tokens.
        version: of the templates.
        cache: keeps the numbers of the examples, which take a big model minutes.
        identity: what they depend on, as JSON.
    """

    def __init__(
        self,
        llama: Llama,
        n_ctx: int,
        calibrate: bool = True,
        version: str = templates.NEWEST,
        cache: AnswerCache | None = None,
        identity: Mapping[str, Any] | None = None,
    ) -> None:
        self._model = TokenProbabilities(llama, n_ctx)
        self._cache, self._identity = cache, dict(identity or {})
        self._calibrate, self._version = calibrate, version
        self._plain: dict[str, Array] = {}  # what is measured without a prompt, by tag

    def __call__(self, prompt: str, tags: Sequence[Tag]) -> tuple[LocalCaption, ...]:
        """One local caption per tag, in order.

        Raises:
            ScorerError: the prompt is longer than the context.
        """
        return judged(prompt, tags, self.probabilities([(prompt, tag.name) for tag in tags]))

    def probabilities(self, pairs: Sequence[tuple[str, str]]) -> Array:
        """For each (prompt, tag) the probability of each likelihood, float (pairs, 3), in the order of the enum."""
        if self._calibrate:
            return np.exp([self._discriminant.log_probabilities(one) for one in self._evidence(pairs)])
        return np.exp([_normalised(one) for one in self._words(pairs)])

    def _evidence(self, pairs: Sequence[tuple[str, str]]) -> Array:
        """The three numbers of the class docstring, float (pairs, 3)."""
        fresh = [(CONTENT_FREE, tag) for tag in dict.fromkeys(tag for _, tag in pairs) if tag not in self._plain]
        asked = [*pairs, *fresh]
        # One kind of question after the other, so that the model reads what each kind has in common only once.
        presence, words = self._presence(asked), self._words(asked)
        numbers = np.stack([presence, words[:, 0] - words[:, 2], words[:, 1] - words[:, 2]], axis=1)
        self._plain |= {tag: one for (_, tag), one in zip(fresh, numbers[len(pairs) :], strict=True)}
        return np.array([one - self._plain[tag] for (_, tag), one in zip(pairs, numbers, strict=False)])

    def _words(self, pairs: Sequence[tuple[str, str]]) -> Array:
        """Log p of the three words as an answer, float (pairs, 3)."""
        words = [f" {likelihood}" for likelihood in Likelihood]
        questions = [templates.likelihood_question(prompt, tag, self._version) for prompt, tag in pairs]
        return np.array([self._model.log_probabilities(question, words) for question in questions])

    def _presence(self, pairs: Sequence[tuple[str, str]]) -> Array:
        """Log p(tag) in a description of the picture, float (pairs,)."""
        logs = []
        for prompt, tag in pairs:
            shown = "" if prompt == CONTENT_FREE else f" of {' '.join(prompt.split())}"
            # The article belongs to the text: how probable it is says nothing about the object.
            article = with_article(tag).removesuffix(tag)
            text = f"A picture{shown}.\nIn the picture there is {article}".rstrip()
            logs.append(self._model.log_probabilities(text, [f" {tag}"])[0])
        return np.array(logs)

    @cached_property
    def _discriminant(self) -> Discriminant:
        examples = templates.examples(self._version)
        labelled = [(e["prompt"], tag, i) for e in examples for i, name in enumerate(Likelihood) for tag in e[name]]
        question = {**self._identity, "examples": examples}
        kept = json.loads((self._cache and self._cache.get(question)) or "null")
        evidence = np.array(kept or self._evidence([(prompt, tag) for prompt, tag, _ in labelled]))
        if kept is None and self._cache:
            with contextlib.suppress(OutputError):  # it can be measured again
                self._cache.put(question, json.dumps(evidence.tolist()))
        return Discriminant(evidence, np.array([label for *_, label in labelled]))


def judged(prompt: str, tags: Sequence[Tag], probabilities: Array) -> tuple[LocalCaption, ...]:
    """The likeliest local caption of each tag that the prompt admits.

    Args:
        prompt: the user's.
        tags: n objects.
        probabilities: float (n, 3), in the order of :class:`Likelihood`.
    """
    captions = []
    for tag, by_rule, row in zip(tags, LexicalScorer()(prompt, tags), probabilities, strict=True):
        named = by_rule.likelihood is Likelihood.CERTAIN
        admitted = [one for one in Likelihood if named or one is not Likelihood.CERTAIN]
        best = max(admitted, key=lambda one, row=row: row[tuple(Likelihood).index(one)])  # type: ignore[misc]
        caption = by_rule.caption if best is Likelihood.CERTAIN else with_article(tag.name)
        captions.append(LocalCaption(tag.name, caption, best))
    return tuple(captions)


class Discriminant:
    """Linear discriminant analysis: Gaussian classes with one covariance, equal priors.

    Args:
        points: float (n, d).
        labels: int (n,), classes counted from 0, each with at least one point.
        shrinkage: share of the covariance that is replaced by its diagonal.
    """

    def __init__(self, points: Array, labels: npt.NDArray[np.int_], shrinkage: float = 0.1) -> None:
        means = np.array([points[labels == label].mean(axis=0) for label in range(labels.max() + 1)])
        rest = points - means[labels]
        covariance = rest.T @ rest / max(1, len(points) - len(means))
        covariance = (1 - shrinkage) * covariance + (shrinkage + 1e-6) * np.diag(np.diag(covariance) + 1e-9)
        self._weights = np.linalg.solve(covariance, means.T)  # (d, classes)
        self._offsets = -0.5 * np.einsum("kd,dk->k", means, self._weights)

    def log_probabilities(self, point: Array) -> Array:
        """Natural logarithm of the probability of each class, float (classes,)."""
        return _normalised(point @ self._weights + self._offsets)


class TokenProbabilities:
    """Log-probabilities of continuations; what two questions have in common at the start is evaluated once."""

    def __init__(self, llama: Llama, n_ctx: int) -> None:
        self._llama, self._n_ctx = llama, n_ctx
        self._evaluated: list[int] = []

    def log_probabilities(self, text: str, continuations: Sequence[str]) -> Array:
        """Natural logarithm of p(continuation | text), per continuation.

        Raises:
            ScorerError: text and continuation are longer than the context.
        """
        prefix = self._tokens(text)
        full = [self._tokens(text + continuation) for continuation in continuations]
        # A tokenizer may draw the border elsewhere; all continuations must be judged from the same place.
        start = min(_common(prefix, tokens) for tokens in full)
        totals = []
        for tokens in full:
            # What comes behind the last token is not asked, so words of one token share one evaluation.
            logits = self._logits(tokens[:-1])[start - 1 :].astype(np.float64)
            chosen = np.array([_normalised(row)[token] for row, token in zip(logits, tokens[start:], strict=True)])
            totals.append(chosen.sum())
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
