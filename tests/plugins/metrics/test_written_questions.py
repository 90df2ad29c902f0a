"""Questions that a language model writes, behind the real client, on loopback."""

from __future__ import annotations

import json

import pytest

from realignkit import OptionError, ScorerError
from realignkit.evaluation.judging import Inquiry
from realignkit.named import Named
from realignkit_plugins.metrics.tifa import TIFA
from realignkit_plugins.metrics.written_questions import read_written, write_questions
from realignkit_plugins.scorers.lexical import LexicalScorer
from realignkit_plugins.scorers.openai_chat import OpenAIChatScorer
from realignkit_plugins.scorers.wrappings import MalformedAnswerError
from tests.plugins.scorers.endpoint import asked_prompt, say, script, serving

PROMPT = "two red birds"
GOOD = [
    {
        "element": "birds",
        "element_type": "animal",
        "question": "are there birds?",
        "choices": ["yes", "no"],
        "answer": "yes",
    },
    {
        "element": "two",
        "element_type": "counting",
        "question": "how many birds are there?",
        "choices": ["1", "2", "3", "4"],
        "answer": "2",
    },
]


def answer(*changes, **more):
    return json.dumps({"questions": [{**GOOD[0], **change} for change in changes] or GOOD, **more})


@pytest.fixture
def options(tmp_path):
    return lambda service: {"base_url": service.url, "backoff": 0.0, "cache_dir": str(tmp_path / "cache")}


def test_they_are_asked_for_under_a_schema_and_kept(options):
    with serving(script(say(answer()))) as service:
        model = OpenAIChatScorer(**options(service))
        first, second = write_questions(model, PROMPT), write_questions(model, PROMPT)
    assert first == second
    assert [(q.question, q.answer, q.element_type, q.caption) for q in first] == [
        ("are there birds?", "yes", "animal/human", PROMPT),
        ("how many birds are there?", "2", "counting", PROMPT),
    ]
    ((request, _),) = service.requests
    assert request["response_format"]["json_schema"]["name"] == "questions"
    assert asked_prompt(request) == PROMPT


def test_a_bad_answer_is_shown_again_with_the_reason(options):
    with serving(script(say(answer({"answer": "perhaps"})), say(answer()))) as service:
        assert len(write_questions(OpenAIChatScorer(**options(service)), PROMPT)) == 2
    assert "is none of its choices" in service.requests[1][0]["messages"][-1]["content"]
    with serving(script(say("no"))) as service, pytest.raises(ScorerError, match="no usable answer"):
        write_questions(OpenAIChatScorer(**options(service)), "a cat")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[]", "not of the form"),
        ('{"questions": []}', "no questions"),
        ('{"questions": [1]}', 'no short text for "element"'),
        (answer({"choices": ["yes"]}), "no two different choices"),
        (answer({"choices": ["yes", "yes"]}), "no two different choices"),
        (answer({"choices": "yes"}), "no list of choices"),
        (answer({"element_type": "mood"}), "no type of element"),
        (answer({"question": "x" * 300}), 'no short text for "question"'),
        ('{"questions": [', "broken"),
    ],
)
def test_answers_that_cannot_be_used(text, problem):
    with pytest.raises(MalformedAnswerError, match=problem):
        read_written(text, PROMPT)


def test_thoughts_fences_and_repetitions_are_seen_through():
    text = f"<think>{{}}</think>```json\n{answer({}, {})}\n```"
    assert [question.question for question in read_written(text, PROMPT)] == ["are there birds?"]


def test_tifa_asks_what_was_written(options, scripted, dark):
    with serving(script(say(answer()))) as service:
        given = {"language_model": "openai_chat", "language_model_options": options(service)}
        metric = TIFA(vqa=scripted, questions="language_model", encoder=None, **given)
        (values,) = metric.judge_each([dark], [PROMPT])
    assert values["tifa/animal/human"] == 1
    assert values["tifa/counting"] == 0
    assert "gpt" in metric.identity()["questions"]


def test_who_is_no_language_model_is_refused():
    with pytest.raises(OptionError, match="LexicalScorer writes no questions"):
        write_questions(LexicalScorer(), PROMPT)


def test_a_prompt_that_it_writes_no_usable_questions_about_is_left_out(options, scripted):
    def reply(request, number):
        return say("no" if asked_prompt(request) == "a cat" else answer())

    with serving(reply) as service:
        metric = TIFA(
            vqa=scripted,
            encoder=None,
            questions="language_model",
            language_model="openai_chat",
            language_model_options=options(service),
        )
        inquiry = Inquiry(Named("metric", "tifa", metric))
        assert [inquiry.knows(prompt) for prompt in ("a cat", PROMPT, "a cat")] == [False, True, False]
    (text,) = inquiry.left_out
    assert text.startswith("metric 'tifa' leaves out 'a cat': ")
    assert "no usable answer in 2 attempt(s)" in text
