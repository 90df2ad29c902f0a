"""Tiny checkpoints of the real classes, saved as users have them; random weights that do depend on the image."""

from __future__ import annotations

import json

import pytest
import torch
import transformers as hf
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers

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


CHAT = (
    "{% for message in messages %}USER: {% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}IMAGE{% else %}{{ part['text'] }} {% endif %}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
SAID = (
    *("USER:", "ASSISTANT:", "is", "there", "a", "red", "book", "pen", "what", "color", "the", "yes", "no", "Yes", "?"),
    *("Answer", "with", "one", "word", "or", "short", "phrase"),
)


def chat_words(*special):
    """A tokenizer of whole words, with these control tokens."""
    words = dict.fromkeys(("[PAD]", "[UNK]", "<s>", "</s>", *special, *SAID))
    tokens = Tokenizer(models.WordLevel({word: place for place, word in enumerate(words)}, unk_token="[UNK]"))
    tokens.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    names = {"unk_token": "[UNK]", "pad_token": "[PAD]", "bos_token": "<s>", "eos_token": "</s>"}
    return hf.PreTrainedTokenizerFast(tokenizer_object=tokens, additional_special_tokens=list(special), **names)


def language(tokens, **more):
    ids = {"bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0}
    return sizes(vocab_size=len(tokens), max_position_embeddings=256, **ids, **more)


@pytest.fixture(scope="session")
def llava(tmp_path_factory):
    """A folder with a LLaVA: a CLIP and a Llama."""
    folder = tmp_path_factory.mktemp("llava")
    tokens = chat_words("<image>")
    torch.manual_seed(0)
    config = hf.LlavaConfig(
        vision_config=hf.CLIPVisionConfig(**sizes(image_size=SIDE, patch_size=8)),
        text_config=hf.LlamaConfig(**language(tokens)),
        image_token_index=tokens.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-1,
    )
    hf.LlavaForConditionalGeneration(config).save_pretrained(folder)
    square = {"height": SIDE, "width": SIDE}
    hf.LlavaProcessor(
        hf.CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size=square),
        tokens,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT.replace("IMAGE", "<image> "),
    ).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def qwen(tmp_path_factory):
    """A folder with a Qwen2-VL, whose processor wants one for videos too."""
    folder = tmp_path_factory.mktemp("qwen")
    special = {name: f"<|{name}|>" for name in ("vision_start", "vision_end", "image_pad", "video_pad")}
    tokens = chat_words(*special.values())
    ids = {name: tokens.convert_tokens_to_ids(token) for name, token in special.items()}
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2]}
    torch.manual_seed(0)
    config = hf.Qwen2VLConfig(
        text_config=language(tokens, num_key_value_heads=2, rope_parameters=rope),
        vision_config={
            **{"depth": 2, "embed_dim": 16, "hidden_size": 16, "num_heads": 2, "mlp_ratio": 2},
            **{"patch_size": 4, "spatial_merge_size": 2, "temporal_patch_size": 2},
        },
        image_token_id=ids["image_pad"],
        video_token_id=ids["video_pad"],
        vision_start_token_id=ids["vision_start"],
        vision_end_token_id=ids["vision_end"],
    )
    hf.Qwen2VLForConditionalGeneration(config).save_pretrained(folder)
    tokens.save_pretrained(folder)
    (folder / "chat_template.jinja").write_text(CHAT.replace("IMAGE", "<|vision_start|> <|image_pad|> <|vision_end|> "))
    pixels = {"patch_size": 4, "merge_size": 2, "temporal_patch_size": 2}
    size = {"shortest_edge": 64, "longest_edge": 1024}
    names = {"image_processor_type": "Qwen2VLImageProcessor", "processor_class": "Qwen2VLProcessor"}
    (folder / "preprocessor_config.json").write_text(json.dumps({**names, **pixels, "size": size}))
    return str(folder)


@pytest.fixture(scope="session")
def blip2(tmp_path_factory):
    """A folder with a BLIP-2 of T5's kind, which has no chat template."""
    from tests.plugins.rewards.conftest import blip2_t5

    folder = tmp_path_factory.mktemp("blip2")
    torch.manual_seed(0)
    network, tokens, pixels = blip2_t5()
    network.save_pretrained(folder)
    tokens.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps({**pixels, "processor_class": "Blip2Processor"}))
    return str(folder)
