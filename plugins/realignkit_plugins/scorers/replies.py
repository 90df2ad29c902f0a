"""From a chat service's reply to the text of the answer, in whichever of its fields that is."""

from __future__ import annotations

import json
from typing import Any

from realignkit.errors import ScorerError

from .wrappings import MalformedAnswerError, brief

_CUT_OFF = frozenset(("length", "max_tokens", "model_length", "max_output_tokens"))
_WITHHELD = frozenset(("content_filter", "safety", "recitation", "blocklist", "prohibited_content", "guardrails"))


def answer_text(completion: Any, max_tokens: int) -> str:
    """The text of a chat completion: its content, or the arguments of its calls, or an answer given as a thought.

    The library builds its objects without validation, so every step of the way may be anything.

    Raises:
        MalformedAnswerError: there is none, or the model declined.
        ScorerError: it was cut off after ``max_tokens`` or less.
    """
    choices = getattr(completion, "choices", None)
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = getattr(choice, "message", None)
    if message is None:
        raise MalformedAnswerError(f"the reply is {_what_it_is(completion)}, no chat completion", "protocol")
    reason = str(getattr(choice, "finish_reason", None) or "").lower()
    if reason in _CUT_OFF:
        raise ScorerError(
            f"the answer was cut off at {_length(completion, max_tokens)} tokens. Raise max_output_tokens, or the "
            f"server's context if that is what is full.",
            "truncated",
            final=True,
        )
    content, refusal = _parts(getattr(message, "content", None))
    refusal = getattr(message, "refusal", None) or refusal
    if refusal or reason in _WITHHELD:
        said = brief(refusal) if isinstance(refusal, str) else reason
        raise MalformedAnswerError(f"the model declined to answer ({said})", "declined")
    texts = [content, *_calls(message)]
    if not any(text.strip() for text in texts):
        texts = [_last_thought(message)]
    text = "\n".join(filter(None, texts))
    if not text and getattr(message, "content", None) != "":
        raise MalformedAnswerError("the reply is a chat completion without a text", "protocol")
    return text


def _what_it_is(completion: Any) -> str:
    if not isinstance(completion, str):
        return "something else"
    start = completion.lstrip()[:20].lower()
    if start.startswith("<"):
        return "a web page (check base_url, which often ends in /v1)"
    return (
        "a stream of events, which was not asked for" if start.startswith(("data:", "event:", ":")) else "a bare text"
    )


def _length(completion: Any, max_tokens: int) -> int:
    used = getattr(getattr(completion, "usage", None), "completion_tokens", None)
    return used if type(used) is int and 0 < used < max_tokens else max_tokens


def _parts(content: Any) -> tuple[str, Any]:
    """Content that is a text, or a list of parts of which some are texts; and the part that is a refusal."""
    if isinstance(content, str):
        return content, None
    parts = [part for part in content if isinstance(part, dict)] if isinstance(content, list) else []
    texts = [part.get("text") for part in parts if part.get("type") in ("text", "output_text", None)]
    refusals = [part.get("refusal") for part in parts if part.get("type") == "refusal"]
    return "".join(text for text in texts if isinstance(text, str)), next(filter(None, refusals), None)


def _calls(message: Any) -> list[str]:
    """The arguments of the functions that the model calls to give its answer."""
    calls = getattr(message, "tool_calls", None)
    functions = [getattr(call, "function", None) for call in calls] if isinstance(calls, list) else []
    answers = []
    for function in (*functions, getattr(message, "function_call", None)):
        arguments = getattr(function, "arguments", None)
        if isinstance(arguments, dict | list):
            arguments = json.dumps(arguments)
        if isinstance(arguments, str):
            answers.append(arguments)
    return answers


def _last_thought(message: Any) -> str:
    """What a server took for a thought, where the answer ends it: some put a whole answer there."""
    for name in ("reasoning_content", "reasoning"):
        thought = getattr(message, name, None)
        if isinstance(thought, str) and thought.rstrip(" \n\t`").endswith(("}", "]")):
            return thought
    return ""
