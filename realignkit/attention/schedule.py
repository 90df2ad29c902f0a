"""The network calls of one sampling run: which step each belongs to, and how much noise there is at it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from realignkit.attention.config import TimeScale


@dataclass(frozen=True, eq=False)
class Schedule:
    """The calls that are made, not those that ``strength`` skips.

    Attributes:
        timesteps: float64 (calls,), what the network is told, in order.
        steps: of each call the sampling step that it belongs to, from 0; solvers of second order call twice a step.
        train_timesteps: ``T_train``.
        logarithmic: whether timesteps are ``ln(sigma) / 4`` (the EDM solvers') instead of [0, ``T_train``].
        start: the noise level that levels are relative to.
    """

    timesteps: Tensor
    steps: tuple[int, ...]
    train_timesteps: int = 1000
    logarithmic: bool = False
    start: float = 1.0

    @classmethod
    def of_timesteps(cls, timesteps: Sequence[float] | Tensor, train_timesteps: int = 1000) -> Schedule:
        """A schedule with one call a step."""
        flat = torch.as_tensor(timesteps, dtype=torch.float64).cpu().flatten()
        logarithmic = len(flat) > 0 and flat.min() < 0 and flat.max() < 2
        return cls(flat, tuple(range(len(flat))), train_timesteps, bool(logarithmic))

    @property
    def count(self) -> int:
        """How many sampling steps there are."""
        return self.steps[-1] + 1

    def locate(self, timestep: float, last: int = -1) -> int:
        """Which call this is, by its timestep; ``last`` is the call before it.

        Nearest, not equal: half precision rounds timesteps. Of equal ones the first that is still to come.
        """
        distance = (self.timesteps - timestep).abs()
        near = (distance == distance.min()).nonzero()[:, 0].tolist()
        return next((call for call in near if call > last), last if last in near else near[0])

    def level(self, timestep: float) -> float:
        """``t / T`` of ``lambda_t``: the noise level in [0, 1], by default that of training.

        Flow-matching models' timesteps are ``T_train`` times the share of noise, sigma, so this is sigma. From
        ``ln(sigma) / 4``, of signal and sigma times as much noise, it is the same share, ``sigma / (1 + sigma)``.
        """
        if self.logarithmic:
            return 1 / (1 + math.exp(-4 * timestep)) / self.start
        return timestep / self.train_timesteps / self.start


def running_schedule(
    runner: Any, num_inference_steps: int, strength: float | None = None, time_scale: TimeScale = "start"
) -> Schedule:
    """What a diffusers pipeline is going to call its network with.

    Args:
        runner: the pipeline; with ``strength`` an image-to-image one.
        num_inference_steps: of the full schedule.
        strength: as for the pipeline; None: everything runs.
        time_scale: see :class:`~realignkit.attention.config.ModulationConfig`.
    """
    scheduler = runner.scheduler
    scheduler.set_timesteps(num_inference_steps)
    timesteps = scheduler.timesteps
    if strength is not None:
        timesteps, _ = runner.get_timesteps(num_inference_steps, strength, runner._execution_device)
    train = int(scheduler.config.num_train_timesteps)
    plain = Schedule.of_timesteps(timesteps, train)
    relative = strength is not None and time_scale == "start"
    start = plain.level(float(plain.timesteps[0])) if relative else 1.0
    return Schedule(plain.timesteps, _steps(scheduler, len(plain.timesteps)), train, plain.logarithmic, start)


def _steps(scheduler: Any, calls: int) -> tuple[int, ...]:
    if not hasattr(scheduler, "plms_timesteps"):
        order = max(1, int(getattr(scheduler, "order", 1)))
        return tuple(call // order for call in range(calls))
    # PNDM: its Runge-Kutta steps take four calls each; without them the first linear multistep takes two.
    warm = [call // 4 for call in range(len(scheduler.prk_timesteps))] or [0, 0]
    return tuple((warm + [warm[-1] + 1 + call for call in range(calls)])[:calls])
