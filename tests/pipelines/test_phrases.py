"""An occurrence for each phrase, on sequences short enough to see the right answer."""

from __future__ import annotations

import itertools
import random

import pytest

from realignkit.pipelines.phrases import Choice, assign, occurrences, overlap


def placed(text: str, *phrases: str) -> list[int]:
    """Where each phrase starts, words being tokens."""
    words = text.split()
    choices = []
    for phrase in phrases:
        found = occurrences(words, phrase.split())
        choices.append(Choice(phrase, found, [False] * len(found)))
    return [span.start for span in assign(choices)]


def test_occurrences():
    assert occurrences([9, 1, 2, 1, 2], [1, 2]) == [slice(1, 3), slice(3, 5)]
    assert occurrences([1, 1, 1], [1, 1]) == [slice(0, 2), slice(1, 3)]
    assert occurrences([1], []) == occurrences([], [1]) == occurrences([1], [1, 1]) == []


@pytest.mark.parametrize(
    ("text", "phrases", "starts"),
    [
        ("a boat house and a boat", ["a boat house", "a boat"], [0, 4]),
        ("a boat house and a boat", ["a boat", "a boat house"], [4, 0]),
        ("a boat house and a boat and a house", ["house", "boat", "a boat house"], [8, 5, 0]),
        ("a horse statue next to a horse", ["horse", "a horse statue"], [6, 0]),
        ("a cat and a cat", ["a cat", "a cat"], [0, 3]),
        ("a cat and a cat", ["a cat"] * 3, [0, 3, 0]),  # they share when occurrences run out
        ("a cat and a cat house", ["a cat", "a cat", "a cat house"], [0, 0, 3]),  # no cat is in a cat house
        ("a boat house", ["a boat house", "a boat", "house"], [0, 0, 2]),  # no other place
        # The longest first would take x y at 0, and y z with it; the whole is free of overlaps.
        ("x y z x y", ["x y", "y z"], [3, 1]),
        ("x y z w x y", ["x y", "y z w"], [4, 1]),
        ("red red dog", ["red", "red dog"], [0, 1]),
    ],
)
def test_as_few_overlaps_as_possible(text, phrases, starts):
    assert placed(text, *phrases) == starts


def test_not_inside_of_words():
    found = [slice(0, 1), slice(4, 5)]
    assert assign([Choice("cat", found, [True, False])] * 2) == [slice(4, 5)] * 2


def test_best_of_all_placements():
    """Against every combination, on random texts."""
    rng = random.Random(0)
    for _ in range(200):
        text = [rng.choice("abc") for _ in range(8)]
        phrases = []
        while len(phrases) < 4:
            start = rng.randrange(8)
            phrases.append("".join(text[start : start + rng.randint(1, 3)]))
        choices = [Choice(p, found := occurrences(text, p), [False] * len(found)) for p in phrases]

        def cost(spans, phrases=phrases):
            # Pairs of different phrases that overlap, and phrases that share an equal one's occurrence.
            pairs = list(itertools.combinations(range(4), 2))
            met = [(i, j) for i, j in pairs if overlap(spans[i], spans[j])]
            return len([1 for i, j in met if phrases[i] != phrases[j]]) + len(
                {j for i, j in met if phrases[i] == phrases[j]}
            )

        best = min(cost(spans) for spans in itertools.product(*(choice.spans for choice in choices)))
        assert cost(assign(choices)) == best


def test_many_phrases_take_no_time():
    text = " and ".join(["a dog"] * 15)
    starts = placed(text, *["a dog"] * 20, *["dog"] * 10)
    assert starts[:15] == [3 * i for i in range(15)]
