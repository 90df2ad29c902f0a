"""TIFA (Hu et al., 2023): the share of questions about a prompt that its image answers right."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from functools import cached_property
from statistics import fmean
from typing import TYPE_CHECKING, Any

from pydantic import Field

from realignkit.errors import OptionError
from realignkit.machine import say_once
from realignkit.named import Named
from realignkit.questions import answers
from realignkit.records import checksum
from realignkit.registry import default_registry
from realignkit.resolve import make
from realignkit.tables import one_line
from realignkit_plugins.datafiles import DataFile
from realignkit_plugins.metrics.choices import ENCODER, SentenceEncoder, nearest_by_words
from realignkit_plugins.metrics.english_questions import questions_about
from realignkit_plugins.metrics.questioning import QuestionMetric, Record, check_pairs
from realignkit_plugins.metrics.tifa_questions import Question, by_caption, read_questions
from realignkit_plugins.metrics.tifa_scores import TIFAScores, choose, question_score, tifa_scores
from realignkit_plugins.metrics.written_questions import write_questions

if TYPE_CHECKING:
    from pathlib import Path

    from PIL.Image import Image

RULES, WRITTEN = "rules", "language_model"
PUBLISHED = DataFile(
    "tifa_v1.0_question_answers.json",
    "TIFA's file of questions",
    "https://github.com/Yushi-Hu/tifa/tree/main/tifa_v1.0",
    option="questions",
)


class TIFA(QuestionMetric):
    """``tifa``: the share of an image's questions that are answered right, and ``tifa/…`` by type of element.

    Over a set, ``tifa`` is the mean over prompts of the mean over their questions, and a type's share is pooled over
    prompts, as in the original. A free answer counts as the choice that it is to the letter, else as the nearest one
    by a sentence encoder; without an encoder as the choice with most words in common, or none.
    """

    class Options(QuestionMetric.Options):
        """Options of :class:`TIFA`."""

        questions: str = Field(
            RULES,
            min_length=1,
            description="rules: made from the prompt's noun phrases; language_model: written by one; or a file in "
            "TIFA's form, such as tifa_v1.0_question_answers.json (path, or in REALIGNKIT_DATA)",
        )
        language_model: str = Field(
            "gpt4", min_length=1, description="language_model: who writes, a scorer such as gpt4 or llama_cpp"
        )
        language_model_options: dict[str, Any] = Field({}, description="its options")
        encoder: str | None = Field(
            ENCODER, description="sentence encoder that finds the nearest choice; None: by words in common"
        )
        encoder_device: str = Field("auto", description="where the encoder works")

    options: TIFA.Options

    def questions_of(self, prompt: str) -> list[Question]:
        """What is asked about the images of a prompt; empty where nothing can be.

        Raises:
            OptionError: the file of questions cannot be read, or who should write them is no language model.
            ScorerError: the language model gives no usable answer, or cannot be asked.
        """
        if self.options.questions == RULES:
            return questions_about(prompt)
        if self.options.questions == WRITTEN:
            return write_questions(self._writer.plugin, prompt) if prompt.strip() else []
        return self._from_file.get(one_line(prompt), [])

    def can_judge(self, prompt: str) -> bool:
        """Whether there are questions about a prompt."""
        return bool(self.questions_of(prompt))

    def judge_each(self, images: Sequence[Image], prompts: Sequence[str]) -> list[dict[str, Any]]:
        """``tifa`` and ``tifa/<type>`` of each image (RGB), and its questions under ``details``.

        Raises:
            OptionError: not as many prompts as images, or there are no questions about one.
            PluginError: the question answerer failed.
        """
        check_pairs(images, prompts)
        asked = [self.questions_of(prompt) for prompt in prompts]
        for prompt, questions in zip(prompts, asked, strict=True):
            if not questions:
                raise OptionError(f"there are no questions about '{prompt}'. Leave it out, or give a file with some.")
        pairs = [(image, each) for image, questions in zip(images, asked, strict=True) for each in questions]
        said = answers(
            self.answerer,
            [image for image, _ in pairs],
            [question.question for _, question in pairs],
            [question.choices for _, question in pairs],
        )
        details = iter([self._detail(question, answer) for (_, question), answer in zip(pairs, said, strict=True)])
        return [_values([next(details) for _ in questions]) for questions in asked]

    def summarise(self, records: Sequence[Record]) -> dict[str, float]:
        """``tifa`` and ``tifa/<type>`` over a set."""
        scores = scores_of(records)
        return {"tifa": scores.average, **{f"tifa/{name}": value for name, value in scores.by_type.items()}}

    def compute(self) -> dict[str, float]:
        """As of the set, with ``tifa_stdev`` over prompts where there are several, and ``n``."""
        values = super().compute()
        deviation = scores_of(self.seen).deviation
        return values if deviation is None else {**values, "tifa_stdev": deviation}

    def identity(self) -> dict[str, Any]:
        """Who answers which questions, and how the nearest choice is found."""
        questions: Any = self.options.questions
        if questions == WRITTEN:
            questions = json.dumps(dict(self._writer.plugin.identity()), sort_keys=True)
        elif questions != RULES:
            questions = checksum(self._file)
        return {**super().identity(), "questions": questions, "encoder": self.options.encoder or "words"}

    def out_of_reach(self) -> str:
        """What the question answerer or the encoder cannot get, see :class:`realignkit.contracts.Plugin`."""
        encoder = getattr(self._nearest, "out_of_reach", str)
        return super().out_of_reach() or self._no_questions() or str(encoder())

    def _no_questions(self) -> str:
        """Why there are none, where they are asked of somebody or read."""
        if self.options.questions == WRITTEN:
            return str(getattr(self._writer.plugin, "check", str)() or "")
        return "" if self.options.questions == RULES else PUBLISHED.missing_named(self.options.questions)

    @cached_property
    def _writer(self) -> Named:
        registry = default_registry()
        (named,) = make([registry.info("scorer", self.options.language_model)], self.options.language_model_options)
        return named

    @cached_property
    def _file(self) -> Path:
        return PUBLISHED.find_named(self.options.questions)

    @cached_property
    def _from_file(self) -> dict[str, list[Question]]:
        questions = read_questions(self._file)
        if unanswerable := [each for each in questions if each.answer not in each.choices]:
            first = unanswerable[0]
            say_once(
                f"{len(unanswerable)} of {len(questions)} questions of '{self._file}' have an answer that is none of "
                f"their choices, such as '{first.question}' ('{first.answer}'): they count as answered wrong, "
                f"whatever is said, as they do by TIFA's own code"
            )
        return by_caption(questions)

    @cached_property
    def _nearest(self) -> Any:
        chosen = self.options
        if chosen.encoder is None:
            return nearest_by_words
        return SentenceEncoder(model=chosen.encoder, device=chosen.encoder_device)

    def _detail(self, question: Question, said: str) -> dict[str, Any]:
        choice = choose(said, question.choices, self._nearest)
        return {
            "question": question.question,
            "type": question.element_type,
            "answer": question.answer,
            "said": said,
            "choice": choice,
            "right": question_score(choice, question.answer),
        }


def scores_of(records: Sequence[Record]) -> TIFAScores:
    """The scores of records of images with their questions under ``details``, by prompt."""
    return tifa_scores([(r["prompt"], d["type"], d["right"]) for r in records for d in r.get("details", ())])


def _values(details: Sequence[dict[str, Any]]) -> dict[str, Any]:
    types: dict[str, list[int]] = defaultdict(list)
    for detail in details:
        types[detail["type"]].append(detail["right"])
    by_type = {f"tifa/{name}": fmean(right) for name, right in types.items()}
    return {"tifa": fmean(detail["right"] for detail in details), **by_type, "details": list(details)}
