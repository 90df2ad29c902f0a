"""The chunker against phrases written down by hand."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from realignkit_plugins.english.grammar import ARTICLES, COLOURS, CONJUNCTIONS, NUMBERS, PREPOSITIONS
from realignkit_plugins.english.noun_phrases import noun_phrases
from realignkit_plugins.english.plain_text import PlainText
from realignkit_plugins.english.words import is_plural, singular, with_article

# prompt -> (text, head, attributes, count) of each phrase
CASES: dict[str, list[tuple[str, str, tuple[str, ...], int | None]]] = {
    "a red book and a yellow pen": [("a red book", "book", ("red",), 1), ("a yellow pen", "pen", ("yellow",), 1)],
    "two brown dogs to the left of a blue car": [
        ("two brown dogs", "dog", ("brown",), 2),
        ("a blue car", "car", ("blue",), 1),
    ],
    "a cup, a red bowl and a pen on a desk": [
        ("a cup", "cup", (), 1),
        ("a red bowl", "bowl", ("red",), 1),
        ("a pen", "pen", (), 1),
        ("a desk", "desk", (), 1),
    ],
    "a cat that is black": [("a cat that is black", "cat", ("black",), 1)],
    "the car is red": [("the car is red", "car", ("red",), 1)],
    "the car is red and the bike is blue": [
        ("the car is red", "car", ("red",), 1),
        ("the bike is blue", "bike", ("blue",), 1),
    ],
    "the ball, which is red and blue, is on the grass": [
        ("the ball, which is red and blue", "ball", ("red", "blue"), 1),
        ("the grass", "grass", (), 1),
    ],
    "Two Back to back wooden benches": [("Two Back to back wooden benches", "bench", ("back to back", "wooden"), 2)],
    "A very small brown colored bathroom with a white toilet.": [
        ("A very small brown colored bathroom", "bathroom", ("small", "brown"), 1),
        ("a white toilet", "toilet", ("white",), 1),
    ],
    "An orange cat sleeping on top of a red car.": [
        ("An orange cat", "cat", ("orange",), 1),
        ("a red car", "car", ("red",), 1),
    ],
    "an orange and a banana": [("an orange", "orange", (), 1), ("a banana", "banana", (), 1)],
    "an orange and banana": [("an orange", "orange", (), 1), ("banana", "banana", (), 1)],
    "an orange and white cat": [("an orange and white cat", "cat", ("orange", "white"), 1)],
    "a black and white cat in a green bowl": [
        ("a black and white cat", "cat", ("black", "white"), 1),
        ("a green bowl", "bowl", ("green",), 1),
    ],
    "a black, white and brown dog": [("a black, white and brown dog", "dog", ("black", "white", "brown"), 1)],
    "a red and a blue car": [("a red and a blue car", "car", ("red", "blue"), 2)],
    "a red car and a blue one": [("a red car", "car", ("red",), 1), ("a blue one", "car", ("blue",), 1)],
    "a small, red car parked on the street": [
        ("a small, red car", "car", ("small", "red"), 1),
        ("the street", "street", (), 1),
    ],
    "A woman in orange and a woman in pink riding horses.": [
        ("A woman in orange", "woman", ("orange",), 1),
        ("a woman in pink", "woman", ("pink",), 1),
        ("horses", "horse", (), None),
    ],
    "a man in a blue shirt": [("a man", "man", (), 1), ("a blue shirt", "shirt", ("blue",), 1)],
    "a car painted red next to a house": [("a car painted red", "car", ("red",), 1), ("a house", "house", (), 1)],
    "A gray cat is looking at an upside down blue bicycle.": [
        ("A gray cat", "cat", ("gray",), 1),
        ("an upside down blue bicycle", "bicycle", ("upside down", "blue"), 1),
    ],
    "A cube made of denim.": [("A cube made of denim", "cube", ("denim",), 1)],
    "a green cup and a blue cell phone": [
        ("a green cup", "cup", ("green",), 1),
        ("a blue cell phone", "cell phone", ("blue",), 1),
    ],
    "a photo of a group of people holding umbrellas": [
        ("a group of people", "person", (), None),
        ("umbrellas", "umbrella", (), None),
    ],
    "a pair of scissors on the left side of a wooden table": [
        ("a pair of scissors", "scissors", (), 2),
        ("a wooden table", "table", ("wooden",), 1),
    ],
    "three red apples in a row": [("three red apples", "apple", ("red",), 3)],
    "5 knives": [("5 knives", "knife", (), 5)],
    "a glass and metal table": [("a glass and metal table", "table", ("glass", "metal"), 1)],
    "A dog chases two cats while birds fly": [
        ("A dog", "dog", (), 1),
        ("two cats", "cat", (), 2),
        ("birds", "bird", (), None),
    ],
    "people watching a man who wears a gold watch": [
        ("people", "person", (), None),
        ("a man", "man", (), 1),
        ("a gold watch", "watch", ("gold",), 1),
    ],
    "a man's red hat": [("a man", "man", (), 1), ("red hat", "hat", ("red",), 1)],
    "a sleeping dog and a brightly painted bench": [
        ("a sleeping dog", "dog", ("sleeping",), 1),
        ("a brightly painted bench", "bench", ("painted",), 1),
    ],
    "One cat and three dogs sitting on the grass.": [
        ("One cat", "cat", (), 1),
        ("three dogs", "dog", (), 3),
        ("the grass", "grass", (), 1),
    ],
    "white sheep": [("white sheep", "sheep", ("white",), 1)],
    "sitting on": [],
    "in front of, and to the right": [],
    "": [],
    " \n\t": [],
    "?!… 🙂": [],
}


@pytest.mark.parametrize("prompt", CASES)
def test_phrases(prompt: str) -> None:
    found = [(phrase.text, phrase.head, phrase.attributes, phrase.count) for phrase in noun_phrases(prompt)]
    assert found == CASES[prompt]
    assert not any(phrase.negated for phrase in noun_phrases(prompt))


@pytest.mark.parametrize(
    ("prompt", "negated"),
    [
        ("a room without a dog or a cat", {"room": False, "dog": True, "cat": True}),
        ("no dogs in the park", {"dog": True, "park": False}),
        ("a dog without a collar and a cat", {"dog": False, "collar": True, "cat": False}),
    ],
)
def test_negation(prompt: str, negated: dict[str, bool]) -> None:
    assert {phrase.head: phrase.negated for phrase in noun_phrases(prompt)} == negated


@settings(deadline=None)
@given(st.text())
def test_any_text(prompt: str) -> None:
    phrases = noun_phrases(prompt)
    for phrase in phrases:
        there = _letters(prompt[phrase.start : phrase.end])
        assert all(letter in there for letter in _letters(phrase.text))
    assert all(phrase.text and phrase.head for phrase in phrases)
    assert all(a.end <= b.start for a, b in pairwise(phrases))


def _letters(text: str) -> list[str]:
    """What is left of a text without markup."""
    return [character for character in PlainText.of(text).text if character.isalnum()]


_ODD_WORDS = sorted(ARTICLES | CONJUNCTIONS | PREPOSITIONS | set(NUMBERS))
_ODD_WORDS += ["red", "dog", "dogs", "is", "that", "pair"]
_ODD_WORDS += ["painted", "made", ",", "one", "no", "group", "photo", "'s", "in", "orange", "back to back", "very", "³"]


@settings(deadline=None)
@given(st.lists(st.sampled_from(_ODD_WORDS), max_size=60))
def test_any_jumble_of_grammar(words: list[str]) -> None:
    prompt = " ".join(words)
    for phrase in noun_phrases(prompt):
        assert phrase.text == prompt[phrase.start : phrase.end]


def test_thousands_of_words_are_no_problem() -> None:
    for unit in ("a pair of ", "a red and ", "a very ", "a dog that is red and ", "red, ", "red "):
        assert isinstance(noun_phrases(unit * 2000 + "dogs"), list)


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(sorted(COLOURS - {"colorful", "colourful", "multicolored", "multicoloured"})),
            st.sampled_from(("car", "bird", "sheep", "clock", "apple", "giraffe", "suitcase", "bench", "vase")),
        ),
        min_size=1,
        max_size=4,
    )
)
def test_concept_conjunctions(things: list[tuple[str, str]]) -> None:
    """CC-500's form, whatever its colours and nouns, comes back as it went in."""
    prompt = " and ".join(f"a {colour} {noun}" for colour, noun in things)
    found = noun_phrases(prompt)
    assert [(phrase.attributes, phrase.head) for phrase in found] == [((colour,), noun) for colour, noun in things]


@pytest.mark.parametrize(
    ("plural", "one"),
    [
        *(("benches", "bench"), ("sheep", "sheep"), ("people", "person"), ("knives", "knife"), ("mice", "mouse")),
        *(("glass", "glass"), ("bus", "bus"), ("buses", "bus"), ("tennis", "tennis"), ("scissors", "scissors")),
        *(("cell phones", "cell phone"), ("octopus", "octopus"), ("wolves", "wolf"), ("giraffes", "giraffe")),
        *(("daisies", "daisy"), ("movies", "movie"), ("shoes", "shoe"), ("mosquitoes", "mosquito")),
        *(
            ("kiwis", "kiwi"),
            ("menus", "menu"),
            ("taxis", "taxi"),
            ("oxen", "ox"),
            ("buses", "bus"),
            ("fuses", "fuse"),
            ("cactuses", "cactus"),
        ),
        *(("cacti", "cactus"), ("octopi", "octopus"), ("mustaches", "mustache"), ("beaches", "beach")),
        *(
            ("firemen", "fireman"),
            ("olives", "olive"),
            ("abdomen", "abdomen"),
            ("grandchildren", "grandchild"),
            ("gateaux", "gateau"),
        ),
        *(("rhinoceros", "rhinoceros"), ("tights", "tights"), ("thermos", "thermos"), ("opera", "opera")),
        *(("hoverboards", "hoverboard"), ("skateparks", "skatepark")),  # in no list
    ],
)
def test_singular(plural: str, one: str) -> None:
    assert singular(plural) == one
    assert is_plural(plural) is (plural != one)


@pytest.mark.parametrize(
    ("name", "phrase"),
    [
        *(("desk", "a desk"), ("orange", "an orange"), ("grass", "grass"), ("apples", "apples"), ("", "")),
        *(("unicorn", "a unicorn"), ("traffic light", "a traffic light"), ("a cup", "a cup"), ("123", "123")),
        *(("hourglass", "an hourglass"), ("one-eyed cat", "a one-eyed cat"), ("European castle", "a European castle")),
        *(("usher", "an usher"), ("uniform", "a uniform"), ("unmade bed", "an unmade bed"), ("éclair", "an éclair")),
        *(
            ("x-ray", "an x-ray"),
            ("USB stick", "a USB stick"),
            ("SUV", "an SUV"),
            ("NBA player", "an NBA player"),
            ("FROG", "a FROG"),
            ("lcd screen", "an lcd screen"),
        ),
    ],
)
def test_article(name: str, phrase: str) -> None:
    assert with_article(name) == phrase
