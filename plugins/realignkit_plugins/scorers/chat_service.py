"""A service that speaks OpenAI's chat protocol: asked within bounds, and again where that helps; keys stay secret."""

from __future__ import annotations

import random
import time
from functools import cached_property
from typing import TYPE_CHECKING, Any

from realignkit.errors import ScorerError, redacted

from .answers import AnswerForm
from .chat_options import ServiceOptions
from .dialects import Dialect, advice
from .meter import Meter
from .templates import Messages
from .wrappings import MalformedAnswerError

if TYPE_CHECKING:
    from openai import OpenAI

_LONGEST_WAIT = 60.0  # seconds; a server may ask for more, and does not get it
_LONGEST_ERROR = 20_000  # characters of a foreign message that are looked at
_FINAL = ("too long", "declined")  # kinds of failure that the same question will always meet
_IMAGE_BYTES = 3_000
"""What an image counts as in the estimate of a request: about a thousand tokens."""


class ChatService:
    """One service, as it is known so far: how it wants to be asked, and what was used.

    The key comes from the environment and goes to the service only: it is in no option, message, file or report, and
    OpenAI's key is not sent to other services unless ``auth_env`` says so.

    Args:
        options: which one, and how it is asked.
        asker: what kind of plugin asks, in messages.

    Attributes:
        meter: tokens and money.
    """

    def __init__(self, options: ServiceOptions, asker: str = "scorer") -> None:
        o = self.options = options
        self.meter = Meter(o.max_total_tokens, o.max_cost, o.input_price, o.output_price, asker)
        self._asker = asker
        self._dialect = o.dialect()  # what the service is known to take

    def __deepcopy__(self, memo: Any) -> ChatService:
        """Copies of whoever asks share the service, and its caps."""
        return self

    def ask(self, messages: Messages, state: dict[str, Any], form: AnswerForm | None = None, **more: Any) -> Any:
        """One completion of the service, whatever it is.

        Args:
            messages: the question.
            state: empty for a new question, and the same for all attempts at it.
            form: that the answer is to have; None: words.
            more: parameters of the request besides.

        Raises:
            MalformedAnswerError: it is no chat completion.
            ScorerError: no key, no connection, refused, over budget, or still failing after the retries or the time
                for the question.
        """
        o = self.options
        end = state.setdefault("end", time.monotonic() + o.total_timeout)
        while True:
            dialect = self._dialect
            try:
                return self._send(messages, dialect, end, form, more)
            except _AskedWronglyError as refusal:
                if self._dialect is dialect:  # else another thread has learnt something since
                    self._dialect = refusal.dialect
            except _PassingError as problem:
                state["failed"] = state.get("failed", 0) + 1
                wait = self._wait(state["failed"], problem.retry_after)
                told = f"{problem} (after {state['failed']} request(s))"
                if state["failed"] > o.retries:
                    raise self._error(f"{told}. {problem.remedy}", problem.reason) from None
                if time.monotonic() + wait >= end:
                    raise self._error(
                        f"{told}, and the {o.total_timeout:g} seconds for a question leave no time for another. Try "
                        f"later, or raise total_timeout.",
                        problem.reason,
                    ) from None
                time.sleep(wait)

    def _wait(self, failures: int, asked: float | None) -> float:
        if asked is not None:
            return min(asked, _LONGEST_WAIT)
        # Half of it at random, so that many clients do not come back all at once.
        return min(self.options.backoff * 2 ** (failures - 1), _LONGEST_WAIT) * random.uniform(0.5, 1.0)

    def _send(
        self, messages: Messages, dialect: Dialect, end: float, form: AnswerForm | None, more: dict[str, Any]
    ) -> Any:
        import openai

        from .http import UnreadableReplyError

        o = self.options
        seconds = min(o.timeout, end - time.monotonic())
        if seconds <= 0:
            raise self._error(f"no usable answer within {o.total_timeout:g} seconds. Raise total_timeout.", "timeout")
        client = self._client
        estimate = sum(_size(message["content"]) for message in messages) // 3 + 8 * len(messages)
        with self.meter.charge(estimate, o.max_output_tokens) as charge:
            try:
                completion = client.chat.completions.create(
                    model=o.model, timeout=seconds, **dialect.request(messages, o.max_output_tokens, form), **more
                )
            except openai.APITimeoutError:
                raise _PassingError(f"no answer within {seconds:.3g} seconds", "timeout") from None
            except UnreadableReplyError as error:
                raise self._malformed(str(error)) from None
            except openai.APIConnectionError as error:
                cause = f"{type(error.__cause__).__name__}: {error.__cause__}"
                raise _PassingError(
                    f"no connection to {o.base_url} ({self._short(cause)})",
                    "connection",
                    remedy="Check that the service runs there, and base_url.",
                ) from None
            except openai.APIStatusError as error:
                charge.settle(0, 0)
                raise self._refusal(error, dialect) from None
            except Exception as error:  # the library, on a body that is no JSON or not of the protocol
                raise self._malformed(f"the reply is no chat completion ({type(error).__name__}: {error})") from None
            usage = getattr(completion, "usage", None)
            charge.settle(getattr(usage, "prompt_tokens", None), getattr(usage, "completion_tokens", None))
        return completion

    def _refusal(self, error: Any, dialect: Dialect) -> Exception:
        status, o = error.status_code, self.options
        detail = str(error)[:_LONGEST_ERROR]
        # llama.cpp's server calls much that it does not know an internal error.
        if (status in (400, 404, 415, 422) or status >= 500) and (better := dialect.after(detail)):
            return _AskedWronglyError(better)
        if status == 429 and "insufficient_quota" not in detail:
            return _PassingError("the service says that there were too many requests", "rate limit", error)
        if status in (408, 409, 425) or status >= 500:
            return _PassingError(f"the service has a problem (HTTP {status})", "server error", error)
        names = {"model": o.model, "base_url": o.base_url, "variable": o.variable or "auth_env"}
        remedy, reason = advice(status, detail, names)
        return self._error(f"the service refused the request (HTTP {status}: {self._short(detail)}). {remedy}", reason)

    @cached_property
    def _client(self) -> OpenAI:
        import openai

        from .http import BoundedClient

        o = self.options
        if missing := o.key_problem():
            raise ScorerError(f"{missing}, or choose another {self._asker}.", "no key")
        return openai.OpenAI(
            api_key=o.key or "none",
            base_url=o.base_url,
            max_retries=0,
            timeout=o.timeout,
            http_client=BoundedClient(self._without_key),
        )

    def _error(self, message: str, reason: str) -> ScorerError:
        return ScorerError(self._without_key(message), reason, final=reason in _FINAL)

    def _malformed(self, message: str) -> MalformedAnswerError:
        return MalformedAnswerError(self._short(message), "protocol")

    def _short(self, text: str) -> str:
        """A foreign message without the key, on one line, of bearable length."""
        return self._without_key(" ".join(text[:_LONGEST_ERROR].split()))[:300]

    def _without_key(self, text: str) -> str:
        return redacted(text, [self.options.key])


def _size(content: Any) -> int:
    """Of a message in bytes, or as good as."""
    if isinstance(content, str):
        return len(content.encode())
    return sum(len(part["text"].encode()) if part["type"] == "text" else _IMAGE_BYTES for part in content)


class _AskedWronglyError(Exception):
    """The service does not take what it was asked with, but may take another way of asking."""

    def __init__(self, dialect: Dialect) -> None:
        super().__init__()
        self.dialect = dialect


class _PassingError(Exception):
    """Something that may be over when the request is repeated."""

    def __init__(
        self, message: str, reason: str, error: Any = None, remedy: str = "Try later, or raise retries or timeout."
    ) -> None:
        super().__init__(message)
        self.reason, self.remedy = reason, remedy
        self.retry_after: float | None = None
        if error is not None:
            try:
                seconds = float(error.response.headers.get("retry-after", ""))
                self.retry_after = seconds if 0 <= seconds < float("inf") else None
            except ValueError:  # a date, or nonsense
                self.retry_after = None
