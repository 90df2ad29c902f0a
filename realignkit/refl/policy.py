"""DDIM with noise as a policy: each step draws from a Gaussian, whose mean the network says (Black et al., 2024)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from realignkit.errors import ModelError
from realignkit.refl import seeds
from realignkit.refl.losses import Level
from realignkit.refl.rollout import Rollout

if TYPE_CHECKING:
    from realignkit.refl.model import Networks, Text


class Policy:
    """Samples with DDIM and ``eta`` above 0 (Song et al., 2021, eq. 16), and says how likely each step was.

    On flow matching's straight path likewise: a step goes towards the predicted picture, and part of the noise that
    is left is drawn anew.

    Args:
        networks: of the model.
        num_inference_steps: how many steps the whole way has.
        guidance_scale: classifier-free guidance; at most 1 switches it off.
        eta: how much noise; 1 is as much as DDPM's, the whole posterior's.

    Attributes:
        timesteps: (T,), as they come.
        std: of each step, float32 (T,).
        random_steps: the indices of those that draw: the last one may not.
    """

    def __init__(self, networks: Networks, num_inference_steps: int, guidance_scale: float, eta: float) -> None:
        self.networks, self.guidance_scale = networks, guidance_scale
        scheduler = Rollout(networks, "ddim", num_inference_steps, guidance_scale).scheduler()
        self.timesteps = networks.noise.timesteps_of(scheduler)
        self._level = networks.noise.level(self.timesteps)
        clean = torch.ones_like(self._level.signal[:1])
        self._next = Level(
            torch.cat([self._level.signal[1:], clean]), torch.cat([self._level.noise[1:], torch.zeros_like(clean)])
        )
        # Of the posterior of what is to come, given where the step starts and x_0, on whatever path.
        kept = self._level.signal / self._next.signal * self._next.noise
        spread = (self._level.noise.square() - kept.square()).clamp_min(0).sqrt()
        self.std = eta * (self._next.noise / self._level.noise * spread).flatten()
        self.random_steps = [i for i, each in enumerate(self.std.tolist()) if each > 1e-4]

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
        x0 = self.networks.predict_x0(latents, self.timesteps[steps], prediction)
        noise = (latents - self._level.signal[steps] * x0) / self._level.noise[steps]
        kept = (self._next.noise[steps].square() - self.std[steps].view(-1, 1, 1, 1).square()).clamp_min(0).sqrt()
        return self._next.signal[steps] * x0 + kept * noise

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
