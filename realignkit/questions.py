"""Questions about images: asked of a plugin of kind vqa, its answers held against :mod:`realignkit.contracts`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from realignkit.errors import ModelError, OptionError
from realignkit.layout import listed
from realignkit.named import Named

if TYPE_CHECKING:
    from PIL.Image import Image

_ROUNDING = 1e-3
"""How far above 1 a sum of probabilities in half precision may come out."""


def answers(
    vqa: Named, images: Sequence[Image], questions: Sequence[str], choices: Sequence[Sequence[str]] | None = None
) -> list[str]:
    """An answer per image and question, without blanks around it; see :class:`realignkit.contracts.VQA`.

    Raises:
        OptionError: not as many images as questions.
        PluginError: the plugin failed or broke its contract.
    """
    _check_pairs(images, questions, choices)
    if not questions:
        return []
    with vqa.calling():
        said = vqa.plugin(_copies(images), list(questions), choices and [list(each) for each in choices])
        texts = listed(vqa.whose, said, "an answer for each question")
    if len(texts) != len(questions):
        raise vqa.breach(f"{len(texts)} answers to {len(questions)} questions")
    for text in texts:
        if not isinstance(text, str):
            raise vqa.breach(f"{text!r} is no answer in words")
    return [text.strip() for text in texts]


def has_probabilities(vqa: Named) -> bool:
    """Whether a plugin can say how probable an answer is."""
    return callable(getattr(vqa.plugin, "probabilities", None))


def probabilities(
    vqa: Named, images: Sequence[Image], questions: Sequence[str], candidates: Sequence[Sequence[str]]
) -> list[list[float]]:
    """The probability of each candidate per image and question; see :class:`realignkit.contracts.VQA`.

    Raises:
        OptionError: not as many images as questions, or the plugin gives no probabilities.
        PluginError: the plugin failed or broke its contract.
        ModelError: a probability is NaN or outside [0, 1].
    """
    _check_pairs(images, questions, candidates)
    if not has_probabilities(vqa):
        raise OptionError(f"{vqa.whose} gives no probabilities of answers. Choose one that does, such as blip_vqa.")
    if not questions:
        return []
    with vqa.calling():
        rows = vqa.plugin.probabilities(_copies(images), list(questions), [list(each) for each in candidates])
        values = [[float(value) for value in row] for row in rows]
    if [len(row) for row in values] != [len(row) for row in candidates]:
        raise vqa.breach("it did not give one probability per answer")
    for value in (value for row in values for value in row):
        if math.isnan(value) or not 0 <= value <= 1 + _ROUNDING:
            raise ModelError(f"{vqa.whose} gave {value} as a probability. Run it in float32, or take another.")
    return [[min(value, 1.0) for value in row] for row in values]


def _check_pairs(images: Sequence[Any], questions: Sequence[Any], others: Sequence[Any] | None) -> None:
    if not len(images) == len(questions) == len(questions if others is None else others):
        raise OptionError(
            f"{len(images)} images and {len(questions)} questions do not go together: give an image, and answers if "
            f"there are some, per question."
        )


def _copies(images: Sequence[Image]) -> list[Image]:
    """Copies, of which those of one image are one object again."""
    copied = {id(image): image.copy() for image in images}
    return [copied[id(image)] for image in images]
