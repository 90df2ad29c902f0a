"""Finding, appending and isolating phrases, with a BPE tokenizer and a word-level one."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from realignkit.errors import ModelError, PromptError
from realignkit.pipelines import encoding
from realignkit.types import Layout, Likelihood, LocalCaption, Segment

CERTAIN, POSSIBLE, UNLIKELY = Likelihood.CERTAIN, Likelihood.POSSIBLE, Likelihood.UNLIKELY


def segment(caption: str, likelihood: Likelihood = CERTAIN, confidence: float = 1.0, empty: bool = False) -> Segment:
    mask = np.full((8, 8), not empty)
    return Segment(LocalCaption(caption.split()[-1] if caption else "thing", caption, likelihood), mask, confidence)


@pytest.fixture(scope="module")
def word_tokenizer() -> PreTrainedTokenizerFast:
    words = ["[UNK]", "[PAD]", "[BOS]", "[EOS]", "a", "red", "book", "and", "cat", "dog", ","]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single="[BOS] $A [EOS]", special_tokens=[("[BOS]", 2), ("[EOS]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="[UNK]",
        pad_token="[PAD]",
        bos_token="[BOS]",
        eos_token="[EOS]",
        model_max_length=16,
    )


def with_tokenizers(*tokenizers):
    """The part of a pipeline that tells texts' tokens and limits."""
    config = SimpleNamespace(max_position_embeddings=16)
    parts = {}
    for suffix, tokenizer in zip(("", "_2"), tokenizers, strict=False):
        parts[f"tokenizer{suffix}"] = tokenizer
        parts[f"text_encoder{suffix}"] = SimpleNamespace(config=config)
    return SimpleNamespace(**parts)


def test_find_span():
    ids = [9, 1, 2, 1, 2, 3]
    assert encoding.find_span(ids, [1, 2]) == slice(1, 3)
    assert encoding.find_span(ids, [1, 2], [slice(1, 3)]) == slice(3, 5)
    assert encoding.find_span(ids, [1, 2, 3]) == slice(3, 6)
    assert encoding.find_span(ids, [2, 2]) is None
    assert encoding.find_span(ids, []) is None
    assert encoding.find_span([], [1]) is None


@pytest.mark.parametrize("which", ["tokenizer", "word_tokenizer"])
def test_spans_decode_to_their_phrases(request, which):
    tokenizer = request.getfixturevalue(which)
    text, phrases = "A red book and a cat and a red book", ["a cat", "a red book", "Red Book", "a red book"]
    found = encoding.phrase_spans(tokenizer, text, phrases)
    ids = tokenizer(text, padding="max_length", max_length=24).input_ids
    for phrase, span in zip(phrases, found, strict=True):
        assert tokenizer.decode(ids[span]).strip() == phrase.lower()
    assert found[0].start == 5  # behind the start token and "a red book and"
    assert found[1] != found[3]  # equal captions take one occurrence each …
    assert encoding.phrase_spans(tokenizer, "a cat", ["a cat", "a cat"]) == [slice(1, 3)] * 2  # … and share the last


def test_spans_are_of_tokens_not_of_characters(tokenizer):
    # "cat" is inside "cattle" as characters, but "cat</w>" is not among the tokens of "cattle".
    with pytest.raises(PromptError, match="'cat' is not part of"):
        encoding.phrase_spans(tokenizer, "a cattle", ["cat"])
    assert encoding.phrase_spans(tokenizer, "a cattle", ["cattle"])[0].start == 2


def test_rare_words_of_several_tokens(tokenizer):
    assert encoding.phrase_spans(tokenizer, "a zebra and a dog", ["zebra", "dog"]) == [slice(2, 7), slice(9, 10)]


@pytest.mark.parametrize("phrase", ["", "zebra"])
def test_unknown_words_match_nothing(word_tokenizer, phrase):
    # Both texts hold [UNK], and they are not the same word.
    with pytest.raises(PromptError):
        encoding.phrase_spans(word_tokenizer, "a giraffe", [phrase])


def test_isolate_replaces_the_span_alone():
    text, alone = torch.zeros(6, 2), torch.arange(12.0).view(6, 2)
    out = encoding.isolate(text, slice(2, 4), alone, offset=1)
    assert torch.equal(out[2:4], alone[1:3])
    assert not out[[0, 1, 4, 5]].any() and not text.any()


def test_check_prompt(word_tokenizer):
    pipeline = with_tokenizers(word_tokenizer)
    encoding.check_prompt(pipeline, "a red book " * 4)  # 12 + 2 tokens
    with pytest.raises(PromptError, match="empty"):
        encoding.check_prompt(pipeline, "  \n")
    with pytest.raises(PromptError, match=r"17 tokens.* reads 16: leave out at least 1"):
        encoding.check_prompt(pipeline, "a red book " * 5)


def test_the_prompt_alone_when_it_names_everything(word_tokenizer):
    layout = Layout((segment("a red book"), segment("a cat", POSSIBLE)))
    out = encoding.condition(with_tokenizers(word_tokenizer), "a cat and a red book", layout)
    assert out.text == "a cat and a red book"
    assert out.spans == (slice(4, 7), slice(1, 3)) and out.notes == ()


def test_missing_captions_are_appended_most_certain_first(word_tokenizer):
    layout = Layout((segment("a dog", POSSIBLE), segment("red book"), segment("a cat"), segment("a dog", POSSIBLE)))
    out = encoding.condition(with_tokenizers(word_tokenizer), "a cat", layout)
    assert out.text == "a cat, red book, a dog"  # equal captions once
    assert [s.caption.caption for s in out.segments] == ["a dog", "red book", "a cat", "a dog"]
    assert out.spans == (slice(7, 9), slice(4, 6), slice(1, 3), slice(7, 9))
    other = encoding.condition(with_tokenizers(word_tokenizer), "a cat", layout, separator=" and ")
    assert other.text == "a cat and red book and a dog"


def test_appending_can_be_switched_off(word_tokenizer):
    layout = Layout((segment("a dog"), segment("a cat")))
    out = encoding.condition(with_tokenizers(word_tokenizer), "a cat", layout, append=False)
    assert out.text == "a cat" and len(out.segments) == 1
    assert "'a dog' is not modulated: the prompt does not contain it" in out.notes


def test_least_certain_is_dropped_over_the_limit(word_tokenizer):
    layout = Layout((segment("a dog", POSSIBLE), segment("red book", CERTAIN, 0.4), segment("a cat", CERTAIN, 0.9)))
    # 7 + 2 tokens; each appended caption and its comma take 3; 16 are allowed.
    out = encoding.condition(with_tokenizers(word_tokenizer), "book and book and book and book", layout)
    assert out.text == "book and book and book and book, a cat, red book"
    assert len(out.notes) == 1 and "'a dog' (possible)" in out.notes[0] and "16 tokens" in out.notes[0]
    longer = encoding.condition(with_tokenizers(word_tokenizer), "book and book and book and book and a", layout)
    assert longer.text.endswith("and a, a cat") and len(longer.notes) == 2
    assert [s.caption.caption for s in longer.segments] == ["a cat"]


def test_unlikely_captions_are_never_appended(word_tokenizer):
    layout = Layout((segment("a dog", UNLIKELY), segment("a cat", UNLIKELY)))
    out = encoding.condition(with_tokenizers(word_tokenizer), "a red book and a cat", layout)
    assert out.text == "a red book and a cat"
    assert out.spans == (None, slice(5, 7))  # the text names the cat: suppress_unlikely can act on it


def test_what_cannot_take_part_is_noted(word_tokenizer):
    layout = Layout((segment("a cat", empty=True), segment("a zebra")))
    out = encoding.condition(with_tokenizers(word_tokenizer), "a cat", layout)
    assert out.segments == () and out.text == "a cat"
    assert ["mask is empty" in out.notes[0], "does not know" in out.notes[1]] == [True, True]
    with pytest.raises(PromptError, match="caption of 'thing' is empty"):
        encoding.condition(with_tokenizers(word_tokenizer), "a cat", Layout((segment(""),)))


def test_tokenizers_that_disagree(tokenizer, word_tokenizer):
    # Nine letters to one tokenizer, one word to the other.
    pair = with_tokenizers(word_tokenizer, tokenizer)
    layout = Layout((segment("a cat"),))
    assert encoding.condition(pair, "a red cat and a cat", layout).spans == (slice(5, 7),)
    word_tokenizer.add_tokens("zebra")
    with pytest.raises(ModelError, match="split"):
        encoding.condition(pair, "zebra and a cat", layout)


def test_regions_of_a_conditioning(word_tokenizer):
    layout = Layout((segment("a cat", POSSIBLE), segment("a dog", UNLIKELY)))
    pipeline = with_tokenizers(word_tokenizer)
    out = encoding.regions(pipeline, encoding.condition(pipeline, "a red cat and a cat", layout))
    assert out.tokens.shape == (16, 2)
    assert out.tokens[:, 0].nonzero()[:, 0].tolist() == [5, 6] and not out.tokens[:, 1].any()
    assert out.scores.tolist() == [0.5, 0.0]
    assert out.padding.nonzero()[:, 0].tolist() == list(range(8, 16))  # BOS, six words, EOS are 0-7


def test_encode_isolates_phrases(pipeline):
    prompt = "a red book and a dog"
    layout = Layout((segment("a dog"), segment("red book", UNLIKELY)))
    item = encoding.condition(pipeline, prompt, layout)
    whole, pooled = encoding.encode(pipeline, [item], isolate_phrases=False)
    isolated, same_pooled = encoding.encode(pipeline, [item])
    alone, _ = encoding.encode(pipeline, [encoding.Conditioning("a dog")])
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
    assert encoding.phrase_spans(word_tokenizer, text, ["a dog book", "a dog"]) == [slice(1, 4), slice(5, 7)]
    layout = Layout((segment("a dog"), segment("a dog book")))
    assert encoding.condition(with_tokenizers(word_tokenizer), text, layout).spans == (slice(5, 7), slice(1, 4))


def test_a_word_is_not_looked_for_within_words(tokenizer):
    # "bobcat" ends with the very token of "cat".
    ids = tokenizer("a bobcat and a cat", add_special_tokens=False).input_ids
    cat = tokenizer("cat", add_special_tokens=False).input_ids
    assert len(cat) == 1 and ids.count(cat[0]) == 2
    found = encoding.phrase_spans(tokenizer, "a bobcat and a cat", ["cat", "a cat"])
    assert [tokenizer("a bobcat and a cat").input_ids[span] for span in found[:1]] == [cat]
    assert found[0].start == len(ids)  # the last word, behind the start token
