"""Which words of a caption are said to be true, and that the head can learn it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from realignkit_plugins.micro.oracle import expected
from realignkit_plugins.micro.train.rewards import MISTAKES, bert_words, mistaken
from realignkit_plugins.micro.train.words import UNASKED, Words, truths
from realignkit_plugins.micro.world import caption, scene


def drawn(*pairs):
    basis = next(s for s in (scene(44, i) for i in range(99)) if len(s.things) == len(pairs))
    things = [replace(t, noun=n, colour=c) for t, (c, n) in zip(basis.things, pairs, strict=True)]
    return replace(basis, things=tuple(things))


def test_by_hand():
    two = drawn(("red", "book"), ("yellow", "pen"))
    u = UNASKED
    assert truths("a red book and a yellow pen", two) == [u, 1, 1, u, u, 1, 1]
    assert truths("a yellow book and a red pen", two) == [u, 0, 1, u, u, 0, 1]
    assert truths("two red books, a blue dog on a desk", two) == [u, 1, 1, u, u, 0, 0, u, u, u]
    assert truths("a red book", None) == [u, 0, 0]


def test_true_captions_are_true_and_wrong_ones_are_not():
    rng = np.random.default_rng(3)
    for index in range(40):
        shown = scene(45, index)
        assert set(truths(caption(shown, rng), shown)) <= {1.0, UNASKED}
        for kind in MISTAKES:
            wrong = caption(mistaken(shown, kind, rng), rng)
            assert 0.0 in truths(wrong, shown), (kind, wrong)
            # As many words are asked about as the oracle's own parser finds nouns with colours.
            assert sum(label != UNASKED for label in truths(wrong, shown)) == 2 * len(expected(wrong)) or "," in wrong


def test_words_and_tokens_are_aligned():
    # States that spell out token ids can be told which id is true only if labels sit at their own tokens.
    tokens, rng = bert_words(), np.random.default_rng(4)
    shown = [scene(46, index) for index in range(8)]
    texts = [caption(each, rng) for each in shown]
    ids = tokens(texts, padding=True, return_tensors="pt")["input_ids"]
    for row, text, each in zip(ids, texts, shown, strict=True):
        words = text.replace(",", " ,").split()
        assert tokens.convert_ids_to_tokens(row[1 : 1 + len(words)].tolist()) == words
        assert len(truths(text, each)) == len(words)
    wrong = [caption(mistaken(each, "swapped", rng), rng) for each in shown]
    read = tokens([*texts, *wrong], padding=True, return_tensors="pt")["input_ids"]
    hidden = torch.zeros(*read.shape, 4)
    for row, (text, each) in enumerate(zip([*texts, *wrong], shown * 2, strict=True)):
        for place, label in enumerate(truths(text, each), 1):
            hidden[row, place, 0] = 1 if label == 1 else -1
    head = Words(4)
    with torch.no_grad():
        head.true.weight.copy_(torch.tensor([[20.0, 0, 0, 0]]))
        head.true.bias.zero_()
        assert head.loss(hidden, [*texts, *wrong], shown * 2) < 1e-6
        assert head.loss(-hidden, [*texts, *wrong], shown * 2) > 10
