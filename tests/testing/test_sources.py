"""Generators and sets of prompts that break their contract: each gets one sentence that says how."""

from __future__ import annotations

import re
from typing import ClassVar

import pytest

from realignkit import PromptSet
from realignkit.testing import check_plugin
from tests import tiny
from tests.testing.conftest import problem


class Small(tiny.TinyGenerator):
    """Random weights, 32 x 32."""


class Anew(Small):
    """Loads its weights with each use."""

    def pipeline(self):
        return tiny.build_pipeline()


class OneSeed(Small):
    """Always the same picture."""

    attention_family = None

    def pipeline(self):
        return self.draw

    def draw(self, *arguments, **options):
        raise ZeroDivisionError("no picture")


class Misspelt(Small):
    """An option that there is not."""

    refine_defaults: ClassVar = {"crossweight": 2.0}


class Stranger(Small):
    """A family that there is not."""

    attention_family = "gan"


class Companion(Small):
    """A companion of no kind."""

    companions: ClassVar = {"judge": "micro"}


@pytest.mark.parametrize(
    ("plugin", "message"),
    [
        (Anew, r"pipeline\(\) makes another one each time: load it once, and keep it"),
        (OneSeed, "generator 'OneSeed' "),
        (Misspelt, "refine_defaults has 'crossweight', which is no option. Options: "),
        (Stranger, "attention_family must be None, or one of unet, pixart"),
        (Companion, "companions are by kind, and 'judge' is none"),
    ],
)
def test_a_generator_that_breaks_its_contract(plugin, message):
    assert re.search(message, problem(plugin()))


def test_a_right_generator():
    check_plugin(Small())


class Two(PromptSet):
    """Two prompts."""

    texts = ("a red book", "a blue car")

    def __iter__(self):
        return iter(self.texts)

    def __len__(self):
        return len(self.texts)

    def labels(self):
        return [{"id": str(i), "category": "colours"} for i in range(2)]


class Shuffled(Two):
    """Another order each time."""

    def __iter__(self):
        self.texts = self.texts[::-1]
        return iter(self.texts)


class Miscounted(Two):
    """Says three."""

    def __len__(self):
        return 3


class Blank(Two):
    """One of them is empty."""

    texts = ("a red book", " ")


class Twins(Two):
    """Two with an id."""

    def labels(self):
        return [{"id": "1"}, {"id": "1"}]


class Guesses(Two):
    """A truth of another kind."""

    def truth(self, prompt, tags):
        return {"book": True}


@pytest.mark.parametrize(
    ("plugin", "message"),
    [
        (Shuffled, "it gives other prompts, or another order, the second time"),
        (Miscounted, "it says that it has 3 prompts, and gives 2"),
        (Blank, "its prompt number 2 is empty"),
        (Twins, "two of its prompts have the same id"),
        (Guesses, r"truth\(\) must return a Truth, or None where it does not know"),
    ],
)
def test_a_set_of_prompts_that_breaks_its_contract(plugin, message):
    assert re.search(message, problem(plugin()))


def test_a_right_set_of_prompts():
    check_plugin(Two())
