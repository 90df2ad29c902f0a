"""Choosing the text, appending and isolating phrases, with a BPE tokenizer and a word-level one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from realignkit.errors import ModelError, PromptError
from realignkit.pipelines.phrases import Conditioning, condition, encode, isolate
from realignkit.pipelines.spans import phrase_spans
from realignkit.types import Layout, Likelihood, LocalCaption, Segment
from tests.small_pipelines import with_tokenizers

CERTAIN, POSSIBLE, UNLIKELY = Likelihood.CERTAIN, Likelihood.POSSIBLE, Likelihood.UNLIKELY


def segment(caption: str, likelihood: Likelihood = CERTAIN, confidence: float = 1.0, empty: bool = False) -> Segment:
    mask = np.full((8, 8), not empty)
    return Segment(LocalCaption(caption.split()[-1] if caption else "thing", caption, likelihood), mask, confidence)


def test_isolate_replaces_the_span_alone():
    text, alone = torch.zeros(6, 2), torch.arange(12.0).view(6, 2)
    out = isolate(text, slice(2, 4), alone, offset=1)
    assert torch.equal(out[2:4], alone[1:3])
    assert not out[[0, 1, 4, 5]].any() and not text.any()


def test_the_prompt_alone_when_it_names_everything(word_tokenizer):
    layout = Layout((segment("a red book"), segment("a cat", POSSIBLE)))
    out = condition(with_tokenizers(word_tokenizer), "a cat and a red book", layout)
    assert out.text == "a cat and a red book"
    assert out.spans == (slice(4, 7), slice(1, 3)) and out.notes == ()


def test_missing_captions_are_appended_most_certain_first(word_tokenizer):
    layout = Layout((segment("a dog", POSSIBLE), segment("red book"), segment("a cat"), segment("a dog", POSSIBLE)))
    out = condition(with_tokenizers(word_tokenizer), "a cat", layout)
    assert out.text == "a cat, red book, a dog"  # equal captions once
    assert [s.caption.caption for s in out.segments] == ["a dog", "red book", "a cat", "a dog"]
    assert out.spans == (slice(7, 9), slice(4, 6), slice(1, 3), slice(7, 9))
    other = condition(with_tokenizers(word_tokenizer), "a cat", layout, separator=" and ")
    assert other.text == "a cat and red book and a dog"


def test_appending_can_be_switched_off(word_tokenizer):
    layout = Layout((segment("a dog"), segment("a cat")))
    out = condition(with_tokenizers(word_tokenizer), "a cat", layout, append=False)
    assert out.text == "a cat" and len(out.segments) == 1
    assert "'a dog' is not modulated: the prompt does not contain it" in out.notes


def test_least_certain_is_dropped_over_the_limit(word_tokenizer):
    layout = Layout((segment("a dog", POSSIBLE), segment("red book", CERTAIN, 0.4), segment("a cat", CERTAIN, 0.9)))
    # 7 + 2 tokens; each appended caption and its comma take 3; 16 are allowed.
    out = condition(with_tokenizers(word_tokenizer), "book and book and book and book", layout)
    assert out.text == "book and book and book and book, a cat, red book"
    assert len(out.notes) == 1 and "'a dog' (possible)" in out.notes[0] and "16 tokens" in out.notes[0]
    longer = condition(with_tokenizers(word_tokenizer), "book and book and book and book and a", layout)
    assert longer.text.endswith("and a, a cat") and len(longer.notes) == 2
    assert [s.caption.caption for s in longer.segments] == ["a cat"]


def test_unlikely_captions_are_never_appended(word_tokenizer):
    layout = Layout((segment("a dog", UNLIKELY), segment("a cat", UNLIKELY)))
    out = condition(with_tokenizers(word_tokenizer), "a red book and a cat", layout)
    assert out.text == "a red book and a cat"
    assert out.spans == (None, slice(5, 7))  # the text names the cat: suppress_unlikely can act on it


def test_what_cannot_take_part_is_noted(word_tokenizer):
    layout = Layout((segment("a cat", empty=True), segment("a zebra")))
    out = condition(with_tokenizers(word_tokenizer), "a cat", layout)
    assert out.segments == () and out.text == "a cat"
    assert ["mask is empty" in out.notes[0], "does not know" in out.notes[1]] == [True, True]
    with pytest.raises(PromptError, match="caption of 'thing' is empty"):
        condition(with_tokenizers(word_tokenizer), "a cat", Layout((segment(""),)))


def test_tokenizers_that_disagree(tokenizer, word_tokenizer):
    # Nine letters to one tokenizer, one word to the other.
    pair = with_tokenizers(word_tokenizer, tokenizer)
    layout = Layout((segment("a cat"),))
    assert condition(pair, "a red cat and a cat", layout).spans == (slice(5, 7),)
    word_tokenizer.add_tokens("zebra")
    with pytest.raises(ModelError, match="split"):
        condition(pair, "zebra and a cat", layout)


def test_encode_isolates_phrases(pipeline):
    prompt = "a red book and a dog"
    layout = Layout((segment("a dog"), segment("red book", UNLIKELY)))
    item = condition(pipeline, prompt, layout)
    whole, pooled = encode(pipeline, [item], isolate_phrases=False)
    isolated, same_pooled = encode(pipeline, [item])
    alone, _ = encode(pipeline, [Conditioning("a dog")])
    span = slice(5, 7)
    assert item.spans[0] == span
    torch.testing.assert_close(isolated[0, span], alone[0, 1:3])
    assert (isolated[0, span] - whole[0, span]).abs().max() > 1e-3
    rest = [i for i in range(24) if i not in (5, 6)]
    torch.testing.assert_close(isolated[0, rest], whole[0, rest])  # score 0: "red book" is not isolated
    if pooled is not None:
        torch.testing.assert_close(pooled, same_pooled)


def test_a_phrase_within_another_one_is_found_where_it_stands_alone(word_tokenizer):
    """A dog is not the beginning of a dog book."""
    text = "a dog book and a dog"
    assert phrase_spans(word_tokenizer, text, ["a dog book", "a dog"]) == [slice(1, 4), slice(5, 7)]
    layout = Layout((segment("a dog"), segment("a dog book")))
    assert condition(with_tokenizers(word_tokenizer), text, layout).spans == (slice(5, 7), slice(1, 4))
