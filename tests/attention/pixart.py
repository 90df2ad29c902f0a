"""A tiny PixArt-alpha pipeline of the real classes, with random weights and a T5 tokenizer of a few words."""

from __future__ import annotations

from typing import Any

WORDS = ("a", "red", "book", "and", "dog", "cat", "yellow", "pen")
PIECES = [*(f"▁{word}" for word in WORDS), "▁", ","]


def t5_tokenizer() -> Any:
    from transformers import T5Tokenizer

    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -10.0)]
    letters = [(letter, -8.0) for letter in "abcdefghijklmnopqrstuvwxyz"]
    return T5Tokenizer(vocab=[*special, *((piece, -1.0) for piece in PIECES), *letters], extra_ids=0)


def small_transformer() -> Any:
    import torch
    from diffusers import PixArtTransformer2DModel

    torch.manual_seed(0)
    return PixArtTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=8,  # noise and its variance, as published
        num_layers=2,
        cross_attention_dim=16,
        caption_channels=24,
        sample_size=8,
        patch_size=2,
    ).eval()


def pixart_pipeline() -> Any:
    import torch
    from diffusers import DPMSolverMultistepScheduler, PixArtAlphaPipeline
    from transformers import T5Config, T5EncoderModel

    from tests.small_pipelines import small_vae

    tokenizer = t5_tokenizer()
    torch.manual_seed(1)
    vae = small_vae()
    text = T5EncoderModel(
        T5Config(vocab_size=len(tokenizer), d_model=24, d_kv=8, d_ff=32, num_layers=2, num_heads=2)
    ).eval()
    transformer = small_transformer()
    with torch.no_grad():  # untrained, it hardly looks at the text
        vae.decoder.conv_out.weight.mul_(2)
        for name, parameter in transformer.named_parameters():
            if ".attn" in name and name.endswith("weight"):
                parameter.mul_(4)
    scheduler = DPMSolverMultistepScheduler()
    pipeline = PixArtAlphaPipeline(tokenizer, text, vae.eval(), transformer, scheduler)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
