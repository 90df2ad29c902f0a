"""Tiny language models as flow transformers have them for text encoders: real classes, random weights, a few words."""

from __future__ import annotations

from functools import cache
from typing import Any

CHAT = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{{ message.content if message.content is string else message.content[0].text }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
MARKS = ["<|im_start|>", "<|im_end|>", "<think>", "</think>"]
SAYINGS = (
    "system\nDescribe the image by detailing the color, shape, size, texture, quantity, text, spatial relationships of "
    "the objects and background:\nuser\nassistant\n",
    "a red book and a dog, a cat and a yellow pen, a desk",
)


@cache
def _trained() -> Any:
    from transformers import Qwen2Tokenizer

    return Qwen2Tokenizer().train_new_from_iterator(SAYINGS * 8, 600)


def qwen_tokenizer(**options: Any) -> Any:
    """Byte-level, as published: a word behind a space is another token than at the beginning, or two of them."""
    import copy

    tokenizer = copy.deepcopy(_trained())
    tokenizer.add_special_tokens({"additional_special_tokens": MARKS})
    tokenizer.chat_template = CHAT
    for name, value in options.items():
        setattr(tokenizer, name, value)
    return tokenizer


def _settings(tokenizer: Any, width: int, layers: int) -> dict[str, Any]:
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": width // 2,
    }


def outspoken(encoder: Any) -> Any:
    """Untrained, tokens hardly differ."""
    import torch

    with torch.no_grad():
        encoder.get_input_embeddings().weight.mul_(50)
    return encoder.eval()


def qwen3(tokenizer: Any, width: int, layers: int, *, head: bool = True) -> Any:
    from transformers import Qwen3Config, Qwen3ForCausalLM, Qwen3Model

    config = Qwen3Config(**_settings(tokenizer, width, layers))
    return outspoken(Qwen3ForCausalLM(config) if head else Qwen3Model(config))


def mistral3(tokenizer: Any, width: int, layers: int) -> Any:
    from transformers import Mistral3Config, Mistral3ForConditionalGeneration

    vision = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {"model_type": "mistral", **_settings(tokenizer, width, layers)}
    config = Mistral3Config(
        text_config=text,
        vision_config={"model_type": "pixtral", "head_dim": 4, "image_size": 32, "patch_size": 16, **vision},
    )
    return outspoken(Mistral3ForConditionalGeneration(config))


def qwen_vl(tokenizer: Any, width: int, layers: int) -> Any:
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    quarter = width // 8
    text = {
        **_settings(tokenizer, width, layers),
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000.0,
            "mrope_section": [quarter, quarter // 2, quarter // 2],
        },
    }
    vision = {"depth": 1, "hidden_size": 8, "intermediate_size": 8, "num_heads": 2, "out_hidden_size": width}
    text |= {"bos_token_id": None, "eos_token_id": None}
    return outspoken(Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(text_config=text, vision_config=vision)))
