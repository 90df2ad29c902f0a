"""The word tokenizers of the embedded models, in CLIP's own format (vocab.json, merges.txt) and in GPT-2's."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTokenizer, GPT2Tokenizer

from realignkit_plugins.micro.world.vocabulary import BACKGROUNDS, COLOURS, COUNTS, EXTRA_NOUNS, NOUNS, plural

MAX_LENGTH = 32
_GLUE = "a an the and of to left right above below in on with under photo picture one four"


def build_tokenizer() -> CLIPTokenizer:
    """One token per word of the world; any other word falls apart into letters, as BPE does."""
    letters, merges = _learn(_words(), suffix="</w>")
    # CLIP's order: bytes, bytes that end a word, merges, the two special tokens.
    tokens = [*letters, *(letter + "</w>" for letter in letters), *("".join(pair) for pair in merges)]
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    for special in ("<|startoftext|>", "<|endoftext|>"):
        vocabulary[special] = len(vocabulary)
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False))
        Path(folder, "merges.txt").write_text("#version: 0.2\n" + "\n".join(map(" ".join, merges)) + "\n")
        return CLIPTokenizer.from_pretrained(folder, model_max_length=MAX_LENGTH)


def build_gpt2_tokenizer(further: Iterable[str] = ()) -> GPT2Tokenizer:
    """The same in GPT-2's format: the blank before a word is part of its token, and the text comes back to the letter.

    Args:
        further: texts whose words are tokens too.
    """
    words = _words()
    letters, merges = _learn({*words, *(f" {word}" for word in words), *further})
    tokens = [*letters, *("".join(pair) for pair in merges), "<|endoftext|>"]
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    return GPT2Tokenizer(vocab=vocabulary, merges=merges)


def _words() -> set[str]:
    words = {*COLOURS, *COUNTS.values(), *EXTRA_NOUNS, *BACKGROUNDS, *_GLUE.split()}
    return words | {form for noun in NOUNS for form in (noun, plural(noun))}


def _learn(texts: set[str], suffix: str = "") -> tuple[list[str], list[tuple[str, str]]]:
    """BPE that makes a token of each word: the letters that it starts from, and what it merges."""
    ends: dict[str, Any] = {"end_of_word_suffix": suffix} if suffix else {}
    bpe = Tokenizer(models.BPE(**ends))
    split: list[Any] = [pre_tokenizers.WhitespaceSplit()] if suffix else []
    bpe.pre_tokenizer = pre_tokenizers.Sequence([*split, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        # Equally frequent pairs merge in the order of their parts' numbers, which would otherwise come from a hash map:
        # another numbering of the words in every process.
        special_tokens=[*letters, *(letter + suffix for letter in letters if suffix)],
        vocab_size=8000,
        min_frequency=1,
        show_progress=False,
        initial_alphabet=letters,
        **ends,
    )
    bpe.train_from_iterator(sorted(texts), trainer)
    learned = json.loads(bpe.to_str())["model"]
    return letters, [tuple(pair) for pair in learned["merges"]]


def text_settings(tokens: CLIPTokenizer) -> dict[str, Any]:
    """What the configuration of a text network of transformers has from the tokenizer."""
    return {
        "vocab_size": len(tokens),
        "max_position_embeddings": MAX_LENGTH,
        "bos_token_id": tokens.bos_token_id,
        "eos_token_id": tokens.eos_token_id,
        "pad_token_id": tokens.pad_token_id,
    }
