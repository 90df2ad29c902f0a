"""Questions about a text with the right answers, as TIFA's files have them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from realignkit.errors import OptionError
from realignkit.tables import one_line

YES_NO = ("yes", "no")
ELEMENT_TYPES = (
    *("object", "animal/human", "food", "activity", "attribute", "counting", "color", "material", "spatial"),
    *("location", "shape", "other"),
)
"""Those of TIFA v1.0."""
_TEXTS = ("id", "caption", "question", "answer", "element_type")


@dataclass(frozen=True)
class Question:
    """A question that an image of a caption should be answered with.

    Attributes:
        question: in words.
        choices: the answers to choose from.
        answer: the right one.
        element_type: what it asks for, one of :data:`ELEMENT_TYPES` in TIFA's own file.
        element: the word of the caption that it is about.
        id: the caption's.
        caption: the text.
    """

    question: str
    choices: tuple[str, ...]
    answer: str
    element_type: str
    element: str = ""
    id: str = ""
    caption: str = ""


def read_questions(path: Path) -> list[Question]:
    """The questions of a file of TIFA's form: a JSON list of id, caption, question, choices, answer, element_type.

    Raises:
        OptionError: it cannot be read, or an entry lacks something.
    """
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise OptionError(f"'{path}' is no file of questions: {error}. Give one in TIFA's form (JSON).") from None
    if not isinstance(entries, list) or not entries:
        raise OptionError(f"'{path}' holds no list of questions. Give one in TIFA's form (JSON).")
    return [_question(entry, f"entry {number} of '{path}'") for number, entry in enumerate(entries, start=1)]


def _question(entry: Any, where: str) -> Question:
    if not isinstance(entry, dict):
        raise OptionError(f"{where} is no question. Give a file in TIFA's form.")
    for name in _TEXTS:
        if not isinstance(entry.get(name), str):
            raise OptionError(f"{where} has no text for '{name}'. Give a file in TIFA's form.")
    choices = entry.get("choices")
    if not isinstance(choices, list) or not choices or not all(isinstance(choice, str) for choice in choices):
        raise OptionError(f"{where} has no list of 'choices'. Give a file in TIFA's form.")
    return Question(choices=tuple(choices), element=str(entry.get("element", "")), **{n: entry[n] for n in _TEXTS})


def by_caption(questions: Sequence[Question]) -> dict[str, list[Question]]:
    """Caption in one line, as prompts are -> its questions in order; those of the first id where it has several."""
    found: dict[str, list[Question]] = {}
    for question in questions:
        of_caption = found.setdefault(one_line(question.caption), [])
        if not of_caption or of_caption[0].id == question.id:
            of_caption.append(question)
    return found
