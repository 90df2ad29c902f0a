"""What plugins that ask a language model share: the question, validation, repair, asking again, the cache."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from pydantic import Field

from realignkit.contracts import Options as PluginOptions
from realignkit.contracts import Plugin, Scorer
from realignkit.errors import OutputError, ScorerError
from realignkit.types import LocalCaption, Tag
from realignkit_plugins.datafiles import cache_folder

from . import templates
from .answers import AnswerForm, objects_form, read_answer, write_answer
from .cache import AnswerCache
from .wrappings import MAX_ANSWER, MalformedAnswerError

T = TypeVar("T")


class AnswersOptions(PluginOptions):
    """Options of whoever asks a model and keeps its answers."""

    attempts: int = Field(2, ge=1, le=10, description="times a model is asked when its answers cannot be used")
    cache: bool = Field(True, description="keep answers on disk and never ask the same twice")
    cache_dir: Path | None = Field(None, description="where; None: $REALIGNKIT_CACHE or the user's cache folder")


class LanguageModelOptions(AnswersOptions):
    """Options of every plugin that asks a language model with the prompt templates."""

    template: str = Field(templates.NEWEST, description="version of the prompt templates")


@dataclass(frozen=True)
class Task(Generic[T]):
    """Something that a language model is asked for, and how its answer is read.

    Attributes:
        messages: the question.
        form: of its answer.
        read: from the model's text, or from what ``write`` made; raises :class:`MalformedAnswerError`.
        write: what was understood, as it is kept.
        repair: what to say about an answer and what is wrong with it, behind the question.
    """

    messages: templates.Messages
    form: AnswerForm
    read: Callable[[str], T]
    write: Callable[[T], str]
    repair: Callable[[str, str], templates.Messages]


class LanguageModel(Plugin):
    """Asks, validates, asks again with the reason, and gives up with a :class:`ScorerError` that has all reasons.

    Attributes:
        answers_folder: of the cache, below the user's.
    """

    answers_folder: ClassVar[str] = "scorers"
    options: LanguageModelOptions  # type: ignore[assignment]

    @abstractmethod
    def complete(self, messages: templates.Messages, form: AnswerForm, state: dict[str, Any]) -> str:
        """The model's answer to chat messages.

        ``form`` is what the answer should be held to, where that can be done; ``state`` is empty for a new question and
        the same for all attempts at it.

        Raises:
            MalformedAnswerError: it gave none that is text; asking again may help.
            ScorerError: it cannot be asked.
        """

    @abstractmethod
    def identity(self) -> Mapping[str, Any]:
        """What an answer depends on besides the messages, as JSON; part of the cache's key."""

    def ask(self, task: Task[T]) -> T:
        """What the model answers, read; from the disk where it has been asked the same before.

        Raises:
            ScorerError: no usable answer within the attempts, or the model cannot be asked.
        """
        asked = {**self.identity(), "messages": _in_short(task.messages)}
        known = self._recall(asked, task)
        if known is not None:
            return known
        problems: list[MalformedAnswerError] = []
        follow_up: templates.Messages = []
        state: dict[str, Any] = {}
        for _ in range(self.options.attempts):
            answer = ""
            try:
                answer = self.complete([*task.messages, *follow_up], task.form, state)
                result = task.read(answer)
            except MalformedAnswerError as problem:
                problems.append(problem)
                # A short answer is worth showing; the reason alone says enough about a huge or an empty one.
                shown = bool(answer.strip()) and len(answer) <= MAX_ANSWER
                follow_up = task.repair(answer, str(problem)) if shown else []
                continue
            self._remember(asked, task.write(result))
            return result
        reasons = "; ".join(dict.fromkeys(str(problem) for problem in problems))
        raise ScorerError(f"no usable answer in {len(problems)} attempt(s): {reasons}", problems[-1].reason, final=True)

    @cached_property
    def _cache(self) -> AnswerCache | None:
        return AnswerCache(self.options.cache_dir or cache_folder(self.answers_folder)) if self.options.cache else None

    def _recall(self, asked: Mapping[str, Any], task: Task[T]) -> T | None:
        answer = self._cache.get(asked) if self._cache else None
        if answer is None:
            return None
        try:
            return task.read(answer)
        except MalformedAnswerError:  # kept by a version with other rules
            return None

    def _remember(self, asked: Mapping[str, Any], understood: str) -> None:
        if self._cache is None:
            return
        try:
            # What was understood, not what was sent: a model's text may hold anything, the user's key included.
            self._cache.put(asked, understood)
        except OutputError:  # a full disk must not cost an answer that was paid for
            return


class LanguageModelScorer(LanguageModel, Scorer):
    """A language model as a scorer."""

    def __call__(self, prompt: str, tags: Sequence[Tag]) -> tuple[LocalCaption, ...]:
        """One local caption per tag, in order.

        Raises:
            ScorerError: no usable answer within the attempts, or the model cannot be asked.
        """
        if not tags:
            return ()
        version = self.options.template
        task = Task(
            templates.question(prompt, tags, version),
            objects_form(tags),
            lambda answer: read_answer(answer, prompt, tags),
            write_answer,
            lambda answer, problem: templates.repair(answer, problem, version),
        )
        return self.ask(task)


def _in_short(messages: templates.Messages) -> templates.Messages:
    """Messages with a checksum in place of each image."""

    def part(content: dict[str, Any]) -> dict[str, Any]:
        if content["type"] != "image_url":
            return content
        return {"type": "image", "sha256": hashlib.sha256(content["image_url"]["url"].encode()).hexdigest()}

    def short(content: Any) -> Any:
        return content if isinstance(content, str) else [part(each) for each in content]

    return [{**message, "content": short(message["content"])} for message in messages]
