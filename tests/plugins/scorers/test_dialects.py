"""How a service wants to be asked: learnt once from its refusals, or said up front."""

from __future__ import annotations

import json
import re

import pytest

from realignkit import calls
from realignkit.named import chain
from realignkit_plugins.scorers.lexical import LexicalScorer
from tests.plugins.scorers.endpoint import (
    PROMPT,
    RIGHT,
    TAGS,
    Reply,
    failure,
    right_answer,
    say,
    script,
    serving,
)


def refused(text, status=400):
    return Reply(json.dumps({"error": {"message": text, "type": "invalid_request_error"}}).encode(), status)


def format_of(request):
    return request.get("response_format", {}).get("type")


def without_schema(request):
    if format_of(request) == "json_schema" or "schema" in str(request.get("response_format")):
        return "response_format: that is not supported"
    return None


def only_text(request):
    known = format_of(request) in (None, "text")
    return None if known else "'response_format.type' must be 'text'"


def only_new_length(request):
    if "max_tokens" in request:
        return (
            "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
        )
    return None


def only_old_length(request):
    # As pydantic says it, in vLLM and Mistral's service.
    forbidden = {"type": "extra_forbidden", "loc": ["body", "max_completion_tokens"], "input": 1024}
    found = [{**forbidden, "msg": "Extra inputs are not permitted"}]
    return json.dumps(found) if "max_completion_tokens" in request else None


def no_system(request):
    return "System role not supported" if request["messages"][0]["role"] == "system" else None


def alternating(request):
    roles = [message["role"] for message in request["messages"]]
    right = roles == (["user", "assistant"] * 9)[: len(roles)]
    return None if right else "Conversation roles must alternate user/assistant/user/assistant/..."


def only_default_temperature(request):
    if "temperature" in request:
        return "Unsupported value: 'temperature' does not support 0.0 with this model. Only the default (1) value is."
    return None


def positive_temperature(request):
    return "`temperature` must be strictly positive" if request.get("temperature") == 0 else None


def deprecated_temperature(request):
    return "`temperature` is deprecated for this model." if "temperature" in request else None


def two_roles(request):
    known = all(message["role"] in ("user", "assistant") for message in request["messages"])
    return None if known else "messages.0.role: Input should be 'user' or 'assistant'"


PICKY = [
    deprecated_temperature,
    two_roles,
    without_schema,
    only_text,
    only_new_length,
    no_system,
    alternating,
    only_default_temperature,
    positive_temperature,
]


def picky(*rules):
    def answer(request, number):
        return next((refused(text) for rule in rules if (text := rule(request))), say(right_answer()))

    return answer


@pytest.mark.parametrize("rule", PICKY, ids=lambda rule: rule.__name__)
def test_a_refusal_is_learnt_from_once(scorer, rule):
    with serving(picky(rule)) as service:
        chat = scorer(service, cache=False)
        assert chat(PROMPT, TAGS) == RIGHT
        first = len(service.requests)
        assert chat(PROMPT, TAGS) == RIGHT
    assert first in (2, 3, 4)
    assert len(service.requests) == first + 1
    assert asked_prompt_anywhere(service.requests[-1][0]) == PROMPT


def asked_prompt_anywhere(request):
    texts = [message["content"] for message in request["messages"]]
    assert any("You check a picture" in text for text in texts), "the instructions are lost"
    found = re.search(r'^Description: (".*")$', "\n".join(texts), re.MULTILINE)
    return json.loads(found[1])


@pytest.mark.parametrize("status", [400, 422, 500])
def test_the_strictest_form_that_the_service_takes_is_found(scorer, status):
    def answer(request, number):
        text = without_schema(request)
        return refused(text, status) if text else say(right_answer())

    with serving(answer) as service:
        chat = scorer(service, cache=False)
        assert chat(PROMPT, TAGS) == chat(PROMPT, TAGS) == RIGHT
    assert [format_of(request) for request, _ in service.requests] == ["json_schema"] + ["json_object"] * 3


def test_all_at_once_from_many_threads(scorer):
    rules = picky(without_schema, only_new_length, no_system, only_default_temperature)
    with serving(rules) as service:
        chat = scorer(service, cache=False, concurrency=8, timeout=60)
        found = calls.answers(chain([("chat", chat), ("lexical", LexicalScorer())]), [(PROMPT, TAGS)] * 16)
    assert [one.scorer for one in found] == ["chat"] * 16
    assert all(one.captions == RIGHT for one in found)


def test_what_users_say_up_front_is_not_tried_out(scorer):
    said = {"length_parameter": "max_completion_tokens", "system_role": "user", "temperature": None}
    with serving(picky(only_text, only_new_length, no_system, only_default_temperature)) as service:
        assert scorer(service, structured="none", **said)(PROMPT, TAGS) == RIGHT
    assert len(service.requests) == 1
    with serving(picky(only_new_length)) as service:
        problem = failure(scorer(service, length_parameter="max_tokens"))
    assert len(service.requests) == 1
    assert "max_completion_tokens" in str(problem)
    with serving(picky(only_default_temperature)) as service:
        assert "temperature" in str(failure(scorer(service, temperature=0.7)))
    with serving(picky(only_old_length)) as service:
        assert scorer(service)(PROMPT, TAGS) == RIGHT


def test_the_repair_keeps_to_what_was_learnt(scorer):
    def answer(request, number):
        return refused(text) if (text := alternating(request)) else say("sorry" if number < 2 else right_answer())

    with serving(answer) as service:
        assert scorer(service)(PROMPT, TAGS) == RIGHT
    assert [m["role"] for m in service.requests[-1][0]["messages"]] == ["user", "assistant", "user"]


@pytest.mark.parametrize(
    ("status", "text", "remedy", "reason"),
    [
        (
            400,
            "This model's maximum context length is 512 tokens. However, you requested 1600 tokens (576 in the "
            "messages, 1024 in the completion).",
            "Lower max_output_tokens",
            "too long",
        ),
        (
            400,
            "'max_tokens' or 'max_completion_tokens' is too large: 1024. This model's maximum context length is 512.",
            "Lower max_output_tokens",
            "too long",
        ),
        (400, "the request exceeds the available context size (512 tokens)", "Lower max_output_tokens", "too long"),
        (413, "Payload Too Large", "Lower max_output_tokens", "too long"),
        (400, "invalid model name passed in model=gpt-x", "Check model='gpt-x'", "refused"),
        (404, "model 'gpt-x' not found, try pulling it first", "Check model='gpt-x'", "refused"),
        (400, "API key not valid. Please pass a valid API key.", "Check the key in", "refused"),
        (402, "Payment required", "no credit", "refused"),
        (429, "You exceeded your current quota (insufficient_quota)", "no credit", "refused"),
        (400, "The response was filtered due to the content_filter policy", "use another scorer", "declined"),
        (400, "Bad Request", "structured, length_parameter, system_role", "refused"),
        (400, "max_tokens must be at most 256", "Lower max_output_tokens", "too long"),
        (
            400,
            "Invalid value for 'max_tokens': must be less than or equal to 512",
            "Lower max_output_tokens",
            "too long",
        ),
        (400, "field required: {'loc': ['body', 'prompt'], 'input': {'response_format': 1}}", "say what", "refused"),
        (307, "", "give it as base_url", "refused"),
    ],
)
def test_other_refusals_are_not_tried_in_other_shapes(scorer, status, text, remedy, reason):
    with serving(script(refused(text, status))) as service:
        problem = failure(scorer(service, model="gpt-x"))
    assert len(service.requests) == 1
    assert remedy in str(problem)
    assert problem.reason == reason
