"""Texts as pipelines read them."""

from __future__ import annotations

import pytest

from realignkit.errors import PromptError
from realignkit.pipelines import encoding
from tests.small_pipelines import with_tokenizers


def test_check_prompt(word_tokenizer):
    pipeline = with_tokenizers(word_tokenizer)
    encoding.check_prompt(pipeline, "a red book " * 4)  # 12 + 2 tokens
    with pytest.raises(PromptError, match="empty"):
        encoding.check_prompt(pipeline, "  \n")
    with pytest.raises(PromptError, match=r"17 tokens.* reads 16: leave out at least 1"):
        encoding.check_prompt(pipeline, "a red book " * 5)
