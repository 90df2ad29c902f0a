"""One optimizer step: gradients from all micro-batches and processes, weighed, clipped, applied."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path

import torch

from realignkit.errors import ModelError
from realignkit.machine import suited_threads
from realignkit.refl import losses
from realignkit.refl.algorithms import PART, Algorithm, Gradients, MicroBatch
from realignkit.refl.distributed import LossScale, Processes
from realignkit.types import TrainState, Validation


class Learner:
    """Turns an algorithm's gradients into steps of AdamW.

    Args:
        algorithm: whose gradients; with the weights that they change, and the configuration.
        processes: that share an iteration.
        scale: of the loss, in half precision.
        folder: of the run, for the record.
    """

    def __init__(
        self,
        algorithm: Algorithm,
        processes: Processes,
        scale: LossScale,
        folder: Path,
    ) -> None:
        self.algorithm, self.processes = algorithm, processes
        self.trainable, self.config = algorithm.trainable, algorithm.config
        self.scale, self.folder = scale, folder
        self.accumulation = self.config.accumulation(processes.count)
        self.optimizer = torch.optim.AdamW(
            list(self.trainable.parameters.values()),
            lr=self.config.learning_rate,
            betas=self.config.optimizer.betas,
            weight_decay=self.config.optimizer.weight_decay,
        )

    def gradients(self, iteration: int, stop: Callable[[], bool] = lambda: False) -> Gradients:
        """The gradients of an iteration (from 0): means over all its prompts, in all processes.

        Raises:
            ModelError, PluginError: as for :meth:`Algorithm.add`.
            KeyboardInterrupt: ``stop`` said so between two micro-batches.
        """
        algorithm, accumulation, size = self.algorithm, self.accumulation, self.config.batch_size
        algorithm.begin(iteration)
        total = algorithm.zero()
        for micro in range(accumulation):
            if micro and stop():
                raise KeyboardInterrupt
            group = iteration * accumulation + micro
            first = (group * self.processes.count + self.processes.rank) * size
            with suited_threads(algorithm.networks.pipeline, algorithm.reward.plugin):
                algorithm.add(total, MicroBatch(group, range(first, first + size), self.scale.value))
        factor = 1 / (accumulation * self.scale.value)
        torch._foreach_mul_([*total.reward, *total.denoising], factor)
        total.reward, total.denoising = self.processes.mean(total.reward), self.processes.mean(total.denoising)
        names = sorted(total.values)
        local = torch.tensor([total.values[name] / accumulation for name in names], dtype=torch.float64)
        (means,) = self.processes.mean([local.to(algorithm.networks.device, torch.float32)])
        total.values = dict(zip(names, means.tolist(), strict=True))
        return total

    def step(self, iteration: int, stop: Callable[[], bool], held_out: Validation | None) -> TrainState:
        """Do an iteration (from 0); ``held_out``, the latest validation, goes on record with it.

        Raises:
            ModelError: a gradient is NaN or infinite, and not because half precision overflowed.
            PluginError: the reward failed.
            KeyboardInterrupt: as :meth:`gradients`; no weight has changed.
        """
        start = time.perf_counter()
        total = self.gradients(iteration, stop)
        reward_norm, denoising_norm = losses.norm(total.reward), losses.norm(total.denoising)
        chosen, rate = self.algorithm.reward_weight, self.config.learning_rate_at(iteration)
        overflow = not math.isfinite(reward_norm + denoising_norm)
        if isinstance(chosen, float):
            weight = chosen
        else:
            ratio = self.config.gradient_ratio
            weight = 0.0 if overflow else losses.reward_weight_for(ratio, reward_norm, denoising_norm)
        if overflow and not self.scale.active:
            raise ModelError(
                f"the gradient became NaN or infinite at iteration {iteration + 1}. Resume from the last checkpoint "
                f"with a lower learning rate, or choose another reward."
            )
        if overflow and self.scale.value == 1:
            raise ModelError("the gradient overflows in fp16 at any scale. Use mixed_precision=bf16 or no, and resume.")
        self.scale.update(overflow)
        norm = float("nan")
        if not overflow:
            gradient = total.reward or total.denoising
            if total.reward:
                torch._foreach_mul_(total.reward, weight)
            if total.reward and total.denoising:
                torch._foreach_add_(gradient, total.denoising)
            norm = losses.norm(gradient)
            torch._foreach_mul_(gradient, min(1.0, self.config.optimizer.max_gradient_norm / (norm + 1e-12)))
            self._update(gradient, rate, iteration)
        values = total.values
        reward_loss, denoising_loss = values.get("reward_loss", 0.0), values.get("denoising_loss", 0.0)
        return TrainState(
            iteration=iteration + 1,
            iterations=self.config.iterations,
            loss=weight * reward_loss + denoising_loss,
            reward=values.get("reward"),
            reward_loss=reward_loss,
            denoising_loss=denoising_loss,
            reward_weight=weight,
            reward_gradient_norm=None if overflow else reward_norm,
            denoising_gradient_norm=None if overflow else denoising_norm,
            gradient_norm=None if overflow else norm,
            learning_rate=rate,
            skipped=overflow,
            seconds=time.perf_counter() - start,
            held_out=held_out,
            folder=self.folder,
            rewards={name.removeprefix(PART): value for name, value in values.items() if name.startswith(PART)},
        )

    def _update(self, gradients: list[torch.Tensor], rate: float, iteration: int) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        for parameter, gradient in zip(self.trainable.parameters.values(), gradients, strict=True):
            parameter.grad = gradient
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.trainable.update_average(iteration)
        self.algorithm.updated()
