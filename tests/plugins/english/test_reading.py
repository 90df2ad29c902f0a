"""Prompts with markup around their words, against phrases written down by hand."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from realignkit_plugins.english.noun_phrases import noun_phrases
from realignkit_plugins.english.reading import Reading

# prompt -> the text of each phrase
CASES: dict[str, list[str]] = {
    "a (red:1.3) cup and a ((blue)) box": ["a red cup", "a blue box"],
    "(a red cup:1.4), a blue box": ["a red cup", "a blue box"],
    "((red cup)), [blue box]": ["red cup", "blue box"],
    "(a red cup)1.2 and a (blue box)++": ["a red cup", "blue box"],
    "a red++ cup and a blue-- box": ["a red cup", "a blue box"],
    "a red:1.3 cup": ["a red cup"],
    "(red cup:1.2) (blue box:1.1)": ["red cup", "blue box"],
    "a red cup BREAK a blue box": ["a red cup", "a blue box"],
    "A RED CUP BREAK A BLUE BOX": ["A RED CUP", "A BLUE BOX"],
    "a red cup::2 blue box::1": ["a red cup", "blue box"],
    "a red cup <lora:cat_v2:0.8> and a blue box": ["a red cup", "a blue box"],
    "a red cup --ar 16:9 --style raw": ["a red cup"],
    "a red cup https://x.y/cat.png?q=dog and a blue box": ["a red cup", "a blue box"],
    "a {red|blue} cup": ["a red or blue cup"],
    "a [blue:red:0.5] cup": ["a blue or red cup"],
    "{a red cup|a blue box}": ["a red cup", "a blue box"],
    "{2$$dog|cat}": ["dog", "cat"],
    "red_cup, blue_box": ["red cup", "blue box"],
    "_red_ cup and a **blue** box": ["red cup", "a blue box"],
    'a "red" cup and a ‘blue’ box': ["a red cup", "a blue box"],
    'a "red dog" and a cat': ["red dog", "a cat"],  # without the article it stands in the prompt as it is
    "a <b>red</b> cup": ["a red cup"],
    "a red <sks> cup": ["a red <sks> cup"],
    "a cat (dog behind it)": ["a cat", "dog"],
    "a dog's cup and the dogs' box": ["a dog", "cup", "the dogs", "box"],
    "a red 杯子 and a cat": ["a cat"],
    "an orange 杯子 and a cat": ["a cat"],
    "一个red cup和blue box": ["red cup", "blue box"],
    "ａ ｒｅｄ ｃｕｐ": ["a red cup"],
    "a re\u200bd cup": ["a red cup"],
    "a red, not blue, cup": ["a red cup"],
    "a red café cup": ["a red café cup"],
    "a big (very big) cup": ["a big very big cup"],
}


@pytest.mark.parametrize("prompt", CASES)
def test_phrases(prompt: str) -> None:
    assert [phrase.text for phrase in noun_phrases(prompt)] == CASES[prompt]


def test_what_a_flag_rules_out() -> None:
    found = {phrase.head: phrase.negated for phrase in noun_phrases("a red cup --no dog, cat --ar 1:1")}
    assert found == {"cup": False, "dog": True, "cat": True}


@pytest.mark.parametrize(
    ("prompt", "syntax"),
    [
        ("a (red:1.3) cup, a blue++ box", ["red:1.3", "blue++"]),
        ("((red cup)) BREAK a box", ["((red", "BREAK"]),
        ("a {red|blue} cup <lora:x:1> --ar 16:9", ["red|blue", "<lora:x:1>", "--ar 16:9"]),
        ("a red cup::2", ["cup::2"]),
        ('a (red) cup at 3:30, C++ -- and (at 16:9) "so"', []),
        ("a red-and-white cup, 1:1", []),
    ],
)
def test_syntax_that_is_read_over(prompt: str, syntax: list[str]) -> None:
    assert list(Reading.of(prompt).syntax) == syntax


_WRAPPERS = (
    "({})",
    "(({}))",
    "[{}]",
    "({}:1.3)",
    "{}++",
    '"{}"',
    "“{}”",
    "'{}'",
    "«{}»",
    "「{}」",
    "_{}_",
    "*{}*",
    "`{}`",
)


@given(st.sampled_from(_WRAPPERS), st.sampled_from(_WRAPPERS))
def test_wrappers_change_nothing(one: str, other: str) -> None:
    plain = noun_phrases("a red cup and a blue box")
    wrapped = noun_phrases(f"a {one.format('red')} cup and a {other.format('blue')} box")
    assert [(p.text, p.head, p.attributes) for p in wrapped] == [(p.text, p.head, p.attributes) for p in plain]


_PIECES = [
    "a",
    "red",
    "cup",
    "dog",
    "is",
    "not",
    "says",
    "the",
    "words",
    "and",
    ",",
    "'s",
    "without",
    "--no",
    "--ar 1:1",
]
_PIECES += [
    *"()[]{}<>\"'“”‘’«»_*|:+-=/\\",
    ":1.3)",
    "++",
    "::2",
    "BREAK",
    "<lora:a:1>",
    "杯子",
    "\u200b",
    "e\u0301",
    "\ud83d",
]


@settings(deadline=None)
@given(st.lists(st.sampled_from(_PIECES), max_size=40), st.sampled_from(["", " "]))
def test_any_jumble_of_markup(pieces: list[str], between: str) -> None:
    prompt = between.join(pieces)
    for phrase in noun_phrases(prompt):
        assert phrase.text.strip()
        assert 0 <= phrase.start < phrase.end <= len(prompt)


def test_thousands_of_marks_are_no_problem() -> None:
    for unit in (
        "(",
        "((a ",
        '"',
        "'a ",
        "[a|",
        "a (red:1.3) ",
        "the cup is red and ",
        "the cup of ",
        "a cup, ",
        "not red, ",
    ):
        assert isinstance(noun_phrases(unit * 1500 + "cup is red"), list)
