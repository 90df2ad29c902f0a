"""The arithmetic of TIFA (Hu et al., 2023): choices, scores, averages, and the filter of questions. Plain functions."""

from __future__ import annotations

import re
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

LEAST_F1 = 0.6
"""A question is kept where the free answer's token F1 is higher than that."""
_NUMBERS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
_YES_NO = ("yes", "no")


@dataclass(frozen=True)
class TIFAScores:
    """Scores of a set of captions.

    Attributes:
        average: the mean over captions of the mean over their questions, in [0, 1].
        deviation: the standard deviation over captions (n - 1); None for a single one.
        by_type: element type -> share of its questions answered right, pooled over captions.
        by_caption: id -> share of its questions answered right.
    """

    average: float
    deviation: float | None
    by_type: Mapping[str, float]
    by_caption: Mapping[str, float]


def tifa_scores(scored: Sequence[tuple[str, str, float]]) -> TIFAScores:
    """The scores of questions as the original averages them.

    Args:
        scored: per question the id of its caption, its element type, and whether it was answered right (1 or 0). One
            that is asked twice counts twice.
    """
    captions: dict[str, list[float]] = defaultdict(list)
    types: dict[str, list[float]] = defaultdict(list)
    for caption, element_type, score in scored:
        captions[caption].append(score)
        types[element_type].append(score)
    by_caption = {name: statistics.fmean(values) for name, values in captions.items()}
    values = list(by_caption.values())
    return TIFAScores(
        statistics.fmean(values),
        statistics.stdev(values) if len(values) > 1 else None,
        {name: statistics.fmean(each) for name, each in types.items()},
        by_caption,
    )


def question_score(choice: str, answer: str) -> int:
    """1 where the chosen choice is the answer to the letter, case included; else 0."""
    return int(choice == answer)


def choose(said: str, choices: Sequence[str], nearest: Callable[[str, Sequence[str]], str]) -> str:
    """The choice that a free answer means: itself where it is one to the letter, else what ``nearest`` says."""
    return said if said in choices else nearest(said, choices)


def sentence_embedding(tokens: npt.ArrayLike, mask: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """The mean of a text's token states (L, D) where ``mask`` (L,) is 1, of length 1: (D,)."""
    states, kept = np.asarray(tokens, np.float64), np.asarray(mask, np.float64)[:, None]
    pooled = (states * kept).sum(0) / max(float(kept.sum()), 1e-9)
    unit: npt.NDArray[np.float64] = pooled / max(float(np.linalg.norm(pooled)), 1e-12)
    return unit


def similarities(answer: npt.NDArray[np.float64], choices: Sequence[npt.NDArray[np.float64]]) -> list[float]:
    """The dot product of an answer's embedding with each choice's; the first largest is the nearest choice."""
    return [float(answer @ choice) for choice in choices]


def plain(answer: str) -> str:
    """A free answer without what is neither a letter, a digit nor a blank, in lower case, no blanks around it."""
    return "".join(c for c in answer if c.isalnum() or c.isspace()).strip().lower()


def token_f1(first: str, second: str) -> float:
    """The F1 of the words that two texts have in common."""
    one, other = first.split(), second.split()
    common = sum((Counter(one) & Counter(other)).values())
    return 2 * common / (len(one) + len(other)) if common else 0.0


def keeps(answer: str, multiple_choice: str, free_form: str) -> bool:
    """Whether TIFA's filter keeps a question, given what a language model answers it from the caption alone.

    Args:
        answer: the right one.
        multiple_choice: the model's, among the choices.
        free_form: the model's in its own words; not looked at where the right answer is yes or no.
    """
    if multiple_choice != answer:
        return False
    if answer in _YES_NO:
        return True
    said = in_digits(free_form) if answer.isdigit() else free_form
    return token_f1(answer, said) > LEAST_F1


def in_digits(text: str) -> str:
    """A text with number words up to twelve as digits."""
    return re.sub(r"\w+", lambda word: _digits(word.group()), text)


def _digits(word: str) -> str:
    return str(_NUMBERS.index(word.lower())) if word.lower() in _NUMBERS else word
