"""Tokenizers of language models, whose texts stand within a conversation."""

from __future__ import annotations

import pytest

from realignkit.errors import ModelError
from realignkit.pipelines.encoding import content_ids, full_ids
from realignkit.pipelines.families.chat import ChatTokenizer, chat_template
from realignkit.pipelines.spans import content_start, every_span, forms, names, phrase_spans
from tests.attention.chat_models import qwen_tokenizer

SAYING = "<|im_start|>system\nthe image: a red book<|im_end|>\n<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"


def chat(dropped: int = 0) -> ChatTokenizer:
    plain = qwen_tokenizer()
    return ChatTokenizer(plain, lambda text: plain(SAYING.format(text)).input_ids, dropped=dropped)


def test_the_conversation_counts_as_start_and_end():
    tokenizer = chat()
    assert tokenizer.decode(full_ids(tokenizer, "a cat")) == SAYING.format("a cat")
    assert tokenizer.decode(content_ids(tokenizer, "a cat")) == "a cat"
    assert full_ids(tokenizer, "a cat")[content_start(tokenizer, "a cat") :][:2] == content_ids(tokenizer, "a cat")
    assert content_ids(tokenizer, "") == []


def test_what_the_network_does_not_see_is_dropped():
    whole, rest = chat(), chat(dropped=9)
    assert full_ids(rest, "a cat") == full_ids(whole, "a cat")[9:]
    assert content_ids(rest, "a cat") == content_ids(whole, "a cat")
    assert content_start(rest, "a cat") == content_start(whole, "a cat") - 9


@pytest.mark.parametrize("text", ["a red book", "assistant", "\na cat", " a cat\n", "user user"])
def test_texts_that_are_like_the_conversation_around_them(text):
    """Tokens may merge over the border, but nothing of the text is lost, and nothing before it is taken for it."""
    tokenizer = chat()
    ids, start = full_ids(tokenizer, text), content_start(tokenizer, text)
    content = content_ids(tokenizer, text)
    assert ids[start : start + len(content)] == content
    assert tokenizer.decode(content).strip() == text.strip()


def test_phrases_are_found_in_the_text_alone():
    tokenizer = chat()
    assert not names(tokenizer, "a dog", "red book")
    text = "red book and a red book"
    found = phrase_spans(tokenizer, text, ["red book", "red book"])
    decoded = [tokenizer.decode(full_ids(tokenizer, text)[span]) for span in found]
    assert decoded == ["red book", " red book"] and every_span(tokenizer, text, "red book") == found
    assert every_span(tokenizer, "a redbook", "book") == []  # within a word


def test_a_word_has_other_tokens_behind_a_space(tokenizer, word_tokenizer):
    assert [len(form) for form in forms(chat(), "red")] == [2, 1]
    assert len(forms(tokenizer, "red")) == len(forms(word_tokenizer, "red")) == 1  # but not where spaces do not count


def test_without_a_template():
    tokenizer = qwen_tokenizer()
    assert chat_template(tokenizer, "Flux2KleinPipeline") is tokenizer
    tokenizer.chat_template = None
    with pytest.raises(ModelError, match="the tokenizer of this Flux2KleinPipeline has no chat template"):
        chat_template(tokenizer, "Flux2KleinPipeline")
