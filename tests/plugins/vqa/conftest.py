"""Tiny checkpoints of the real classes, saved as users have them; random weights that do depend on the image."""

from __future__ import annotations

import json

import pytest
import torch
import transformers as hf
from PIL import Image

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", "[ENC]")
WORDS = ("is", "there", "a", "red", "blue", "book", "pen", "what", "color", "the", "yes", "no", "two", "?")
SIDE = 16


def processor(name):
    return {
        "image_processor_type": name,
        "do_resize": True,
        "size": {"height": SIDE, "width": SIDE},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
    }


def sizes(**more):
    common = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    return {**common, **more}


@pytest.fixture(scope="session")
def blip(tmp_path_factory):
    """A folder with a BLIP for question answering."""
    folder = tmp_path_factory.mktemp("blip")
    tokens = hf.BertTokenizer(vocab={word: i for i, word in enumerate((*SPECIAL, *WORDS))}, model_max_length=24)
    text = sizes(
        vocab_size=len(tokens),
        encoder_hidden_size=16,
        max_position_embeddings=24,
        pad_token_id=0,
        bos_token_id=5,
        sep_token_id=3,
        eos_token_id=3,
    )
    vision = sizes(image_size=SIDE, patch_size=8, initializer_range=0.02)
    torch.manual_seed(0)
    network = hf.BlipForQuestionAnswering(hf.BlipConfig(text_config=text, vision_config=vision))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(4)
    network.save_pretrained(folder)
    tokens.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(processor("BlipImageProcessor")))
    return str(folder)


@pytest.fixture(scope="session")
def pictures():
    """Four of random pixels, not all of one size."""
    generator = torch.Generator().manual_seed(1)
    shapes = ((16, 16), (16, 16), (24, 20), (16, 16))
    values = [torch.randint(256, (*shape, 3), generator=generator, dtype=torch.uint8) for shape in shapes]
    return [Image.fromarray(each.numpy()) for each in values]
