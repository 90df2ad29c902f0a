"""What the autoencoder of large pictures learns from: scenes rendered by many processes, and latents of three kinds."""

from __future__ import annotations

import mmap
from dataclasses import dataclass, field
from multiprocessing import get_context

import numpy as np
import numpy.typing as npt
import torch
from diffusers import AutoencoderKL, DDIMScheduler, DPMSolverMultistepScheduler, StableDiffusionPipeline

from realignkit_plugins.micro import checkpoints
from realignkit_plugins.micro.prompts import WorldPrompts
from realignkit_plugins.micro.world import caption, render, scene
from realignkit_plugins.micro.world.scenes import IMAGE_SIZE

CHUNK = 50
BATCH = 500
NOISIEST = 200
"""Timestep up to which the U-Net is asked what a scene's latents were before the noise."""
GUIDANCE = 7.5


class Pictures:
    """Scenes being rendered by processes of their own, into memory that they share.

    Make it before anything runs on a GPU: the processes are forked.

    Args:
        seed, count: the first ``count`` training scenes of this sequence.
        scale: pixels of a side of the large picture for each of the small one's.
        processes: how many.

    Attributes:
        small, large: uint8 (count, H, W, 3), once :meth:`wait` has returned.
        told: a caption of each, then.
    """

    def __init__(self, seed: int, count: int, scale: int, processes: int) -> None:
        self.small, self.large = (_shared(count, IMAGE_SIZE * finer) for finer in (1, scale))
        self.told: list[str] = []
        self._seed, self._scale, self._count = seed, scale, count
        self._pool = get_context("fork").Pool(processes, initializer=_receive, initargs=(self,))
        self._done = self._pool.map_async(_render, range(0, count, CHUNK))

    def wait(self) -> None:
        """Until all are rendered."""
        self.told = [each for chunk in self._done.get() for each in chunk]
        self._pool.terminate()

    def fill(self, start: int) -> list[str]:
        """Render the scenes from this on, and describe them."""
        told = []
        for index in range(start, min(start + CHUNK, self._count)):
            drawn = scene(self._seed, index)
            self.small[index] = render(drawn).image
            self.large[index] = render(drawn, self._scale).image
            told.append(_caption((self._seed, index)))
        return told


_pictures: Pictures


def _receive(pictures: Pictures) -> None:
    global _pictures
    _pictures = pictures


def _render(start: int) -> list[str]:
    return _pictures.fill(start)


def captions(seed: int, count: int, processes: int) -> list[str]:
    """Of the first ``count`` training scenes of a sequence."""
    with get_context("fork").Pool(processes) as pool:
        return pool.map(_caption, [(seed, index) for index in range(count)], chunksize=CHUNK)


def _caption(of: tuple[int, int]) -> str:
    return caption(scene(*of), np.random.default_rng([*of, 1]))


def _shared(count: int, side: int) -> npt.NDArray[np.uint8]:
    shape = (count, side, side, 3)
    return np.frombuffer(mmap.mmap(-1, int(np.prod(shape))), np.uint8).reshape(shape)


def prompts(purpose: str, count: int) -> list[str]:
    """The world's prompts of one to three objects, in turn."""
    sets = [list(WorldPrompts(purpose=purpose, objects=n, size=-(-count // 3))) for n in (1, 2, 3)]
    return [prompt for row in zip(*sets, strict=True) for prompt in row][:count]


def to_pixels(images: torch.Tensor) -> npt.NDArray[np.uint8]:
    """Images (B, 3, H, W) in about [-1, 1] as uint8 (B, H, W, 3)."""
    shown = (images.float().clamp(-1, 1) + 1) * 127.5
    return shown.round().byte().permute(0, 2, 3, 1).cpu().numpy()


def to_images(pixels: npt.NDArray[np.uint8], device: torch.device) -> torch.Tensor:
    """uint8 (B, H, W, 3) as float (B, 3, H, W) in [-1, 1]."""
    return torch.from_numpy(pixels).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1


@torch.no_grad()
def draw(pipeline: StableDiffusionPipeline, told: list[str], way: str, seed: int) -> torch.Tensor:
    """Latents of unit variance (B, 4, 16, 16) that the U-Net draws of prompts.

    ``way``: "base" for 25 steps of the base model's scheduler, "quick" for 15 of DPM-Solver++.
    """
    kind, steps = {"base": (DDIMScheduler, 25), "quick": (DPMSolverMultistepScheduler, 15)}[way]
    pipeline.scheduler = kind.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(seed)
    batches = [
        pipeline(
            told[start : start + BATCH],
            num_inference_steps=steps,
            guidance_scale=GUIDANCE,
            generator=generator,
            output_type="latent",
        ).images
        for start in range(0, len(told), BATCH)
    ]
    return torch.cat(batches)


@dataclass
class Latents:
    """Latents of unit variance, and what is known of them; on the training's device.

    Attributes:
        pipeline: the base model.
        known: of each scene, first the small encoder's, then what the U-Net makes of noisy ones: float16
            (scenes, 1 + versions, 4, 16, 16).
        logvar: the small encoder's, float16 (scenes, 4, 16, 16).
        drawn: what the U-Net draws from noise, float16 (B, 4, 16, 16).
        small: those decoded by the small autoencoder, float16 (B, 3, 64, 64) in [-1, 1].
    """

    pipeline: StableDiffusionPipeline
    known: torch.Tensor = field(default_factory=lambda: torch.empty(0))
    logvar: torch.Tensor = field(default_factory=lambda: torch.empty(0))
    drawn: torch.Tensor = field(default_factory=lambda: torch.empty(0))
    small: torch.Tensor = field(default_factory=lambda: torch.empty(0))

    @classmethod
    def made(cls, device: torch.device, told: list[str]) -> Latents:
        """Draw these captions with the base model; scenes are encoded later."""
        latents = cls(StableDiffusionPipeline.from_pretrained(checkpoints.path("base"), torch_dtype=torch.float32))
        latents.pipeline.to(device)
        made = draw(latents.pipeline, told, "quick", seed=3)
        latents.drawn = made.half()
        latents.small = torch.cat([latents.decode(part).half() for part in latents.drawn.split(BATCH)])
        return latents

    @property
    def vae(self) -> AutoencoderKL:
        """The small autoencoder."""
        return self.pipeline.vae

    @property
    def scaling(self) -> float:
        """What latents are multiplied by to have unit variance."""
        return float(self.vae.config.scaling_factor)

    @torch.no_grad()
    def decode(self, z: torch.Tensor) -> torch.Tensor:
        """The small decoder's images (B, 3, 64, 64), in [-1, 1]."""
        return self.vae.decode(z.float() / self.scaling).sample.clamp(-1, 1)

    @torch.no_grad()
    def encode(self, pictures: Pictures) -> None:
        """Encode scenes."""
        device, small, told = self.drawn.device, pictures.small, pictures.told
        known, logvars = [], []
        for start in range(0, len(small), BATCH):
            part = slice(start, start + BATCH)
            posterior = self.vae.encode(to_images(small[part], device)).latent_dist
            z = posterior.mean * self.scaling
            known.append(torch.stack([z, *(self._guessed(z, told[part]) for _ in range(2))], dim=1).half())
            logvars.append(posterior.logvar.half())
        self.known, self.logvar = torch.cat(known), torch.cat(logvars)

    def _guessed(self, z: torch.Tensor, told: list[str]) -> torch.Tensor:
        """The U-Net's estimate of latents (B, 4, 16, 16) from noisy ones."""
        pipe = self.pipeline
        ids = pipe.tokenizer(told, padding="max_length", truncation=True, return_tensors="pt").input_ids
        hidden = pipe.text_encoder(ids.to(z.device)).last_hidden_state
        t = torch.randint(10, NOISIEST, (len(z),), device=z.device)
        clean = DDIMScheduler.from_config(pipe.scheduler.config).alphas_cumprod.to(z.device)[t][:, None, None, None]
        noise = torch.randn_like(z)
        noisy = clean.sqrt() * z + (1 - clean).sqrt() * noise
        noise = pipe.unet(noisy, t, hidden).sample
        return (noisy - (1 - clean).sqrt() * noise) / clean.sqrt()
