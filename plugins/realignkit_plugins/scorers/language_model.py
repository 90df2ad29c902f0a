"""What scorers that ask a language model share: the question, validation, repair, asking again, the cache."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import Field

from realignkit.contracts import Options as PluginOptions
from realignkit.contracts import Scorer
from realignkit.errors import OutputError, ScorerError
from realignkit.types import LocalCaption, Tag
from realignkit_plugins.datafiles import cache_folder

from . import templates
from .answers import read_answer, write_answer
from .cache import AnswerCache
from .wrappings import MAX_ANSWER, MalformedAnswerError


class LanguageModelOptions(PluginOptions):
    """Options of every scorer that asks a language model."""

    attempts: int = Field(2, ge=1, le=10, description="times a model is asked when its answers cannot be used")
    cache: bool = Field(True, description="keep answers on disk and never ask the same twice")
    cache_dir: Path | None = Field(None, description="where; None: $REALIGNKIT_CACHE or the user's cache folder")
    template: str = Field(templates.NEWEST, description="version of the prompt templates")


class LanguageModelScorer(Scorer):
    """Asks, validates, asks again with the reason, and gives up with a :class:`ScorerError` that has all reasons."""

    options: LanguageModelOptions  # type: ignore[assignment]

    @abstractmethod
    def complete(self, messages: templates.Messages, tags: Sequence[Tag], state: dict[str, Any]) -> str:
        """The model's answer to chat messages.

        ``state`` is empty for a new question and the same for all attempts at it.

        Raises:
            MalformedAnswerError: it gave none that is text; asking again may help.
            ScorerError: it cannot be asked.
        """

    @abstractmethod
    def identity(self) -> Mapping[str, Any]:
        """What an answer depends on besides the messages, as JSON; part of the cache's key."""

    def __call__(self, prompt: str, tags: Sequence[Tag]) -> tuple[LocalCaption, ...]:
        """One local caption per tag, in order.

        Raises:
            ScorerError: no usable answer within the attempts, or the model cannot be asked.
        """
        if not tags:
            return ()
        messages = templates.question(prompt, tags, self.options.template)
        asked = {**self.identity(), "messages": messages}
        known = self._recall(asked, prompt, tags)
        if known is not None:
            return known
        problems: list[MalformedAnswerError] = []
        follow_up: templates.Messages = []
        state: dict[str, Any] = {}
        for _ in range(self.options.attempts):
            answer = ""
            try:
                answer = self.complete([*messages, *follow_up], tags, state)
                captions = read_answer(answer, prompt, tags)
            except MalformedAnswerError as problem:
                problems.append(problem)
                # A short answer is worth showing; the reason alone says enough about a huge or an empty one.
                shown = bool(answer.strip()) and len(answer) <= MAX_ANSWER
                follow_up = templates.repair(answer, str(problem), self.options.template) if shown else []
                continue
            self._remember(asked, captions)
            return captions
        reasons = "; ".join(dict.fromkeys(str(problem) for problem in problems))
        raise ScorerError(f"no usable answer in {len(problems)} attempt(s): {reasons}", problems[-1].reason, final=True)

    @cached_property
    def _cache(self) -> AnswerCache | None:
        return AnswerCache(self.options.cache_dir or cache_folder("scorers")) if self.options.cache else None

    def _recall(self, asked: Mapping[str, Any], prompt: str, tags: Sequence[Tag]) -> tuple[LocalCaption, ...] | None:
        answer = self._cache.get(asked) if self._cache else None
        if answer is None:
            return None
        try:
            return read_answer(answer, prompt, tags)
        except MalformedAnswerError:  # kept by a version with other rules
            return None

    def _remember(self, asked: Mapping[str, Any], captions: Sequence[LocalCaption]) -> None:
        if self._cache is None:
            return
        try:
            # What was understood, not what was sent: a model's text may hold anything, the user's key included.
            self._cache.put(asked, write_answer(captions))
        except OutputError:  # a full disk must not cost an answer that was paid for
            return
