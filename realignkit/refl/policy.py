"""DDIM with noise as a policy: each step draws from a Gaussian, whose mean the network says (Black et al., 2024)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from realignkit.errors import ModelError
from realignkit.refl import losses, seeds

if TYPE_CHECKING:
    from realignkit.refl.model import Networks, Text


class Policy:
    """Samples with DDIM and ``eta`` above 0 (Song et al., 2021, eq. 16), and says how likely each step was.

    Args:
        networks: of the model.
        num_inference_steps: how many steps the whole way has.
        guidance_scale: classifier-free guidance; at most 1 switches it off.
        eta: how much noise; 1 is as much as DDPM's.

    Attributes:
        timesteps: int (T,), as they come.
        std: of each step, float32 (T,).
        random_steps: the indices of those that draw: the last one may not.
    """

    def __init__(self, networks: Networks, num_inference_steps: int, guidance_scale: float, eta: float) -> None:
        from diffusers import DDIMScheduler

        self.networks, self.guidance_scale = networks, guidance_scale
        scheduler = DDIMScheduler.from_config(networks.pipeline.scheduler.config, clip_sample=False, thresholding=False)
        scheduler.set_timesteps(num_inference_steps)
        self.timesteps = scheduler.timesteps.to(networks.device)
        previous = scheduler.timesteps - scheduler.config.num_train_timesteps // num_inference_steps
        levels = scheduler.alphas_cumprod.to(torch.float32)
        signal, later = levels[scheduler.timesteps], levels[previous.clamp_min(0)]
        later = torch.where(previous < 0, scheduler.final_alpha_cumprod.to(torch.float32), later)
        std = eta * ((1 - later) / (1 - signal) * (1 - signal / later)).clamp_min(0).sqrt()
        self._signal, self._later, self.std = (each.to(networks.device) for each in (signal, later, std))
        self.random_steps = [i for i, each in enumerate(std.tolist()) if each > 1e-4]

    def mean(self, latents: Tensor, steps: Tensor, text: Text) -> Tensor:
        """Where steps (B,) lead from latents (B, C, h, w) without their noise; with gradient.

        Raises:
            ModelError: the model computed NaN or infinity.
        """
        prediction, _ = self.networks.guided(latents, self.timesteps[steps], text, self.guidance_scale)
        if not torch.isfinite(prediction).all():
            raise ModelError(
                "the model computed NaN or infinity while sampling. Use mixed_precision=bf16 or no; if it is off "
                "already, lower the learning rate and resume from the last checkpoint."
            )
        signal, later, std = (each[steps].view(-1, 1, 1, 1) for each in (self._signal, self._later, self.std))
        x0 = losses.predict_x0(latents, prediction, signal, self.networks.kind)
        noise = (latents - signal.sqrt() * x0) / (1 - signal).sqrt()
        return later.sqrt() * x0 + (1 - later - std.square()).clamp_min(0).sqrt() * noise

    @torch.no_grad()
    def sample(self, noise: Tensor, text: Text, noise_seeds: Sequence[int]) -> Tensor:
        """All latents from noise (B, C, h, w) to clean ones, (B, T + 1, C, h, w); the seeds decide each step's noise.

        Raises:
            ModelError: the model computed NaN or infinity.
        """
        way = [noise]
        for index in range(len(self.timesteps)):
            steps = torch.full((len(noise),), index, device=noise.device)
            drawn = seeds.noise_of(noise.shape[1:], [seeds.derive(each, "step", index) for each in noise_seeds])
            way.append(self.mean(way[-1], steps, text) + self.std[index] * drawn.to(noise.device))
        return torch.stack(way, 1)

    def log_probability(self, reached: Tensor, mean: Tensor, steps: Tensor) -> Tensor:
        """Of latents (B, C, h, w) that steps (B,) reached, (B,): the mean over all numbers, without its constant."""
        return -((reached - mean).square().mean((1, 2, 3)) / (2 * self.std[steps].square()))
