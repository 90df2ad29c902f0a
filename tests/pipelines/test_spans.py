"""Finding phrases, with a BPE tokenizer and a word-level one."""

from __future__ import annotations

import itertools
import random

import pytest

from realignkit.errors import PromptError
from realignkit.pipelines.spans import Choice, assign, find_span, occurrences, overlap, phrase_spans


def test_find_span():
    ids = [9, 1, 2, 1, 2, 3]
    assert find_span(ids, [1, 2]) == slice(1, 3)
    assert find_span(ids, [1, 2], [slice(1, 3)]) == slice(3, 5)
    assert find_span(ids, [1, 2, 3]) == slice(3, 6)
    assert find_span(ids, [2, 2]) is None
    assert find_span(ids, []) is None
    assert find_span([], [1]) is None


@pytest.mark.parametrize("which", ["tokenizer", "word_tokenizer"])
def test_spans_decode_to_their_phrases(request, which):
    tokenizer = request.getfixturevalue(which)
    text, phrases = "A red book and a cat and a red book", ["a cat", "a red book", "Red Book", "a red book"]
    found = phrase_spans(tokenizer, text, phrases)
    ids = tokenizer(text, padding="max_length", max_length=24).input_ids
    for phrase, span in zip(phrases, found, strict=True):
        assert tokenizer.decode(ids[span]).strip() == phrase.lower()
    assert found[0].start == 5  # behind the start token and "a red book and"
    assert found[1] != found[3]  # equal captions take one occurrence each …
    assert phrase_spans(tokenizer, "a cat", ["a cat", "a cat"]) == [slice(1, 3)] * 2  # … and share the last


def test_spans_are_of_tokens_not_of_characters(tokenizer):
    # "cat" is inside "cattle" as characters, but "cat</w>" is not among the tokens of "cattle".
    with pytest.raises(PromptError, match="'cat' is not part of"):
        phrase_spans(tokenizer, "a cattle", ["cat"])
    assert phrase_spans(tokenizer, "a cattle", ["cattle"])[0].start == 2


def test_rare_words_of_several_tokens(tokenizer):
    assert phrase_spans(tokenizer, "a zebra and a dog", ["zebra", "dog"]) == [slice(2, 7), slice(9, 10)]


@pytest.mark.parametrize("phrase", ["", "zebra"])
def test_unknown_words_match_nothing(word_tokenizer, phrase):
    # Both texts hold [UNK], and they are not the same word.
    with pytest.raises(PromptError):
        phrase_spans(word_tokenizer, "a giraffe", [phrase])


def test_a_word_is_not_looked_for_within_words(tokenizer):
    # "bobcat" ends with the very token of "cat".
    ids = tokenizer("a bobcat and a cat", add_special_tokens=False).input_ids
    cat = tokenizer("cat", add_special_tokens=False).input_ids
    assert len(cat) == 1 and ids.count(cat[0]) == 2
    found = phrase_spans(tokenizer, "a bobcat and a cat", ["cat", "a cat"])
    assert [tokenizer("a bobcat and a cat").input_ids[span] for span in found[:1]] == [cat]
    assert found[0].start == len(ids)  # the last word, behind the start token


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
