"""Scorer for GPT-4, ChatGPT and every other service that speaks OpenAI's chat protocol."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from realignkit.errors import ScorerError
from realignkit.types import Tag

from .answers import ANSWER_SCHEMA, MalformedAnswerError
from .language_model import LanguageModelOptions, LanguageModelScorer
from .meter import Meter, Usage
from .templates import Messages

if TYPE_CHECKING:
    from openai import OpenAI

OPENAI_URL = "https://api.openai.com/v1"
_OPENAI_VARIABLE = "OPENAI_API_KEY"
_FORMATS: dict[str, dict[str, Any] | None] = {
    "json_schema": {
        "type": "json_schema",
        "json_schema": {"name": "objects", "schema": ANSWER_SCHEMA, "strict": True},
    },
    # The schema beside the type is an extension of llama.cpp's server; others ignore it.
    "json_object": {"type": "json_object", "schema": ANSWER_SCHEMA},
    "plain_json_object": {"type": "json_object"},
    "none": None,
}
GRACE = 15.0
"""Seconds beyond the timeout after which a request is abandoned, whatever state it is in."""
_LONGEST_WAIT = 60.0  # seconds; a server may ask for more, and does not get it


class OpenAIChatOptions(LanguageModelOptions):
    """Options of :class:`OpenAIChatScorer`."""

    model: str = Field("gpt-4o", min_length=1, description="the model's name at the service")
    base_url: str = Field(OPENAI_URL, description="the service; anything that speaks the protocol")
    auth_env: str | None = Field(
        None, description="environment variable with the key; None: OPENAI_API_KEY for OpenAI itself, else no key"
    )
    timeout: float = Field(60.0, gt=0, le=3600, description="seconds for one request, at most")
    retries: int = Field(4, ge=0, le=20, description="repeated requests per question after 429, 5xx or no connection")
    backoff: float = Field(1.0, ge=0, le=60, description="seconds before the first of them; doubles each time")
    concurrency: int = Field(8, ge=1, le=256, description="requests at once")
    structured: Literal["auto", "json_schema", "json_object", "none"] = Field(
        "auto", description="how the form of the answer is enforced; auto: the strictest that the service takes"
    )
    temperature: float | None = Field(0.0, ge=0, le=2, description="None: not sent, for models that take none")
    max_output_tokens: int = Field(1024, ge=64, description="length of an answer")
    max_total_tokens: int | None = Field(1_000_000, ge=1, description="cap on all tokens of this process; None: none")
    max_cost: float | None = Field(None, gt=0, description="cap in US dollars; needs the two prices")
    input_price: float | None = Field(None, ge=0, description="US dollars per million tokens in")
    output_price: float | None = Field(None, ge=0, description="US dollars per million tokens out")

    @field_validator("base_url")
    @classmethod
    def _plain_url(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("must be an http:// or https:// address such as http://localhost:8000/v1")
        if parts.username or parts.password or parts.query:
            raise ValueError("must hold no key or password: name an environment variable with auth_env instead")
        return url.rstrip("/")

    @model_validator(mode="after")
    def _priced(self) -> OpenAIChatOptions:
        if self.max_cost is not None and (self.input_price is None or self.output_price is None):
            raise ValueError("max_cost needs input_price and output_price")
        return self


class OpenAIChatScorer(LanguageModelScorer):
    """Asks a chat service; valid answers are kept on disk.

    The key comes from the environment and goes to the service only: it is in no option, message, file or report, and
    OpenAI's key is not sent to other services unless ``auth_env`` says so.
    """

    Options = OpenAIChatOptions
    options: OpenAIChatOptions  # type: ignore[assignment]

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        o = self.options
        self.meter = Meter(o.max_total_tokens, o.max_cost, o.input_price, o.output_price)
        self._forms = list(_FORMATS) if o.structured == "auto" else [o.structured]
        self._strictest = 0  # which of the forms the service is known to take

    @property
    def concurrency(self) -> int:  # type: ignore[override]
        """How many calls may run at once."""
        return self.options.concurrency

    @property
    def usage(self) -> Usage:
        """Tokens and money used so far."""
        return self.meter.usage

    def check(self) -> str:
        """What is missing; asks nobody."""
        variable = self._variable
        if variable is not None and not os.environ.get(variable):
            return f"no key: set the environment variable {variable}"
        return ""

    def identity(self) -> Mapping[str, Any]:
        """Model, service and sampling."""
        o = self.options
        return {
            "scorer": "openai_chat",
            **{
                name: getattr(o, name) for name in ("model", "base_url", "temperature", "max_output_tokens", "template")
            },
        }

    def complete(self, messages: Messages, tags: Sequence[Tag], state: dict[str, Any]) -> str:
        """One answer of the service.

        Raises:
            MalformedAnswerError: it is no chat completion, or was cut short.
            ScorerError: no key, no connection, refused, over budget, or still failing after the retries.
        """
        which = self._strictest
        while True:
            try:
                completion = self._send(messages, which)
                self._strictest = max(which, self._strictest)
                return _content(completion)
            except _FormatRefusedError:
                which += 1
            except _PassingError as problem:
                state["failed"] = state.get("failed", 0) + 1
                if state["failed"] > self.options.retries:
                    raise ScorerError(
                        f"{problem} (after {state['failed']} request(s)). Try later, or raise retries or timeout.",
                        problem.reason,
                    ) from None
                time.sleep(self._wait(state["failed"], problem.retry_after))

    def _wait(self, failures: int, asked: float | None) -> float:
        if asked is not None:
            return min(asked, _LONGEST_WAIT)
        # Half of it at random, so that many clients do not come back all at once.
        return min(self.options.backoff * 2 ** (failures - 1), _LONGEST_WAIT) * random.uniform(0.5, 1.0)

    def _send(self, messages: Messages, which: int) -> Any:
        import openai

        from .http import within

        o = self.options
        own = urlsplit(o.base_url).hostname == urlsplit(OPENAI_URL).hostname
        request: dict[str, Any] = {
            "model": o.model,
            "messages": messages,
            # OpenAI's newer models know only the new name, other services mostly the old one.
            ("max_completion_tokens" if own else "max_tokens"): o.max_output_tokens,
        }
        if o.temperature is not None:
            request["temperature"] = o.temperature
        if (form := _FORMATS[self._forms[which]]) is not None:
            request["response_format"] = form
        client = self._client
        estimate = sum(len(message["content"].encode()) for message in messages) // 3 + 8 * len(messages)
        with self.meter.charge(estimate, o.max_output_tokens) as charge:
            try:
                # Somewhat longer than the client's own bound, which is the one that should strike.
                completion = within(o.timeout + GRACE, lambda: client.chat.completions.create(**request))
            except (openai.APITimeoutError, TimeoutError):
                raise _PassingError(f"no answer within {o.timeout:g} seconds", "timeout") from None
            except openai.APIConnectionError as error:
                cause = self._scrubbed(f"{type(error.__cause__).__name__}: {error.__cause__}")
                raise _PassingError(f"no connection to {o.base_url} ({cause})", "connection") from None
            except openai.APIStatusError as error:
                charge.settle(0, 0)
                raise self._refusal(error, which) from None
            except Exception as error:  # the library, on a body that is no JSON or not of the protocol
                problem = self._scrubbed(f"{type(error).__name__}: {error}")
                raise MalformedAnswerError(f"the reply is no chat completion ({problem})", "protocol") from None
            usage = getattr(completion, "usage", None)
            spent = getattr(usage, "prompt_tokens", None), getattr(usage, "completion_tokens", None)
            if isinstance(spent[0], int) and isinstance(spent[1], int):
                charge.settle(spent[0], spent[1])
        return completion

    def _refusal(self, error: Any, which: int) -> Exception:
        status, o = error.status_code, self.options
        detail = self._scrubbed(str(error))
        # llama.cpp's server calls every kind of response_format that it does not know an internal error.
        about_form = status in (400, 422) or "response_format" in str(error)
        if about_form and which + 1 < len(self._forms):
            return _FormatRefusedError()
        if status == 429 and "insufficient_quota" not in detail:
            return _PassingError("the service says that there were too many requests", "rate limit", error)
        if status in (408, 409, 425) or status >= 500:
            return _PassingError(f"the service has a problem (HTTP {status})", "server error", error)
        advice = {
            401: f"Check the key in {self._variable or 'auth_env'}.",
            403: "Check the key and what it may use.",
            404: f"Check model='{o.model}' and base_url='{o.base_url}'.",
            429: "The account has no credit left: add some.",
        }.get(status, "Check the options of the scorer.")
        return ScorerError(f"the service refused the request (HTTP {status}: {detail}). {advice}", "refused")

    @property
    def _variable(self) -> str | None:
        """The environment variable that a key is taken from."""
        if self.options.auth_env is not None:
            return self.options.auth_env
        host = urlsplit(self.options.base_url).hostname
        return _OPENAI_VARIABLE if host == urlsplit(OPENAI_URL).hostname else None

    @cached_property
    def _client(self) -> OpenAI:
        import openai

        from .http import BoundedClient

        if missing := self.check():
            raise ScorerError(f"{missing}, or choose another scorer.", "no key")
        key = os.environ[self._variable] if self._variable else "none"
        return openai.OpenAI(
            api_key=key,
            base_url=self.options.base_url,
            max_retries=0,
            timeout=self.options.timeout,
            http_client=BoundedClient(self.options.timeout),
        )

    def _scrubbed(self, text: str) -> str:
        """A message without the key, which some services quote, and of bearable length."""
        key = os.environ.get(self._variable or "")
        text = " ".join(text.split())
        return (text.replace(key, "***") if key else text)[:300]


class _FormatRefusedError(Exception):
    """The service does not know this kind of ``response_format``."""


class _PassingError(Exception):
    """Something that may be over when the request is repeated."""

    def __init__(self, message: str, reason: str, error: Any = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.retry_after: float | None = None
        if error is not None:
            try:
                seconds = float(error.response.headers.get("retry-after", ""))
                self.retry_after = seconds if 0 <= seconds < float("inf") else None
            except ValueError:  # a date, or nonsense
                self.retry_after = None


def _content(completion: Any) -> str:
    # The library builds its objects without validation, so every step of the way may be anything.
    choices = getattr(completion, "choices", None)
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = getattr(choice, "message", None)
    content = getattr(message, "content", None)
    if getattr(message, "refusal", None) or getattr(choice, "finish_reason", None) == "content_filter":
        raise MalformedAnswerError("the model declined to answer", "declined")
    if not isinstance(content, str):
        raise MalformedAnswerError("the service's reply is no chat completion with a text", "protocol")
    if getattr(choice, "finish_reason", None) == "length":
        raise MalformedAnswerError("it was cut short; max_output_tokens is too small", "truncated")
    return content
