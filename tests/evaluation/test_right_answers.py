"""When a scorer's answer is right, and each way to be wrong."""

from __future__ import annotations

import pytest

from realignkit.evaluation.scorers import (
    ANOTHER_OBJECT,
    ATTRIBUTE_MISSING,
    ATTRIBUTE_OF_ANOTHER,
    NOT_CERTAIN,
    NOT_NAMED,
    mentions,
    problems,
)
from realignkit.registry import default_registry
from realignkit.types import Likelihood, LocalCaption

PROMPT = "a red book and a yellow pen"
RIGHT = {
    "book": ("a red book", "certain"),
    "pen": ("a yellow pen", "certain"),
    "desk": ("a desk", "possible"),
    "banana": ("a banana", "unlikely"),
}


def captions(changes):
    answer = {**RIGHT, **changes}
    return [LocalCaption(tag, text, Likelihood(word)) for tag, (text, word) in answer.items()]


def truth_of(kind, prompt, tags, tmp_path):
    if kind == "micro":
        prompts = default_registry().create("prompts", "micro")
    else:
        (tmp_path / "prompts.txt").write_text(prompt)
        prompts = default_registry().create("prompts", "file", path=tmp_path / "prompts.txt")
    return prompts.truth(prompt, tags)


CASES = [
    ({}, ()),
    ({"desk": ("a desk", "unlikely"), "banana": ("a banana", "possible")}, ()),
    ({"book": ("THE RED BOOK", "certain")}, ()),
    ({"book": ("a red book", "possible")}, (NOT_CERTAIN,)),
    ({"book": ("a red book", "unlikely")}, (NOT_CERTAIN,)),
    ({"book": ("a book", "certain")}, (ATTRIBUTE_MISSING,)),
    ({"book": ("a yellow book", "certain")}, (ATTRIBUTE_MISSING, ATTRIBUTE_OF_ANOTHER)),
    ({"book": ("a red and yellow book", "certain")}, (ATTRIBUTE_OF_ANOTHER,)),
    ({"desk": ("a desk", "certain")}, (NOT_NAMED,)),
    ({"book": ("a red book and a pen", "certain")}, (ANOTHER_OBJECT,)),
    ({"desk": ("a desk with books", "possible")}, (ANOTHER_OBJECT,)),
    ({"pen": ("a red book", "certain")}, (ATTRIBUTE_MISSING, ATTRIBUTE_OF_ANOTHER, ANOTHER_OBJECT)),
    (
        {"book": ("a book", "possible"), "desk": ("a desk and a banana", "certain")},
        (NOT_CERTAIN, ATTRIBUTE_MISSING, NOT_NAMED, ANOTHER_OBJECT),
    ),
]


@pytest.mark.parametrize("kind", ["micro", "file"])
@pytest.mark.parametrize(("changes", "expected"), CASES)
def test_each_way_to_fail(kind, changes, expected, tmp_path):
    truth = truth_of(kind, PROMPT, list(RIGHT), tmp_path)
    assert (truth.objects, truth.found) == (2, 2)
    assert problems(captions(changes), truth) == expected


def test_one_of_two_things_with_one_name_will_do(tmp_path):
    truth = truth_of("file", "a red car and a dark blue car", ["car"], tmp_path)
    for text, expected in {
        "a red car": (),
        "a dark blue car": (),
        "a car": (ATTRIBUTE_MISSING,),
        "a red dark blue car": (ATTRIBUTE_OF_ANOTHER,),
    }.items():
        assert problems([LocalCaption("car", text, Likelihood.CERTAIN)], truth) == expected, text


def test_colours_that_are_fruit_and_names_within_names(tmp_path):
    truth = truth_of("file", "an orange cat on a dining table", ["cat", "dining table", "orange", "table"], tmp_path)
    answer = [
        LocalCaption("cat", "an orange cat", Likelihood.CERTAIN),
        LocalCaption("dining table", "a dining table", Likelihood.CERTAIN),
        LocalCaption("orange", "an orange", Likelihood.UNLIKELY),
        LocalCaption("table", "a dining table", Likelihood.CERTAIN),
    ]
    assert problems(answer, truth) == ()


def test_objects_that_no_tag_names_are_counted(tmp_path):
    for kind in ("micro", "file"):
        truth = truth_of(kind, PROMPT, ["pen"], tmp_path)
        assert (truth.objects, truth.found) == (2, 1)


def test_the_world_knows_all_its_own_prompts_and_no_others():
    for objects in (1, 2, 3):
        prompts = default_registry().create("prompts", "micro", objects=objects, size=50)
        for prompt in prompts:
            assert prompts.truth(prompt, []).objects == objects
    assert prompts.truth("two red birds on the grass", ["bird"]) is None


@pytest.mark.parametrize(
    ("text", "name", "expected"),
    [
        ("a red book", "book", True),
        ("two books", "book", True),
        ("two boxes", "box", True),
        ("a bookshelf", "book", False),
        ("a Cell-Phone!", "cell phone", True),
        ("a cell", "cell phone", False),
        ("a car", "", False),
        ("a cafe\u0301", "café", True),
    ],
)
def test_mentions(text, name, expected):
    assert mentions(text, name) is expected
