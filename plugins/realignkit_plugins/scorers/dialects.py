"""How a chat service wants to be asked: what its refusals say about it, and what to tell the user about the others."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from .answers import AnswerForm
from .templates import Messages

FORMS = ("json_schema", "json_object", "plain_json_object", "none")
"""Kinds of ``response_format``, the strictest first."""
LENGTHS = ("max_tokens", "max_completion_tokens")

_NO = (
    r"unsupported|not (?:\w+ )?(?:supported|permitted|allowed|available|enabled|recognized|accepted|implemented)"
    r"|n[o']t support|unrecognized|unknown|unexpected|unavailable|extra inputs|forbidden|invalid|no longer|deprecated"
)
_ABOUT = {
    "length": (r"\bmax_(?:completion_)?tokens\b", rf"{_NO}|\buse\b"),
    "system": (
        r"\b(?:system|developer)\b[\s'\"]*(?:role|message|prompt|instruction)|messages\W+0\W+role|\broles?\b",
        rf"{_NO}|must alternate|should be|must be|\bonly\b",
    ),
    "temperature": (r"\btemperature\b", rf"{_NO}|\bonly\b|must be|should be|has to be|strictly"),
    "form": (
        r"response[_ ]format|json[_ ](?:schema|object|mode)|\bgrammar|structured[_ ]outputs?|guided",
        rf"{_NO}|must be|should be|\bonly\b|fail",
    ),
}
"""A name that a refusal gives, and what it says about it, close by; a value that is too large is no such refusal."""

_TOO_LONG = re.compile(
    r"context[_ ](?:length|window|size)|context_length_exceeded|(?:prompt|input|request)\b.{0,30}\btoo (?:long|large)"
    r"|too many (?:input )?tokens|tokens?'?s? (?:is|are) too (?:large|many)|maximum (?:allowed )?(?:number of )?tokens"
    r"|exceeds? the (?:available |maximum )?context"
    r"|\bmax_(?:completion_)?tokens\b.{0,60}(?:at most|less than|no more than|maximum|between|exceed|<)",
    re.IGNORECASE,
)
_KEY = re.compile(r"api[\s_-]?key|unauthori[sz]ed|authentication", re.IGNORECASE)
_MODEL = re.compile(
    r"model_not_found|(?:unknown|invalid|no such|unsupported) model|invalid model name"
    r"|\bmodel\b.{0,80}(?:not found|not exist|not available|not loaded|no longer|deprecated)",
    re.IGNORECASE,
)
_CREDIT = re.compile(r"insufficient_quota|billing|\bcredits?\b|payment required", re.IGNORECASE)
_FILTER = re.compile(r"content[_ ](?:filter|policy|management)|safety system|moderation", re.IGNORECASE)


@dataclass(frozen=True)
class Dialect:
    """The ways of asking that are left to try, the preferred one first in each field.

    Attributes:
        length: the parameter that bounds the answer's length.
        system: the role of the instructions; "user": they stand before the question.
        temperature: None: not sent.
        form: some of :data:`FORMS`.
    """

    length: tuple[str, ...]
    system: tuple[str, ...]
    temperature: tuple[float | None, ...]
    form: tuple[str, ...]

    def request(self, messages: Messages, max_tokens: int, form: AnswerForm | None = None) -> dict[str, Any]:
        """The parameters of a request, the model's name excepted; ``form``: of its answer, None for plain words."""
        asked: dict[str, Any] = {"messages": self._messages(messages), self.length[0]: max_tokens}
        if self.temperature[0] is not None:
            asked["temperature"] = self.temperature[0]
        if form is not None and self.form[0] != "none":
            asked["response_format"] = self._format(form)
        return asked

    def _format(self, form: AnswerForm) -> dict[str, Any]:
        if self.form[0] == "json_schema":
            schema = {"name": form.name, "schema": form.schema, "strict": True}
            return {"type": "json_schema", "json_schema": schema}
        if self.form[0] == "json_object":
            # The schema beside the type is an extension of llama.cpp's server; others ignore or refuse it.
            return {"type": "json_object", "schema": form.schema}
        return {"type": "json_object"}

    def _messages(self, messages: Messages) -> Messages:
        if self.system[0] == "system" or messages[0]["role"] != "system":
            return messages
        first, second, *rest = messages
        question = second["content"]
        if isinstance(question, str):
            question = f"{first['content']}\n\n{question}"
        else:
            question = [{"type": "text", "text": first["content"]}, *question]
        return [{"role": "user", "content": question}, *rest]

    def after(self, refusal: str) -> Dialect | None:
        """The next way to ask, where a refusal is about this one; None where it is about something else."""
        if _TOO_LONG.search(refusal) or _MODEL.search(refusal):
            return None
        for field in fields(self):
            left = getattr(self, field.name)
            if len(left) > 1 and _is_about(refusal, *_ABOUT[field.name]):
                return replace(self, **{field.name: left[1:]})
        return None


def _is_about(refusal: str, name: str, verdict: str) -> bool:
    near = r"[^{}]{0,120}?"
    pattern = rf"(?:{name}){near}(?:{verdict})|(?:{verdict}){near}(?:{name})"
    return re.search(pattern, refusal, re.IGNORECASE | re.DOTALL) is not None


def advice(status: int, refusal: str, names: Mapping[str, str]) -> tuple[str, str]:
    """What to do about a refusal that no other way of asking helps against, and the kind of failure in a word or two.

    Args:
        status: of HTTP.
        refusal: what the service said.
        names: ``model``, ``base_url`` and ``variable`` (where the key comes from), for the sentence.
    """
    if status == 413 or _TOO_LONG.search(refusal):
        return "Lower max_output_tokens, or take a model or a server setting with a longer context.", "too long"
    if status == 402 or _CREDIT.search(refusal):
        return "The account has no credit left: add some.", "refused"
    if status == 401 or (status in (400, 403) and _KEY.search(refusal)):
        return f"Check the key in {names['variable']}.", "refused"
    if status == 403:
        return "Check the key and what it may use.", "refused"
    if status == 404 or _MODEL.search(refusal):
        return f"Check model='{names['model']}' and base_url='{names['base_url']}' (it often ends in /v1).", "refused"
    if 300 <= status < 400:
        return "It sends to another address: if you trust that one, give it as base_url.", "refused"
    if _FILTER.search(refusal):
        return "Its filter does not let this prompt through: use another scorer for it.", "declined"
    return (
        "If it is about how it was asked, say what the service takes: structured, length_parameter, system_role or "
        "temperature.",
        "refused",
    )
