"""How an answer may be spelt, and how probable it is by the first tokens of its spellings, as in GenEval 2."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

YES = ("Yes", "yes", " yes", " Yes")
"""The spellings of yes."""
NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_COUNTING = "How many"


def spellings(question: str, answer: str) -> tuple[str, ...]:
    """The spellings that count as a right answer.

    A question that begins with "How many" wants a number: as it is, capitalised, each with a blank before it, and in
    digits with and without one ("other" in place of the digits of what is not one to ten). Any other question wants
    :data:`YES`, whatever ``answer`` says.
    """
    if not question.startswith(_COUNTING):
        return YES
    digits = str(NUMBERS.index(answer) + 1) if answer in NUMBERS else "other"
    return (answer, answer.capitalize(), f" {answer}", f" {answer.capitalize()}", digits, f" {digits}")


def first_token_probability(logits: npt.ArrayLike, first_tokens: Sequence[int]) -> float:
    """The sum over spellings of the probability of each one's first token.

    Spellings that begin with the same token count each time, as GenEval 2 counts them, so that it can exceed 1.

    Args:
        logits: of the first token said, float (vocabulary,).
        first_tokens: the id of each spelling's first token.
    """
    values = np.asarray(logits, np.float64)
    likely = np.exp(values - values.max())
    return float((likely / likely.sum())[list(first_tokens)].sum())


def is_said(token: str, accepted: Sequence[str]) -> bool:
    """Whether the most likely first token, in lower case, is one of the spellings: GenEval 2's hard verdict."""
    return token.lower() in accepted
