"""Questions about a prompt that a language model writes: asked for, validated and kept as scorers' answers are."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from realignkit.errors import OptionError
from realignkit_plugins.metrics.tifa_questions import ELEMENT_TYPES, Question
from realignkit_plugins.scorers import templates
from realignkit_plugins.scorers.answers import AnswerForm
from realignkit_plugins.scorers.language_model import LanguageModelScorer, Task
from realignkit_plugins.scorers.wrappings import MalformedAnswerError, brief, only_object

VERSION = "v1"
MOST = 60
"""Questions of one prompt; a longer answer is cut there."""
_LONGEST = 200  # characters of a question or a choice
_FIELDS = ("element", "element_type", "question", "answer")
_TEXT = {"type": "string"}
FORM = AnswerForm(
    "questions",
    {
        "type": "object",
        "properties": {
            "questions": {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {
                        "element": _TEXT,
                        "element_type": {"type": "string", "enum": list(ELEMENT_TYPES)},
                        "question": _TEXT,
                        "choices": {"type": "array", "items": _TEXT},
                        "answer": _TEXT,
                    },
                    "required": ["element", "element_type", "question", "choices", "answer"],
                    "additionalProperties": False,
                },
            }
        },
        "required": ["questions"],
        "additionalProperties": False,
    },
)
"""The form of an answer."""


def write_questions(model: Any, prompt: str) -> list[Question]:
    """What a language model asks about the images of a prompt; a prompt that was asked about before costs nothing.

    Args:
        model: a scorer that is a language model (``gpt4``, ``openai_chat``, ``llama_cpp`` …).
        prompt: the text.

    Raises:
        OptionError: it is no language model.
        ScorerError: no usable answer, or it cannot be asked.
    """
    if not isinstance(model, LanguageModelScorer):
        raise OptionError(
            f"{type(model).__name__} writes no questions: give a scorer that is a language model, such as gpt4, "
            f"openai_chat or llama_cpp, as language_model."
        )
    messages = [
        {"role": "system", "content": templates.template("tifa", VERSION, "system").template},
        {
            "role": "user",
            "content": templates.template("tifa", VERSION, "user").substitute(prompt=templates.quoted(prompt)),
        },
    ]
    task = Task(messages, FORM, lambda answer: read_written(answer, prompt), _written, _repair)
    return model.ask(task)


def read_written(text: str, prompt: str) -> list[Question]:
    """The questions of an answer, each once, in order.

    Raises:
        MalformedAnswerError: it is no JSON of the right form, or a question's answer is none of its choices.
    """
    entries = _entries(text)
    found = {question.question: question for question in (_question(entry, prompt) for entry in entries)}
    if not found:
        raise MalformedAnswerError("it has no questions", "form")
    return list(found.values())[:MOST]


def _entries(text: str) -> list[Any]:
    entries = only_object(text).get("questions")
    if not isinstance(entries, list):
        raise MalformedAnswerError('it is not of the form {"questions": [{"question": …}]}', "form")
    return entries


def _question(entry: Any, prompt: str) -> Question:
    texts = {name: _text(entry, name) for name in _FIELDS}
    choices = entry.get("choices")
    if not isinstance(choices, list) or not all(isinstance(choice, str) and _fits(choice) for choice in choices):
        raise MalformedAnswerError(f"'{brief(texts['question'])}' has no list of choices in words", "form")
    kept = tuple(choice.strip() for choice in choices)
    if len(kept) < 2 or len(set(kept)) < len(kept):
        raise MalformedAnswerError(f"'{brief(texts['question'])}' has no two different choices", "form")
    if texts["answer"] not in kept:
        raise MalformedAnswerError(f"the answer to '{brief(texts['question'])}' is none of its choices", "form")
    # TIFA's own models say human and animal apart.
    merged = {"animal": "animal/human", "human": "animal/human"}
    element_type = merged.get(texts["element_type"].lower(), texts["element_type"].lower())
    if element_type not in ELEMENT_TYPES:
        raise MalformedAnswerError(f"'{brief(texts['element_type'])}' is no type of element", "form")
    return Question(texts["question"], kept, texts["answer"], element_type, texts["element"], prompt, prompt)


def _text(entry: Any, name: str) -> str:
    value = entry.get(name) if isinstance(entry, dict) else None
    if not isinstance(value, str) or not _fits(value):
        raise MalformedAnswerError(f'a question has no short text for "{name}"', "form")
    return " ".join(value.split())


def _fits(text: str) -> bool:
    return bool(text.strip()) and len(text) <= _LONGEST and " ".join(text.split()).isprintable()


def _written(questions: list[Question]) -> str:
    names = ("element", "element_type", "question", "choices", "answer")
    return json.dumps({"questions": [{name: asdict(question)[name] for name in names} for question in questions]})


def _repair(answer: str, problem: str) -> templates.Messages:
    return templates.repair(answer, problem, VERSION, "tifa")
