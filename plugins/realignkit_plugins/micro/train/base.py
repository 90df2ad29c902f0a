"""The base model: a text-to-image latent diffusion model in Stable Diffusion's layout."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, DiffusionPipeline, StableDiffusionPipeline, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from realignkit_plugins.micro.train.data import SCENE_SEEDS, images, scenes, to_tensor
from realignkit_plugins.micro.train.loop import Schedule
from realignkit_plugins.micro.train.recipe import Recipe
from realignkit_plugins.micro.train.tokenizer import MAX_LENGTH, build_tokenizer, text_settings
from realignkit_plugins.micro.world import Noise, caption, phrases
from realignkit_plugins.micro.world.captions import CARELESS

SCENES = 48_000
CAPTION_DROPOUT = 0.1
PHRASE_BY_PHRASE = 0.15
"""Share of captions whose phrases are encoded each on its own: a small encoder bears that only when it has met it."""
MIN_SNR = 5.0


def build_unet() -> UNet2DConditionModel:
    """Convolutions at 16 x 16; cross- and self-attention at 8 x 8, where nearly all the width is."""
    model = UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        block_out_channels=(32, 128),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=128,
        attention_head_dim=4,
        norm_num_groups=16,
    )
    for name, parameter in model.named_parameters():
        # Every residual branch starts at zero, so that depth does not slow the first steps down.
        if any(part in name for part in (".conv2.", ".proj_out.", "conv_out.")):
            nn.init.zeros_(parameter)
    return model


def build_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """Two layers of 128, for prompts of up to 32 tokens."""
    return CLIPTextModel(
        CLIPTextConfig(
            hidden_size=128,
            intermediate_size=512,
            projection_dim=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            **text_settings(tokenizer),
        )
    )


def scheduler() -> DDIMScheduler:
    """Stable Diffusion's noise schedule."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


@torch.no_grad()
def encode_scenes(vae: AutoencoderKL, count: int, cache: Path) -> torch.Tensor:
    """Latents of the training scenes, float16 (count, 4, 16, 16), unit variance; cached."""
    path = cache / f"latents-{count}.npy"
    if path.exists():
        return torch.from_numpy(np.load(path))
    pixels = images(SCENE_SEEDS["base"], count, cache=cache)
    vae = vae.to(memory_format=torch.channels_last)
    batches = []
    for start in range(0, count, 256):
        x = to_tensor(pixels[start : start + 256], vae.device) * 2 - 1
        mean = vae.encode(x.contiguous(memory_format=torch.channels_last)).latent_dist.mean
        batches.append((mean * vae.config.scaling_factor).half().cpu())
    latents = torch.cat(batches).contiguous()
    np.save(path, latents.numpy())
    return latents


def phrase_spans(tokenizer: CLIPTokenizer, text: str) -> list[tuple[slice, str]]:
    """Where a caption's phrases stand in its tokens, start token included."""
    spans, end = [], 0
    for part in phrases(text):
        start = text.index(part, end)
        end = start + len(part)
        first, last = (len(tokenizer(text[:at], add_special_tokens=False).input_ids) for at in (start, end))
        spans.append((slice(1 + first, 1 + last), part))
    return spans


def caption_ids(
    tokenizer: CLIPTokenizer, prompts: list[str], rng: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Captions, and some of their phrases to be encoded alone.

    Returns:
        Token ids of captions and, after them, of P phrases: int64 (B + P, 32). For each token of the captions, where
        among all those its state is taken from: int64 (B, 32).
    """
    texts, sources = list(prompts), np.arange(len(prompts) * MAX_LENGTH).reshape(-1, MAX_LENGTH)
    for i, prompt in enumerate(prompts):
        if rng.random() < PHRASE_BY_PHRASE:
            for span, part in phrase_spans(tokenizer, prompt):
                sources[i, span] = len(texts) * MAX_LENGTH + 1 + np.arange(span.stop - span.start)
                texts.append(part)
    ids = tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids
    return ids, torch.from_numpy(sources)


def place_phrases(hidden: torch.Tensor, sources: torch.Tensor) -> torch.Tensor:
    """Hidden states (B, 32, C) of captions, the phrases after them (B + P, 32, C) put where their tokens stand."""
    return hidden.flatten(0, 1).index_select(0, sources.flatten()).unflatten(0, sources.shape)


def caption_noise(step: int) -> Noise:
    """How careless the captions of a step are.

    Colours told of the wrong object teach the model Stable Diffusion's kind of mistake: the right words, mixed up.
    They are rarer at first, while it learns what the words mean.
    """
    return replace(CARELESS, swap=0.25) if step < 500 else CARELESS


class BaseRecipe(Recipe):
    """U-Net and text encoder together, on cached latents of the trained autoencoder.

    In bfloat16, but without ``torch.compile``: with torch 2.13 on a CPU the two together silently gave no gradient
    at all below the first resolution.
    """

    name = "base"
    schedule = Schedule(steps=1800, batch_size=96, learning_rate=3e-3, warmup=150)

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.tokenizer, self.noise_scheduler = build_tokenizer(), scheduler()
        self.unet = build_unet().to(memory_format=torch.channels_last)
        self.text_encoder = build_text_encoder(self.tokenizer)
        self.learner = nn.ModuleDict({"unet": self.unet, "text_encoder": self.text_encoder})
        self.vae = AutoencoderKL.from_pretrained(self.out / "vae")
        self.latents = encode_scenes(self.vae, SCENES, self.work / "cache")
        self.described = scenes(SCENE_SEEDS["base"], SCENES)

    def loss(self, step: int, generator: torch.Generator) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The noise's squared error, weighted by Min-SNR."""
        pick = torch.randint(SCENES, (self.schedule.batch_size,), generator=generator)
        rng = np.random.default_rng([self.seed, step])
        prompts = [
            "" if rng.random() < CAPTION_DROPOUT else caption(self.described[i], rng, caption_noise(step))
            for i in pick.tolist()
        ]
        x = self.latents[pick].float()
        noise = torch.randn(x.shape, generator=generator)
        # One timestep from each of B equal slices: the same distribution, less variance.
        uniform = (torch.rand(len(x), generator=generator) + torch.arange(len(x))) / len(x)
        t = (uniform * 1000).long()
        noisy = self.noise_scheduler.add_noise(x, noise, t).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            ids, sources = caption_ids(self.tokenizer, prompts, rng)
            hidden = place_phrases(self.text_encoder(ids).last_hidden_state, sources)
            predicted = self.unet(noisy, t, hidden).sample
        error = (predicted.float() - noise).square().mean(dim=(1, 2, 3))
        alphas = self.noise_scheduler.alphas_cumprod
        snr = alphas[t] / (1 - alphas[t])
        value = (error * (snr.clamp(max=MIN_SNR) / snr)).mean()
        return value, {"mse": error.mean()}

    def finish(self, folder: Path) -> None:
        """Write a plain ``StableDiffusionPipeline`` folder in fp16 safetensors."""
        pipeline = StableDiffusionPipeline(
            vae=self.vae,
            text_encoder=self.text_encoder,
            tokenizer=self.tokenizer,
            unet=self.unet.to(memory_format=torch.contiguous_format),
            scheduler=scheduler(),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        save_pipeline(pipeline, folder)


def save_pipeline(pipeline: DiffusionPipeline, folder: Path) -> None:
    """Write a pipeline in fp16 safetensors."""
    pipeline.to(dtype=torch.float16).save_pretrained(folder, safe_serialization=True)
    for config in folder.rglob("*.json"):
        # Where the weights were while training is nobody's business.
        values = json.loads(config.read_text())
        if values.pop("_name_or_path", None) is not None:
            config.write_text(json.dumps(values, indent=2) + "\n")
