"""Tiny checkpoints of the real classes, saved as users have them; random weights that do depend on the image."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers as hf
from PIL import Image

from tests import tiny

WORDS = ("a", "red", "blue", "book", "pen", "and", "dog")
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", "[ENC]")
SIDE = 16


def bert_tokenizer():
    vocabulary = {word: i for i, word in enumerate((*SPECIAL, *WORDS))}
    return hf.BertTokenizer(vocab=vocabulary, model_max_length=24)


def bert_sizes(**more):
    """What the text towers of BLIP's family share."""
    return {
        "vocab_size": len(SPECIAL) + len(WORDS),
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 24,
        "pad_token_id": 0,
        "bos_token_id": 5,
        "sep_token_id": 3,
        "eos_token_id": 3,
        **more,
    }


def vision_sizes(**more):
    return {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": SIDE,
        "patch_size": 8,
        **more,
    }


def clip_text_sizes(words, **more):
    return {
        "vocab_size": len(words),
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": tiny.MAX_TOKENS,
        "bos_token_id": words.bos_token_id,
        "eos_token_id": words.eos_token_id,
        "pad_token_id": words.pad_token_id,
        **more,
    }


def clip():
    words = tiny.tokenizer()
    config = hf.CLIPConfig(
        text_config=clip_text_sizes(words, projection_dim=12),
        vision_config=vision_sizes(projection_dim=12),
        projection_dim=12,
    )
    return hf.CLIPModel(config), words, preprocessor("CLIPImageProcessor", shortest=True)


def siglip():
    words = tiny.tokenizer()
    text = {**clip_text_sizes(words), "max_position_embeddings": 12}
    network = hf.SiglipModel(hf.SiglipConfig(text_config=text, vision_config=vision_sizes()))
    return network, words, preprocessor("SiglipImageProcessor", resample=2, mean=0.5, std=0.5)


def blip_itm():
    text = bert_sizes(encoder_hidden_size=16)
    config = hf.BlipConfig(text_config=text, vision_config=vision_sizes(), image_text_hidden_size=12)
    return hf.BlipForImageTextRetrieval(config), bert_tokenizer(), preprocessor("BlipImageProcessor")


def blip():
    text = bert_sizes(encoder_hidden_size=16)
    config = hf.BlipConfig(text_config=text, vision_config=vision_sizes(), image_text_hidden_size=12)
    return hf.BlipForConditionalGeneration(config), bert_tokenizer(), preprocessor("BlipImageProcessor")


def qformer():
    return bert_sizes(encoder_hidden_size=16, cross_attention_frequency=1)


def blip2(text_config, words):
    words.add_special_tokens({"additional_special_tokens": ["<image>"]})
    image_token = words.convert_tokens_to_ids("<image>")
    text_config.vocab_size = len(words)
    config = hf.Blip2Config(
        vision_config=vision_sizes(),
        qformer_config=qformer(),
        text_config=text_config.to_dict(),
        num_query_tokens=3,
        image_text_hidden_size=12,
        image_token_index=image_token,
    )
    return hf.Blip2ForConditionalGeneration(config), words, preprocessor("BlipImageProcessor")


def blip2_opt():
    words = tiny.tokenizer()
    text = hf.OPTConfig(
        hidden_size=16,
        ffn_dim=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        word_embed_proj_dim=16,
        max_position_embeddings=48,
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
    )
    return blip2(text, words)


def blip2_t5():
    words = bert_tokenizer()
    text = hf.T5Config(
        d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2, pad_token_id=0, eos_token_id=3, decoder_start_token_id=0
    )
    return blip2(text, words)


def vit_gpt2():
    words = tiny.tokenizer()
    encoder = hf.ViTConfig(**vision_sizes())
    decoder = hf.GPT2Config(
        vocab_size=len(words),
        n_embd=16,
        n_layer=2,
        n_head=2,
        n_positions=48,
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
        add_cross_attention=True,
        is_decoder=True,
    )
    config = hf.VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
    config.decoder_start_token_id, config.pad_token_id = words.bos_token_id, words.pad_token_id
    network = hf.VisionEncoderDecoderModel(config=config)
    network.generation_config.decoder_start_token_id = words.bos_token_id
    return network, words, preprocessor("ViTImageProcessor", resample=2, mean=0.5, std=0.5)


def git():
    words = bert_tokenizer()
    sizes = {key: value for key, value in bert_sizes().items() if key != "sep_token_id"}
    config = hf.GitConfig(vision_config=vision_sizes(), **{**sizes, "bos_token_id": 2, "eos_token_id": 3})
    return hf.GitForCausalLM(config), words, preprocessor("CLIPImageProcessor", shortest=True)


def florence2():
    words = tiny.tokenizer()
    words.add_special_tokens({"additional_special_tokens": ["<image>"]})
    levels = {"depths": (1, 1), "patch_size": (7, 3), "patch_stride": (4, 2), "patch_padding": (3, 1)}
    levels |= {"patch_prenorm": (False, True), "embed_dim": (8, 16), "num_heads": (2, 2), "num_groups": (2, 2)}
    vision = {**levels, "window_size": 2, "projection_dim": 16, "max_position_embeddings": 4, "drop_path_rate": 0.0}
    text = hf.BartConfig(
        vocab_size=len(words), d_model=16, encoder_layers=2, decoder_layers=2, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32, max_position_embeddings=48,
        bos_token_id=words.bos_token_id, eos_token_id=words.eos_token_id, pad_token_id=words.pad_token_id,
        decoder_start_token_id=words.eos_token_id, forced_eos_token_id=None,
    )  # fmt: skip
    config = hf.Florence2Config(
        text_config=text.to_dict(),
        vision_config=vision,
        image_token_id=words.convert_tokens_to_ids("<image>"),
        is_encoder_decoder=True,
    )
    return hf.Florence2ForConditionalGeneration(config), words, preprocessor("CLIPImageProcessor")


def q_former_text():
    config = hf.Blip2Config(
        vision_config=vision_sizes(),
        qformer_config={**qformer(), "use_qformer_text_input": True},
        text_config={"model_type": "opt"},
        image_text_hidden_size=12,
    )
    return hf.Blip2TextModelWithProjection(config), bert_tokenizer(), None


def preprocessor(kind, *, shortest=False, resample=3, mean=0.45, std=0.27):
    size = {"shortest_edge": SIDE} if shortest else {"height": SIDE, "width": SIDE}
    return {
        "image_processor_type": kind,
        "do_resize": True,
        "size": size,
        "resample": resample,
        "do_center_crop": shortest,
        "crop_size": {"height": SIDE, "width": SIDE},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [mean, mean + 0.01, mean - 0.01],
        "image_std": [std, std + 0.01, std - 0.01],
    }


BUILDERS = {
    f.__name__: f for f in (clip, siglip, blip_itm, blip, blip2_opt, blip2_t5, vit_gpt2, git, florence2, q_former_text)
}
CAPTIONERS = ("blip", "blip2_opt", "blip2_t5", "vit_gpt2", "git", "florence2")


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """``checkpoint(name)``: the folder of a tiny checkpoint, made once."""
    made: dict[str, Path] = {}

    def make(name: str) -> str:
        if name not in made:
            folder = tmp_path_factory.mktemp("checkpoints") / name
            with torch.random.fork_rng():
                torch.manual_seed(3)
                network, words, processor = BUILDERS[name]()
                amplify(network)
            network.save_pretrained(folder)
            words.save_pretrained(folder)
            if processor:
                (folder / "preprocessor_config.json").write_text(json.dumps(processor))
            made[name] = folder
        return str(made[name])

    return make


@torch.no_grad()
def amplify(network):
    """Random weights as they are drawn hardly look at their input: make matrices about orthonormal, and add biases."""
    for name, parameter in network.named_parameters():
        if parameter.ndim > 1:
            parameter.normal_(std=1.2 / parameter[0].numel() ** 0.5)
        elif name.endswith("bias"):
            parameter.normal_(std=0.1)
        if "embedding" in name or "query_tokens" in name or name.endswith(("wte.weight", "shared.weight")):
            parameter.normal_(std=1.0)


def pictures(count: int, side: int = SIDE, seed: int = 0) -> torch.Tensor:
    """Smooth random images, float (count, 3, side, side) in [0.1, 0.9], in steps of 1 / 255."""
    coarse = torch.rand(count, 3, 5, 5, generator=torch.Generator().manual_seed(seed))
    smooth = torch.nn.functional.interpolate(coarse, (side, side), mode="bicubic", align_corners=False)
    return ((smooth.clamp(0, 1) * 0.8 + 0.1) * 255).round() / 255


def to_pil(images: torch.Tensor) -> list[Image.Image]:
    pixels = (images * 255).round().byte().permute(0, 2, 3, 1).numpy()
    return [Image.fromarray(image) for image in pixels]
