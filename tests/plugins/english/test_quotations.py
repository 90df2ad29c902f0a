"""Which quotations are text to be drawn."""

from __future__ import annotations

import pytest

from realignkit_plugins.english.noun_phrases import noun_phrases

_MARKS = ('""', "''", "“”", "‘’", "„“", "«»", "「」")


@pytest.mark.parametrize("quoted", [f"{opening}red dog{closing}" for opening, closing in _MARKS])
@pytest.mark.parametrize(
    "prompt",
    [
        "a sign that says {} and a blue box",
        "a sign reading: {} and a blue box",
        "a sign with the words {} and a blue box",
        "a book titled {} and a blue box",
        "a jar labelled {} and a blue box",
        "a sign, {}, and a blue box",
        "a wall with {} written on it and a blue box",
        "a {} sign and a blue box",
        "a sign saying in red letters {} and a blue box",
        "a blue box and a sign that says {}",
    ],
)
def test_text_to_be_drawn_names_nothing(prompt: str, quoted: str) -> None:
    heads = {phrase.head for phrase in noun_phrases(prompt.format(quoted))}
    assert "dog" not in heads
    assert "box" in heads


@pytest.mark.parametrize(
    ("prompt", "named", "not_named"),
    [
        ('a shirt with the text "cat" and "dog" and a red car', {"car"}, {"cat", "dog"}),
        ('a sign that says "red dog', {"sign"}, {"dog"}),
        ("a sign that says red dog and a blue box", {"sign", "box"}, {"dog"}),
        ('a mug with "I love my dog" and a cat', {"mug", "cat"}, {"dog"}),
        ('a box with "BEWARE OF THE DOG" and a cat', {"box", "cat"}, {"dog"}),
        ('a "red dog" and a cat', {"dog", "cat"}, set()),
        ('"a red cup and a blue box"', {"cup", "box"}, set()),
        ('a "red" sign next to a "dog"', {"sign", "dog"}, set()),
        ("a boy says hello to a dog", {"boy", "dog"}, {"hello"}),
        ('a 12" pizza and a 5" cup', {"pizza", "cup"}, set()),
        ("the cats' bowl and the dogs' box", {"cat", "bowl", "dog", "box"}, set()),
        ("a man who isn't reading and a dog that doesn't bark", {"man", "dog"}, set()),
    ],
)
def test_what_is_named(prompt: str, named: set[str], not_named: set[str]) -> None:
    heads = {phrase.head for phrase in noun_phrases(prompt)}
    assert named <= heads
    assert not heads & not_named


def test_writing_stays_in_the_phrase_of_what_bears_it() -> None:
    (phrase,) = noun_phrases('a red "STOP" sign')
    assert (phrase.text, phrase.head, phrase.attributes) == ('a red "STOP" sign', "sign", ("red",))
