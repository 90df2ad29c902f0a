from __future__ import annotations

import pytest
import torch
import transformers as hf

from realignkit_plugins.metrics.choices import SentenceEncoder, nearest_by_words


@pytest.mark.parametrize(
    ("said", "choices", "choice"),
    [
        ("Two dogs.", ["1 dog", "2 dogs", "3 dogs"], "2 dogs"),
        ("two", ["1", "2", "3"], "2"),
        ("a light blue", ["red", "blue"], "blue"),
        ("Yes, there is", ["yes", "no"], "yes"),
        ("zebra", ["red", "blue"], ""),
        ("", ["yes", "no"], ""),
    ],
)
def test_without_an_encoder_words_in_common_decide(said, choices, choice):
    assert nearest_by_words(said, choices) == choice


def test_an_encoder_takes_the_nearest_mean_of_token_states(tmp_path):
    words = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "dark", "red", "blue", "two")
    tokens = hf.BertTokenizer(vocab={word: place for place, word in enumerate(words)}, model_max_length=16)
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    network = hf.BertModel(hf.BertConfig(vocab_size=len(words), max_position_embeddings=16, **sizes)).eval()
    network.save_pretrained(tmp_path)
    tokens.save_pretrained(tmp_path)
    encoder = SentenceEncoder(model=str(tmp_path), device="cpu")

    def embedding(text):
        with torch.no_grad():
            states = network(**tokens(text, return_tensors="pt")).last_hidden_state[0].double().mean(0)
        return states / states.norm()

    near = [float(embedding("dark red") @ embedding(choice)) for choice in ("blue", "red", "two")]
    assert encoder("dark red", ["blue", "red", "two"]) == ("blue", "red", "two")[near.index(max(near))]
