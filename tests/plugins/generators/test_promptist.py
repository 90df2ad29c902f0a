"""Promptist: its beam search against every possible continuation, on a GPT-2 of a dozen words."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

from realignkit.errors import ModelError, OptionError
from realignkit_plugins.generators.promptist import PromptistGenerator
from realignkit_plugins.generators.stable_diffusion import StableDiffusionGenerator
from tests.tiny import build_pipeline

WORDS = ["a", "red", "book", "pen", "Rephrase:", "sharp", "detailed"]
END = "<|endoftext|>"
LENGTH = 2


def language_model(folder: Path, *, ends_at_once: bool = False) -> None:
    """A random GPT-2 and its tokenizer (whole words), saved; it never ends a text by itself, or always."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    vocabulary = {word: i for i, word in enumerate([*WORDS, END])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token=END))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=END, unk_token=END).save_pretrained(folder)
    torch.manual_seed(4)
    end = vocabulary[END]
    network = GPT2LMHeadModel(
        GPT2Config(vocab_size=len(vocabulary), n_positions=16, n_embd=16, n_layer=2, n_head=2, eos_token_id=end)
    ).eval()
    with torch.no_grad():
        network.transformer.wte.weight.normal_()
        # One direction that only the end token looks at.
        network.transformer.wte.weight[:, 0] = 0
        network.transformer.wte.weight[end] = 0
        network.transformer.wte.weight[end, 0] = 50 if ends_at_once else -50
        network.transformer.ln_f.weight[0] = 0
        network.transformer.ln_f.bias[0] = 1
    network.save_pretrained(folder)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pipeline")
    build_pipeline().save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    folder = tmp_path_factory.mktemp("language")
    language_model(folder)
    return str(folder)


def likeliest(adapter: str, prompt: str) -> str:
    """Every continuation of LENGTH words, scored by the model."""
    from transformers import AutoTokenizer, GPT2LMHeadModel

    network, tokenizer = GPT2LMHeadModel.from_pretrained(adapter).eval(), AutoTokenizer.from_pretrained(adapter)
    start = tokenizer(f"{prompt} Rephrase:").input_ids
    best, sure = "", -np.inf
    for words in itertools.product(range(len(WORDS)), repeat=LENGTH):
        ids = torch.tensor([[*start, *words]])
        with torch.no_grad():
            log_probabilities = network(ids).logits[0].log_softmax(-1)
        score = sum(float(log_probabilities[len(start) - 1 + i, word]) for i, word in enumerate(words))
        if score > sure:
            best, sure = " ".join(WORDS[word] for word in words), score
    return best


@pytest.mark.parametrize("prompt", ["a red book", "a pen"])
def test_wide_beams_find_the_likeliest_continuation(adapter, prompt):
    promptist = PromptistGenerator(adapter=adapter, max_new_tokens=LENGTH, num_beams=len(WORDS), device="cpu")
    assert promptist.adapt(f" {prompt} ") == likeliest(adapter, prompt)


def test_what_cannot_be_adapted_stays(adapter, tmp_path):
    language_model(tmp_path, ends_at_once=True)
    assert PromptistGenerator(adapter=str(tmp_path), device="cpu").adapt("a red book") == "a red book"
    long = "a red book " * 8  # no room left in 16 positions
    assert PromptistGenerator(adapter=adapter, device="cpu").adapt(long) == long


def test_images_are_those_of_the_adapted_prompt(model, adapter):
    generator = PromptistGenerator(model=model, adapter=adapter, max_new_tokens=LENGTH, device="cpu")
    assert generator.attention_family is None
    call = {"num_inference_steps": 3, "output_type": "np", "height": 32, "width": 32}
    got = generator.pipeline()(["a red book"], generator=[torch.Generator().manual_seed(1)], **call).images
    adapted = generator.adapt("a red book")
    assert adapted != "a red book"
    want = build_pipeline()([adapted], generator=[torch.Generator().manual_seed(1)], **call).images
    assert np.allclose(got, want, atol=1e-5)


def test_on_micro(adapter):
    generator = PromptistGenerator(model="micro:base", adapter=adapter, max_new_tokens=LENGTH, device="cpu")
    call = {"num_inference_steps": 2, "output_type": "np"}
    got = generator.pipeline()(["a red book"], generator=[torch.Generator().manual_seed(1)], **call).images
    plain = StableDiffusionGenerator(model="micro:base", device="cpu").pipeline()
    adapted = [generator.adapt("a red book")]
    want = plain(adapted, generator=[torch.Generator().manual_seed(1)], **call).images
    assert got.shape == (1, 64, 64, 3)
    assert np.allclose(got, want, atol=1e-5)


def test_defaults_are_the_published_ones():
    options = PromptistGenerator().options
    assert (options.adapter, options.num_beams, options.max_new_tokens, options.length_penalty) == (
        "microsoft/Promptist",
        8,
        75,
        -1.0,
    )
    with pytest.raises(OptionError, match="num_beams"):
        PromptistGenerator(num_beams=0)


def test_bad_checkpoints(model, tmp_path):
    with pytest.raises(ModelError, match="no folder"):
        PromptistGenerator(adapter=str(tmp_path / "nowhere")).adapt("a pen")
    with pytest.raises(ModelError, match="cannot be loaded"):
        PromptistGenerator(adapter=str(tmp_path)).adapt("a pen")
    with pytest.raises(ModelError, match="no GPT-2"):
        PromptistGenerator(adapter=f"{model}/text_encoder").adapt("a pen")
