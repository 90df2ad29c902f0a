"""Services that speak OpenAI's chat protocol and take images, as question answerers."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pydantic import Field

from realignkit.calls import spread
from realignkit.contracts import VQA
from realignkit.errors import OutputError, ScorerError
from realignkit.images import png, to_rgb
from realignkit_plugins.datafiles import cache_folder
from realignkit_plugins.scorers.cache import AnswerCache
from realignkit_plugins.scorers.chat_options import ServiceOptions
from realignkit_plugins.scorers.chat_service import ChatService
from realignkit_plugins.scorers.language_model import AnswersOptions
from realignkit_plugins.scorers.meter import Usage
from realignkit_plugins.scorers.replies import answer_text
from realignkit_plugins.scorers.wrappings import MalformedAnswerError, brief, thoughtless
from realignkit_plugins.vqa.wording import short, worded

if TYPE_CHECKING:
    from PIL.Image import Image

LONGEST = 200
"""Characters of an answer; more is no short one."""
_LISTED = 20
"""How many tokens are asked for with their log-probabilities: as many as OpenAI gives."""


class OpenAIChatVQA(VQA):
    """Asks a chat service about images, several at once; valid answers are kept on disk.

    The key is treated as :class:`~realignkit_plugins.scorers.chat_service.ChatService` says. Images are sent as PNG,
    within the request. Probabilities are those of the likeliest tokens that the service lists: a spelling counts
    where it is one of them to the letter.
    """

    class Options(ServiceOptions, AnswersOptions):
        """Options of :class:`OpenAIChatVQA`."""

        show_choices: bool = Field(True, description="tell the model the choices, where a question has some")

    options: OpenAIChatVQA.Options

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.service = ChatService(self.options)

    @property
    def usage(self) -> Usage:
        """Tokens and money used so far."""
        return self.service.meter.usage

    def check(self) -> str:
        """What is missing; asks nobody."""
        return self.options.key_problem()

    def identity(self) -> dict[str, Any]:
        """Model, service and sampling."""
        return {name: getattr(self.options, name) for name in ("model", "base_url", "temperature", "show_choices")}

    def __call__(
        self, images: Sequence[Image], questions: Sequence[str], choices: Sequence[Sequence[str]] | None = None
    ) -> list[str]:
        """What the model says about the image at each question's place, in short.

        Raises:
            ScorerError: no key, no connection, refused, over budget, or no usable answer within the attempts.
        """
        shown: Sequence[Sequence[str] | None] = [None] * len(questions)
        if choices is not None and self.options.show_choices:
            shown = choices
        texts = [worded(question, some) for question, some in zip(questions, shown, strict=True)]
        return self._each(images, texts, self._answer)

    def probabilities(
        self, images: Sequence[Image], questions: Sequence[str], answers: Sequence[Sequence[str]]
    ) -> list[list[float]]:
        """Of each answer, the probability that the service gives to it as the first token of what is said.

        Raises:
            ScorerError: as above, or the service lists no log-probabilities.
        """
        listed = self._each(images, questions, self._first_token)
        found = [json.loads(tokens) for tokens in listed]
        return [[tokens.get(answer, 0.0) for answer in each] for tokens, each in zip(found, answers, strict=True)]

    def _each(
        self, images: Sequence[Image], texts: Sequence[str], ask: Callable[[list[dict[str, Any]], dict[str, Any]], str]
    ) -> list[str]:
        pictures = {id(image): png(to_rgb(image)) for image in images}
        pairs = [(pictures[id(image)], text) for image, text in zip(images, texts, strict=True)]
        return spread(lambda pair: self._known(*pair, ask), pairs, self.options.concurrency)

    def _known(self, picture: bytes, text: str, ask: Callable[[list[dict[str, Any]], dict[str, Any]], str]) -> str:
        """What ``ask`` makes of the service's answer; from the disk where it has been asked the same before."""
        o = self.options
        asked = {
            "vqa": ask.__name__,
            **{name: getattr(o, name) for name in ("model", "base_url", "temperature", "max_output_tokens")},
            "image": hashlib.sha256(picture).hexdigest(),
            "text": text,
        }
        if self._cache is not None and (known := self._cache.get(asked)) is not None:
            return known
        data = f"data:image/png;base64,{base64.b64encode(picture).decode()}"
        image = {"type": "image_url", "image_url": {"url": data}}
        messages = [{"role": "user", "content": [image, {"type": "text", "text": text}]}]
        answer = self._usable(messages, ask)
        if self._cache is not None:
            try:
                self._cache.put(asked, answer)
            except OutputError:  # a full disk must not cost an answer that was paid for
                return answer
        return answer

    def _usable(
        self, messages: list[dict[str, Any]], ask: Callable[[list[dict[str, Any]], dict[str, Any]], str]
    ) -> str:
        problems: list[MalformedAnswerError] = []
        state: dict[str, Any] = {}
        for _ in range(self.options.attempts):
            try:
                return ask(messages, state)
            except MalformedAnswerError as problem:
                problems.append(problem)
        reasons = "; ".join(dict.fromkeys(str(problem) for problem in problems))
        raise ScorerError(f"no usable answer in {len(problems)} attempt(s): {reasons}", problems[-1].reason, final=True)

    def _answer(self, messages: list[dict[str, Any]], state: dict[str, Any]) -> str:
        text = answer_text(self.service.ask(messages, state), self.options.max_output_tokens)
        answer = short(thoughtless(text))
        if not answer or len(answer) > LONGEST or not answer.isprintable():
            raise MalformedAnswerError(f"'{brief(answer)}' is no short answer", "form")
        return answer

    def _first_token(self, messages: list[dict[str, Any]], state: dict[str, Any]) -> str:
        """The likeliest first tokens with their probabilities, as JSON."""
        completion = self.service.ask(messages, state, logprobs=True, top_logprobs=_LISTED)
        try:
            listed = completion.choices[0].logprobs.content[0].top_logprobs
            found = {str(each.token): math.exp(min(0.0, float(each.logprob))) for each in listed}
        except (AttributeError, IndexError, TypeError, ValueError):
            raise ScorerError(
                f"'{self.options.model}' gives no log-probabilities, which this metric needs. Take a model or "
                f"service that does, or a metric that asks for answers alone (tifa).",
                "protocol",
                final=True,
            ) from None
        return json.dumps(found)

    @cached_property
    def _cache(self) -> AnswerCache | None:
        return AnswerCache(self.options.cache_dir or cache_folder("vqa")) if self.options.cache else None
