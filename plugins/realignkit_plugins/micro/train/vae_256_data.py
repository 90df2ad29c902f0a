"""What the autoencoder of large pictures learns from beside the renderings: latents of three kinds, made once."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, StableDiffusionPipeline
from safetensors import safe_open
from safetensors.torch import load_file, save

from realignkit.files import atomic_write
from realignkit_plugins.micro.prompts import WorldPrompts
from realignkit_plugins.micro.train.data import SCENE_SEEDS, images, scenes, to_tensor
from realignkit_plugins.micro.world import Scene, caption

BATCH = 100
NOISIEST = 200
"""Timestep up to which the U-Net is asked what a scene's latents were before the noise."""
GUIDANCE = 7.5


class Latents:
    """Latents of unit variance, and what is known of them, on a device.

    Args:
        pipeline: the base model, on that device.
        scenes: how many scenes are encoded.
        drawn: how many captions the U-Net draws.
        judged: how many validation prompts it draws.
        path: safetensors file in which they are kept; made where there is none of this model and so many.

    Attributes:
        known: of each scene the small encoder's, and the U-Net's estimate from noisy ones: float16
            (scenes, 2, 4, 16, 16).
        logvar: the small encoder's, float16 (scenes, 4, 16, 16).
        drawn: what the U-Net draws from noise, float16 (drawn, 4, 16, 16).
        small: those decoded by the small autoencoder, float16 (drawn, 3, 64, 64) in [-1, 1].
        validation: what the U-Net draws of :func:`prompts`, float16 (judged, 4, 16, 16).
    """

    def __init__(self, pipeline: StableDiffusionPipeline, scenes: int, drawn: int, judged: int, path: Path) -> None:
        self.pipeline = pipeline
        made_of = {"base": _digest(pipeline), "counts": f"{scenes} {drawn} {judged}"}
        if _made_of(path) != made_of:
            atomic_write(path, save({**self._encoded(scenes), **self._drawn(drawn, judged)}, made_of))
        kept = {name: tensor.to(pipeline.device) for name, tensor in load_file(path).items()}
        self.known, self.logvar, self.drawn = kept["known"], kept["logvar"], kept["drawn"]
        self.small, self.validation = kept["small"], kept["validation"]

    @property
    def scaling(self) -> float:
        """What latents are multiplied by to have unit variance."""
        return float(self.pipeline.vae.config.scaling_factor)

    @torch.no_grad()
    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """The small decoder's images (B, 3, 64, 64), in [-1, 1]."""
        parts = [self.pipeline.vae.decode(part.float() / self.scaling).sample for part in latents.split(BATCH)]
        return torch.cat(parts).clamp(-1, 1)

    @torch.no_grad()
    def _encoded(self, count: int) -> dict[str, torch.Tensor]:
        device, seed = self.pipeline.device, SCENE_SEEDS["vae"]
        pixels, described = images(seed, count), captions(seed, count)
        generator = torch.Generator().manual_seed(seed)
        known, logvar = [], []
        for start in range(0, count, BATCH):
            part = slice(start, start + BATCH)
            posterior = self.pipeline.vae.encode(to_tensor(pixels[part], device) * 2 - 1).latent_dist
            z = posterior.mean * self.scaling
            known.append(torch.stack([z, estimated(self.pipeline, z, described[part], generator)], 1).half().cpu())
            logvar.append(posterior.logvar.half().cpu().contiguous())
        return {"known": torch.cat(known), "logvar": torch.cat(logvar)}

    def _drawn(self, count: int, judged: int) -> dict[str, torch.Tensor]:
        drawn = draw(self.pipeline, captions(SCENE_SEEDS["vae_256"], count), "quick", seed=3)
        small = torch.cat([self.decode(part).half() for part in drawn.split(BATCH)])
        validation = draw(self.pipeline, prompts(judged), "base", seed=7)
        return {"drawn": drawn.half().cpu(), "small": small.cpu(), "validation": validation.half().cpu()}


def _made_of(path: Path) -> dict[str, str]:
    """What a file of latents was made of; nothing, where there is no file."""
    if not path.exists():
        return {}
    with safe_open(path, "pt") as file:
        return file.metadata() or {}


def _digest(pipeline: StableDiffusionPipeline) -> str:
    """Of the weights that latents depend on."""
    digest = sha256()
    for part in (pipeline.vae, pipeline.text_encoder, pipeline.unet):
        for tensor in part.state_dict().values():
            digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def captions(seed: int, count: int) -> list[str]:
    """Of the first training scenes of a sequence."""
    return [_caption(seed, index, each) for index, each in enumerate(scenes(seed, count))]


def _caption(seed: int, index: int, described: Scene) -> str:
    return caption(described, np.random.default_rng([seed, index, 1]))


def prompts(count: int) -> list[str]:
    """The world's validation prompts of one to three objects, in turn."""
    sets = [list(WorldPrompts(purpose="validation", objects=n, size=-(-count // 3))) for n in (1, 2, 3)]
    return [prompt for row in zip(*sets, strict=True) for prompt in row][:count]


def to_pixels(images: torch.Tensor) -> npt.NDArray[np.uint8]:
    """Images (B, 3, H, W) in about [-1, 1] as uint8 (B, H, W, 3)."""
    shown = (images.float().clamp(-1, 1) + 1) * 127.5
    return shown.round().byte().permute(0, 2, 3, 1).cpu().numpy()


@torch.no_grad()
def draw(pipeline: StableDiffusionPipeline, prompts: Sequence[str], way: str, seed: int) -> torch.Tensor:
    """Latents of unit variance (B, 4, 16, 16) that the U-Net draws of prompts.

    ``way``: "base" for 25 steps of the base model's scheduler, "quick" for 15 of DPM-Solver++.
    """
    kind, steps = {"base": (DDIMScheduler, 25), "quick": (DPMSolverMultistepScheduler, 15)}[way]
    pipeline.scheduler = kind.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(seed)
    batches = [
        pipeline(
            list(prompts[start : start + BATCH]),
            num_inference_steps=steps,
            guidance_scale=GUIDANCE,
            generator=generator,
            output_type="latent",
        ).images
        for start in range(0, len(prompts), BATCH)
    ]
    return torch.cat(batches)


def estimated(
    pipeline: StableDiffusionPipeline, latents: torch.Tensor, prompts: Sequence[str], generator: torch.Generator
) -> torch.Tensor:
    """The U-Net's estimate of latents (B, 4, 16, 16) from noisy ones."""
    ids = pipeline.tokenizer(list(prompts), padding="max_length", truncation=True, return_tensors="pt").input_ids
    hidden = pipeline.text_encoder(ids.to(latents.device)).last_hidden_state
    t = torch.randint(10, NOISIEST, (len(latents),), generator=generator)
    clean = DDIMScheduler.from_config(pipeline.scheduler.config).alphas_cumprod[t][:, None, None, None]
    clean = clean.to(latents.device)
    noise = torch.randn(latents.shape, generator=generator).to(latents.device)
    noisy = clean.sqrt() * latents + (1 - clean).sqrt() * noise
    predicted = pipeline.unet(noisy, t.to(latents.device), hidden).sample
    return (noisy - (1 - clean).sqrt() * predicted) / clean.sqrt()
