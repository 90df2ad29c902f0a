"""Where an answer stands in a reply, and replies that hold none."""

from __future__ import annotations

import json

import pytest

from tests.plugins.scorers.endpoint import (
    PROMPT,
    RIGHT,
    TAGS,
    Reply,
    completion,
    failure,
    right_answer,
    script,
    serving,
)


def message(finish_reason="stop", **fields):
    choice = {"index": 0, "finish_reason": finish_reason, "message": {"role": "assistant", "content": None, **fields}}
    return Reply(completion(None, choices=[choice]))


CALL = {"id": "1", "type": "function", "function": {"name": "objects", "arguments": right_answer()}}


@pytest.mark.parametrize(
    "reply",
    [
        message(content=[{"type": "text", "text": right_answer()}]),
        message(
            content=[{"type": "thinking", "thinking": [{"type": "text", "text": "{"}]}]
            + [{"type": "text", "text": part} for part in (right_answer()[:40], right_answer()[40:])]
        ),
        message("tool_calls", tool_calls=[CALL]),
        message("tool_calls", content="I call it.", tool_calls=[CALL]),
        message("tool_calls", tool_calls=[{**CALL, "function": {"arguments": json.loads(right_answer())}}]),
        message("function_call", function_call=CALL["function"]),
        message(content="", reasoning_content=right_answer()),
        message(reasoning_content=f"The book is red.\n```json\n{right_answer()}\n```"),
        message(reasoning=right_answer()),
        message(content=right_answer(), reasoning_content="Is it {"),
    ],
)
def test_an_answer_in_another_field(scorer, reply):
    with serving(script(reply)) as service:
        assert scorer(service, attempts=1)(PROMPT, TAGS) == RIGHT


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (message(refusal="I would rather not"), "declined to answer (I would rather not)"),
        (message(content=[{"type": "refusal", "refusal": "never"}]), "declined to answer (never)"),
        (message("content_filter", content=right_answer()), "declined to answer (content_filter)"),
        (message(reasoning_content=f"Perhaps {right_answer()}, or not"), "without a text"),
        (message(content="the same", tool_calls=[CALL, CALL, {"function": {"arguments": "{}"}}]), "not of the form"),
        (Reply(b"<html>log in</html>", kind="text/html"), "a web page (check base_url"),
        (Reply(b"data: {}\n\n", kind="text/event-stream"), "a stream of events"),
    ],
)
def test_what_is_none_is_said(scorer, reply, words):
    with serving(script(reply)) as service:
        assert words in str(failure(scorer(service)))


def test_an_answer_that_was_cut_off_is_not_asked_for_again(scorer):
    usage = {"prompt_tokens": 9, "completion_tokens": 300, "total_tokens": 309}
    for reply, length in (
        (Reply(completion(right_answer(), "length", usage=usage)), 300),
        (Reply(completion(None, "length", usage=None)), 512),
    ):
        with serving(script(reply)) as service:
            problem = failure(scorer(service, max_output_tokens=512, attempts=3))
        assert len(service.requests) == 1
        assert f"cut off at {length} tokens. Raise max_output_tokens" in str(problem)
        assert (problem.reason, problem.final) == ("truncated", True)
