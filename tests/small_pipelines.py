"""Tiny pipelines of the real classes: random weights, a BPE tokenizer written to disk, seconds to run."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from PIL import Image
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    PreTrainedTokenizerFast,
)

from realignkit.types import Layout, Likelihood, LocalCaption, Segment

LETTERS = "abcdefghijklmnopqrstuvwxyz,"
# Whole words for the first few; "zebra" and others fall apart into letters, as rare words do in CLIP.
MERGES = ["a n", "an d</w>", "r e", "re d</w>", "b o", "bo o", "boo k</w>", "c a", "ca t</w>", "d o", "do g</w>"]

FAST = {"num_inference_steps": 4, "height": 16, "width": 16}


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> CLIPTokenizer:
    """A CLIP tokenizer of 24 tokens' length with a letter-level BPE vocabulary."""
    folder: Path = tmp_path_factory.mktemp("tokenizer")
    words = [*LETTERS, *(f"{c}</w>" for c in LETTERS), *(m.replace(" ", "") for m in MERGES)]
    vocab = {word: i for i, word in enumerate([*words, "<|startoftext|>", "<|endoftext|>"])}
    (folder / "vocab.json").write_text(json.dumps(vocab))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(MERGES) + "\n")
    return CLIPTokenizer.from_pretrained(folder, model_max_length=24)


def text_config(tokenizer: CLIPTokenizer, width: int) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=width,
        projection_dim=width,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=24,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def small_unet(family: str) -> UNet2DConditionModel:
    """SD-1.5-shaped (attention at two resolutions and in the middle) or SDXL-shaped (deep blocks, added embeddings)."""
    shared = {
        "sample_size": 16,
        "in_channels": 4,
        "out_channels": 4,
        "layers_per_block": 1,
        "block_out_channels": (16, 32),
        "norm_num_groups": 4,
        "cross_attention_dim": 32,
    }
    torch.manual_seed(0)
    if family == "sd":
        return UNet2DConditionModel(
            **shared,
            down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
            attention_head_dim=2,
        ).eval()
    return UNet2DConditionModel(
        **shared,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=(2, 4),
        transformer_layers_per_block=(1, 2),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 16,
    ).eval()


def small_vae() -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
    )


def small_pipeline(family: str, tokenizer: CLIPTokenizer) -> StableDiffusionPipeline | StableDiffusionXLPipeline:
    torch.manual_seed(1)
    vae = small_vae()
    scheduler = DDIMScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, clip_sample=False, steps_offset=1
    )
    if family == "sd":
        pipeline = StableDiffusionPipeline(
            vae=vae,
            text_encoder=CLIPTextModel(text_config(tokenizer, 32)).eval(),
            tokenizer=tokenizer,
            unet=small_unet("sd"),
            scheduler=scheduler,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    else:
        pipeline = StableDiffusionXLPipeline(
            vae=vae,
            text_encoder=CLIPTextModel(text_config(tokenizer, 16)).eval(),
            text_encoder_2=CLIPTextModelWithProjection(text_config(tokenizer, 16)).eval(),
            tokenizer=tokenizer,
            tokenizer_2=tokenizer,
            unet=small_unet("sdxl"),
            scheduler=scheduler,
            force_zeros_for_empty_prompt=False,
            add_watermarker=False,
        )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="session")
def make_unet():
    return small_unet


@pytest.fixture
def make_pipeline(tokenizer):
    """Fresh ones, to be changed."""
    return lambda family: small_pipeline(family, tokenizer)


@pytest.fixture(scope="session")
def sd_pipeline(tokenizer):
    return small_pipeline("sd", tokenizer)


@pytest.fixture(scope="session")
def sdxl_pipeline(tokenizer):
    return small_pipeline("sdxl", tokenizer)


@pytest.fixture(params=["sd", "sdxl"])
def pipeline(request: pytest.FixtureRequest):
    """Both families, one after the other."""
    return request.getfixturevalue(f"{request.param}_pipeline")


@pytest.fixture
def word_tokenizer() -> PreTrainedTokenizerFast:
    words = ["[UNK]", "[PAD]", "[BOS]", "[EOS]", "a", "red", "book", "and", "cat", "dog", ","]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single="[BOS] $A [EOS]", special_tokens=[("[BOS]", 2), ("[EOS]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="[UNK]",
        pad_token="[PAD]",
        bos_token="[BOS]",
        eos_token="[EOS]",
        model_max_length=16,
    )


def with_tokenizers(*tokenizers):
    """The part of a pipeline that tells texts' tokens and limits."""
    config = SimpleNamespace(max_position_embeddings=16)
    parts = {}
    for suffix, tokenizer in zip(("", "_2"), tokenizers, strict=False):
        parts[f"tokenizer{suffix}"] = tokenizer
        parts[f"text_encoder{suffix}"] = SimpleNamespace(config=config)
    return SimpleNamespace(**parts)


def layout(*captions: str, likelihood: Likelihood = Likelihood.CERTAIN, size: tuple[int, int] = (16, 16)) -> Layout:
    """Side by side, one upright strip per caption."""
    segments = []
    for i, caption in enumerate(captions):
        mask = np.zeros(size, dtype=bool)
        mask[2:, i * size[1] // len(captions) : (i + 1) * size[1] // len(captions) - 1] = True
        segments.append(Segment(LocalCaption(caption.split()[-1], caption, likelihood), mask))
    return Layout(tuple(segments))


def distance(first: Image.Image, second: Image.Image) -> int:
    """Largest difference of two images in grey levels."""
    return int(np.abs(np.asarray(first, dtype=int) - np.asarray(second, dtype=int)).max())
