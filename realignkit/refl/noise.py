"""The noise that a model was trained with: a diffusion's schedule, or the straight path of flow matching."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from realignkit.refl.losses import FLOW, Level


class Noise(ABC):
    """Noise levels by timestep.

    Attributes:
        kind: what the network predicts, see :func:`realignkit.refl.losses.predict_x0`.
        timesteps: how many training timesteps there are.
    """

    kind: str
    timesteps: int

    @abstractmethod
    def level(self, timesteps: Tensor) -> Level:
        """The level of timesteps (B,) or (), shaped to multiply latents."""

    @abstractmethod
    def draw(self, rng: np.random.Generator) -> float:
        """A timestep to learn at."""

    @abstractmethod
    def timesteps_of(self, scheduler: Any) -> Tensor:
        """What the network is told at each step of a solver, (steps,)."""


class DiffusionNoise(Noise):
    """A diffusion's: every training timestep is learnt at alike.

    Args:
        alphas_cumprod: ``abar`` by training timestep, float32 (T_train,).
        kind: ``epsilon``, ``v_prediction`` or ``sample``.
    """

    def __init__(self, alphas_cumprod: Tensor, kind: str) -> None:
        self.alphas_cumprod, self.kind, self.timesteps = alphas_cumprod, kind, len(alphas_cumprod)

    def level(self, timesteps: Tensor) -> Level:
        """By the table."""
        return Level.of_diffusion(self.alphas_cumprod[timesteps.long()].view(-1, 1, 1, 1))

    def draw(self, rng: np.random.Generator) -> float:
        """Uniform."""
        return int(rng.integers(self.timesteps))

    def timesteps_of(self, scheduler: Any) -> Tensor:
        """Whole timesteps."""
        timesteps: Tensor = scheduler.timesteps
        return timesteps


class FlowNoise(Noise):
    """Flow matching's: ``sigma = t / T``, drawn logit-normal and shifted as the model was trained (Esser et al., 2024).

    Args:
        timesteps: ``T``.
        shift: towards noise: ``sigma -> shift * sigma / (1 + (shift - 1) * sigma)``.
    """

    kind = FLOW

    def __init__(self, timesteps: int, shift: float) -> None:
        self.timesteps, self.shift = timesteps, shift

    def level(self, timesteps: Tensor) -> Level:
        """On the straight line."""
        return Level.of_flow((timesteps.float() / self.timesteps).view(-1, 1, 1, 1))

    def draw(self, rng: np.random.Generator) -> float:
        """The middle of the way comes up most often; the ends, where little is to be learnt, seldom."""
        sigma = 1 / (1 + np.exp(-rng.standard_normal()))
        return float(self.timesteps * self.shift * sigma / (1 + (self.shift - 1) * sigma))

    def timesteps_of(self, scheduler: Any) -> Tensor:
        """By its sigmas: some solvers round their timesteps."""
        sigmas: Tensor = scheduler.sigmas[: len(scheduler.timesteps)]
        return sigmas * self.timesteps


def is_flow(scheduler: Any) -> bool:
    """Whether a scheduler's path is that of flow matching."""
    config = scheduler.config
    flow = config.get("use_flow_sigmas", False) or config.get("prediction_type") == FLOW
    return bool(flow) or "FlowMatch" in type(scheduler).__name__


def shift_of(scheduler: Any, tokens: int) -> float:
    """The shift towards noise of a scheduler of flow matching, for pictures of so many tokens."""
    config = scheduler.config
    if not config.get("use_dynamic_shifting", False):
        return float(config.get("flow_shift", config.get("shift", 1.0)))
    from diffusers.pipelines.flux.pipeline_flux import calculate_shift

    names = ("base_image_seq_len", "max_image_seq_len", "base_shift", "max_shift")
    mu = float(calculate_shift(tokens, *(config[name] for name in names)))
    return mu if config.get("time_shift_type") == "linear" else math.exp(mu)


def noise_of(scheduler: Any, device: torch.device, tokens: int = 4096) -> Noise:
    """The noise that a pipeline's model was trained with, by its scheduler.

    ``tokens``: how many a picture has, where the shift depends on that; by default those of 1024 x 1024 pixels.
    """
    config = scheduler.config
    if is_flow(scheduler):
        return FlowNoise(int(config.num_train_timesteps), shift_of(scheduler, tokens))
    from diffusers import DDIMScheduler

    schedule = DDIMScheduler.from_config(config)
    return DiffusionNoise(
        schedule.alphas_cumprod.to(device, torch.float32), str(config.get("prediction_type", "epsilon"))
    )
