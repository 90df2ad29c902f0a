"""CLIP's tokenizer, made of the merges that this package brings."""

from __future__ import annotations

from realignkit_plugins.generators import clip_bpe


def test_the_tokenizer_is_clips(tmp_path):
    """Ids as OpenAI's tokenizer gives them."""
    from transformers import CLIPTokenizer

    words = clip_bpe.vocabulary()
    assert len(words) == clip_bpe.SIZE
    assert (words["!"], words["the</w>"], words["<|startoftext|>"], words["<|endoftext|>"]) == (0, 518, 49406, 49407)
    clip_bpe.write_tokenizer(tmp_path / "tokenizer", 77)
    tokenizer = CLIPTokenizer.from_pretrained(tmp_path / "tokenizer")
    assert tokenizer("a photo of a cat").input_ids == [49406, 320, 1125, 539, 320, 2368, 49407]
    assert tokenizer("Hello  WORLD!").input_ids == [49406, 3306, 1002, 256, 49407]
    padded = tokenizer("cat", padding="max_length").input_ids
    assert (len(padded), padded[-1]) == (77, 49407)
    clip_bpe.write_tokenizer(tmp_path / "open", 77, "!")
    assert CLIPTokenizer.from_pretrained(tmp_path / "open")("cat", padding="max_length").input_ids[-1] == 0
