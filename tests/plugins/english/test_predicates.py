"""What sentences say about objects goes to their subjects."""

from __future__ import annotations

import pytest

from realignkit_plugins.english.noun_phrases import noun_phrases

# prompt -> (text, attributes) of each object
CASES: dict[str, dict[str, tuple[str, tuple[str, ...]]]] = {
    "the cup is red and the box is blue": {
        "cup": ("the cup is red", ("red",)),
        "box": ("the box is blue", ("blue",)),
    },
    "the red cup's lid is blue": {"cup": ("the red cup", ("red",)), "lid": ("lid is blue", ("blue",))},
    "the lid of the red cup is blue": {"cup": ("the red cup", ("red",)), "lid": ("the blue lid", ("blue",))},
    "the cup on the box is red": {"cup": ("the red cup", ("red",)), "box": ("the box", ())},
    "the cup on the left is red and the box on the right is blue": {
        "cup": ("the red cup", ("red",)),
        "box": ("the blue box", ("blue",)),
    },
    "a cup with a lid is red": {"cup": ("a red cup", ("red",)), "lid": ("a lid", ())},
    "the cup and the box are red": {"cup": ("the red cup", ("red",)), "box": ("the red box", ("red",))},
    "the cup and the box are red and blue respectively": {
        "cup": ("the red cup", ("red",)),
        "box": ("the blue box", ("blue",)),
    },
    "a cup and a box, both red": {"cup": ("a red cup", ("red",)), "box": ("a red box", ("red",))},
    "cups and boxes that are red": {"cup": ("cups", ()), "box": ("boxes that are red", ("red",))},
    "a cup that's red and a box that's blue": {
        "cup": ("a cup that's red", ("red",)),
        "box": ("a box that's blue", ("blue",)),
    },
    "red is the cup and blue is the box": {"cup": ("the red cup", ("red",)), "box": ("the blue box", ("blue",))},
    "the colour of the cup is red and the box's colour is blue": {
        "cup": ("the cup is red", ("red",)),
        "box": ("the blue box", ("blue",)),
    },
    "a cup (red) and a box: blue": {"cup": ("a cup (red)", ("red",)), "box": ("a box: blue", ("blue",))},
    "the cup is deep red": {"cup": ("the cup is deep red", ("deep", "red"))},
    "the cup is not red but blue": {"cup": ("the blue cup", ("blue",))},
    "the cup is not red and the box is blue": {"cup": ("the cup", ()), "box": ("the box is blue", ("blue",))},
    "the cup isn't red, a box which is not blue": {"cup": ("the cup", ()), "box": ("a box", ())},
    "the cups are red and the boxes are blue": {
        "cup": ("the cups are red", ("red",)),
        "box": ("the boxes are blue", ("blue",)),
    },
    "both the cup and the box are red": {"cup": ("the red cup", ("red",)), "box": ("the red box", ("red",))},
    "the cup should be red, the box must not be blue": {
        "cup": ("the cup should be red", ("red",)),
        "box": ("the box", ()),
    },
    "the cup holds a box and the cars are blue": {
        "cup": ("the cup", ()),
        "box": ("a box", ()),
        "car": ("the cars are blue", ("blue",)),
    },
    "the box beside the cup that is red is blue": {
        "box": ("the blue box", ("blue",)),
        "cup": ("the cup that is red", ("red",)),
    },
    "A cup. It is red. A box. It's blue.": {"cup": ("a red cup", ("red",)), "box": ("a blue box", ("blue",))},
    "a dog on a mat; they are black": {"dog": ("a dog", ()), "mat": ("a mat", ())},
    "a cup in a red colour": {"cup": ("a cup in a red colour", ("red",))},
    "a cup in a red box": {"cup": ("a cup", ()), "box": ("a red box", ("red",))},
    "a dog sits on a mat and two cats are black": {
        "dog": ("a dog", ()),
        "mat": ("a mat", ()),
        "cat": ("two cats are black", ("black",)),
    },
    "a cake with gold stars being sliced": {
        "cake": ("a cake", ()),
        "star": ("gold stars being sliced", ("gold", "sliced")),
    },
    # one object, spoken of twice
    "a cup and a box; the cup is red and the box is blue": {
        "cup": ("the cup is red", ("red",)),
        "box": ("the box is blue", ("blue",)),
    },
    "a big cup. The cup is red.": {"cup": ("a big red cup", ("big", "red"))},
    "an old cup. The cup is big.": {"cup": ("an old big cup", ("old", "big"))},
}


@pytest.mark.parametrize("prompt", CASES)
def test_described(prompt: str) -> None:
    assert {phrase.head: (phrase.text, phrase.attributes) for phrase in noun_phrases(prompt)} == CASES[prompt]


def test_two_of_a_kind_stay_two() -> None:
    found = [phrase.attributes for phrase in noun_phrases("a red cup and a blue cup; the cup is big")]
    assert found == [("red",), ("blue",), ("big",)]
    worn = noun_phrases("a girl in white is ahead of the girl in blue")
    assert [phrase.attributes for phrase in worn] == [("white",), ("blue",)]


@pytest.mark.parametrize(
    ("prompt", "negated"),
    [
        ("a cup without a lid, a dog, or a cat", {"lid", "dog", "cat"}),
        ("a cup without a lid, a dog and a cat", {"lid"}),
        ("the cup does not have a lid", {"lid"}),
        ("a cup instead of a box", {"box"}),
        ("neither a cat nor a dog, but a cup", {"cat", "dog"}),
        ("not only a cup but also a box", set()),
    ],
)
def test_ruled_out(prompt: str, negated: set[str]) -> None:
    assert {phrase.head for phrase in noun_phrases(prompt) if phrase.negated} == negated
