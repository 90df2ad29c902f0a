"""Soft-TIFA (GenEval 2): means of the probabilities of right answers to questions about each atom of a prompt."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, field_validator

from realignkit.errors import OptionError
from realignkit.questions import probabilities
from realignkit.records import checksum
from realignkit.tables import one_line
from realignkit_plugins.datafiles import DataFile
from realignkit_plugins.metrics.english_questions import questions_about
from realignkit_plugins.metrics.questioning import QuestionMetric, Record, check_pairs, mean_by_prompt, pooled
from realignkit_plugins.metrics.soft_tifa_scores import arithmetic_mean, geometric_mean
from realignkit_plugins.metrics.spellings import NUMBERS, spellings

if TYPE_CHECKING:
    from PIL.Image import Image

RULES = "rules"
TEMPLATE = "{} Answer in one word."
PUBLISHED = DataFile(
    "geneval2_data.jsonl", "GenEval 2's prompts", "https://github.com/facebookresearch/GenEval2", option="questions"
)
_SKILLS = {
    **dict.fromkeys(("object", "animal/human", "food", "location"), "object"),
    **dict.fromkeys(("color", "material", "attribute"), "attribute"),
    "counting": "count",
    "spatial": "position",
}


@dataclass(frozen=True)
class Atoms:
    """What is asked about the images of a prompt.

    Attributes:
        prompt: the text.
        count: how many atoms it has; a question about the number of what is there once is none.
        questions: each with the right answer.
        skills: of each question ("object", "attribute", "count", "position", "verb").
    """

    prompt: str
    count: int
    questions: tuple[tuple[str, str], ...]
    skills: tuple[str, ...]


class SoftTIFA(QuestionMetric):
    """``soft_tifa_am`` and ``soft_tifa_gm``: arithmetic and geometric mean of the probabilities of right answers.

    The first says how much of a prompt is there, the second whether all of it is. ``soft_tifa_am/<skill>`` is pooled
    over the questions of a skill, ``soft_tifa_gm/<n> atoms`` the mean over prompts of n atoms. The probability of an
    answer is the sum over spellings of that of each one's first token; spellings that begin alike count once.
    """

    class Options(QuestionMetric.Options):
        """Options of :class:`SoftTIFA`."""

        questions: str = Field(
            RULES,
            min_length=1,
            description="rules: made from the prompt's noun phrases; or a file in GenEval 2's form (JSON lines of "
            "prompt, atom_count, vqa_list, skills), by its path or in REALIGNKIT_DATA",
        )
        template: str = Field(TEMPLATE, description="what is asked; {} is the question")

        @field_validator("template")
        @classmethod
        def _has_a_place(cls, template: str) -> str:
            if template.count("{}") != 1:
                raise ValueError("must have {} once, where the question goes")
            return template

    options: SoftTIFA.Options

    def atoms_of(self, prompt: str) -> Atoms | None:
        """What is asked about the images of a prompt; None where nothing can be.

        Raises:
            OptionError: the file of questions cannot be read.
        """
        return atoms_by_rules(prompt) if self.options.questions == RULES else self._from_file.get(one_line(prompt))

    def can_judge(self, prompt: str) -> bool:
        """Whether there are questions about a prompt."""
        return self.atoms_of(prompt) is not None

    def judge_each(self, images: Sequence[Image], prompts: Sequence[str]) -> list[dict[str, Any]]:
        """Both means of each image (RGB), by skill and number of atoms too, and its questions under ``details``.

        Raises:
            OptionError: not as many prompts as images, no questions about one, or the question answerer gives no
                probabilities.
            PluginError: it failed.
        """
        check_pairs(images, prompts)
        asked: list[Atoms] = []
        for prompt in prompts:
            atoms = self.atoms_of(prompt)
            if atoms is None:
                raise OptionError(f"there are no questions about '{prompt}'. Leave it out, or give a file with some.")
            asked.append(atoms)
        pairs = [(image, *each) for image, atoms in zip(images, asked, strict=True) for each in atoms.questions]
        likely = probabilities(
            self.answerer,
            [image for image, _, _ in pairs],
            [self.options.template.replace("{}", question) for _, question, _ in pairs],
            [spellings(question, answer) for _, question, answer in pairs],
        )
        sums = iter([min(1.0, sum(each)) for each in likely])
        return [_values(atoms, [next(sums) for _ in atoms.questions]) for atoms in asked]

    def summarise(self, records: Sequence[Record]) -> dict[str, float]:
        """Both means over a set, by skill and by number of atoms."""
        names = dict.fromkeys(name for record in records for name in record if name.startswith("soft_tifa_gm/"))
        return {
            **{name: mean_by_prompt(records, name) for name in ("soft_tifa_am", "soft_tifa_gm")},
            **{f"soft_tifa_am/{skill}": mean for skill, mean in pooled(records, "type", "probability").items()},
            **{name: mean_by_prompt(records, name) for name in sorted(names, key=_atoms_in)},
        }

    def identity(self) -> dict[str, Any]:
        """Who answers which questions, in which words."""
        questions = RULES if self.options.questions == RULES else checksum(self._file)
        return {**super().identity(), "questions": questions, "template": self.options.template}

    def out_of_reach(self) -> str:
        """What the question answerer cannot get, or a file of questions that is not there."""
        questions = self.options.questions
        return super().out_of_reach() or ("" if questions == RULES else PUBLISHED.missing_named(questions))

    @cached_property
    def _file(self) -> Path:
        return PUBLISHED.find_named(self.options.questions)

    @cached_property
    def _from_file(self) -> dict[str, Atoms]:
        return {one_line(atoms.prompt): atoms for atoms in read_atoms(self._file)}


def atoms_by_rules(prompt: str) -> Atoms | None:
    """Questions about a prompt's noun phrases, by our own rules; None where it names no object.

    Objects, attributes and relations are asked for by yes or no, numbers from two to ten with "How many".
    """
    asked = [each for each in questions_about(prompt) if each.answer == "yes" or each.element_type == "counting"]
    questions = []
    for each in asked:
        answer = NUMBERS[int(each.answer) - 1] if each.element_type == "counting" else "Yes"
        questions.append((each.question[0].upper() + each.question[1:], answer))
    skills = tuple(_SKILLS[each.element_type] for each in asked)
    return Atoms(prompt, len(questions), tuple(questions), skills) if questions else None


def read_atoms(path: Path) -> list[Atoms]:
    """The prompts of a file in GenEval 2's form: a line of JSON each, or a JSON list.

    Raises:
        OptionError: it cannot be read, or an entry lacks something.
    """
    try:
        text = path.read_text(encoding="utf-8")
        entries = json.loads(text) if text.lstrip().startswith("[") else [json.loads(line) for line in _lines(text)]
    except (OSError, ValueError) as error:
        raise OptionError(f"'{path}' is no file of prompts: {error}. Give one in GenEval 2's form.") from None
    return [_atoms(entry, f"entry {number} of '{path}'") for number, entry in enumerate(entries, start=1)]


def _lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.strip()]


def _atoms(entry: Any, where: str) -> Atoms:
    try:
        pairs = tuple((str(question), str(answer)) for question, answer in entry["vqa_list"])
        atoms = Atoms(str(entry["prompt"]), int(entry["atom_count"]), pairs, tuple(map(str, entry["skills"])))
    except (KeyError, TypeError, ValueError):
        raise OptionError(
            f"{where} has no prompt, atom_count, vqa_list and skills. Give a file in GenEval 2's form."
        ) from None
    if not pairs or len(pairs) != len(atoms.skills):
        raise OptionError(f"{where} has {len(pairs)} questions and {len(atoms.skills)} skills. Give one skill each.")
    return atoms


def _values(atoms: Atoms, likely: Sequence[float]) -> dict[str, Any]:
    skills: dict[str, list[float]] = defaultdict(list)
    for skill, value in zip(atoms.skills, likely, strict=True):
        skills[skill].append(value)
    whole = geometric_mean(likely)
    details = [
        {"question": question, "type": skill, "answer": answer, "probability": value}
        for (question, answer), skill, value in zip(atoms.questions, atoms.skills, likely, strict=True)
    ]
    return {
        "soft_tifa_am": arithmetic_mean(likely),
        "soft_tifa_gm": whole,
        **{f"soft_tifa_am/{skill}": arithmetic_mean(values) for skill, values in skills.items()},
        f"soft_tifa_gm/{atoms.count} atoms": whole,
        "details": details,
    }


def _atoms_in(name: str) -> int:
    return int(name.partition("/")[2].partition(" ")[0])
