"""Rollouts with a gradient: of the image that one late prediction jumps to, or of the finished one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from realignkit.errors import ModelError
from realignkit.refl.losses import FLOW
from realignkit.refl.model import Networks, Text
from realignkit.refl.noise import FlowNoise

# All of them work on x_t = sqrt(abar) x_0 + sqrt(1 - abar) eps at whole timesteps, so that one formula gives x0'. Other
# spacings of the noise levels, between timesteps, and clipping of x_0 are the pipeline's own affair.
_WHOLE = dict.fromkeys(
    ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas", "use_flow_sigmas"), False
)
_SOLVERS: dict[str, tuple[str, dict[str, Any]]] = {
    "ddim": ("DDIMScheduler", {"clip_sample": False, "thresholding": False}),
    "dpmpp": (
        "DPMSolverMultistepScheduler",
        {"algorithm_type": "dpmsolver++", "variance_type": None, "thresholding": False, **_WHOLE},
    ),
    "unipc": ("UniPCMultistepScheduler", {"thresholding": False, **_WHOLE}),
}
_FLOW_SIGMAS = {**_WHOLE, "use_flow_sigmas": True, "prediction_type": FLOW, "thresholding": False}
# Of first order, DDIM's step is Euler's there.
_FLOW_SOLVERS: dict[str, tuple[str, dict[str, Any]]] = {
    "ddim": ("FlowMatchEulerDiscreteScheduler", {**_WHOLE, "stochastic_sampling": False}),
    "dpmpp": ("DPMSolverMultistepScheduler", {**_FLOW_SIGMAS, "algorithm_type": "dpmsolver++", "variance_type": None}),
    "unipc": ("UniPCMultistepScheduler", _FLOW_SIGMAS),
}


@dataclass(frozen=True, eq=False)
class Point:
    """A step of a rollout that carries a gradient.

    Attributes:
        index: which step, from 0.
        timestep: its training timestep (), whole but under flow matching.
        latents: ``x_k``, without gradient.
        conditional: the prediction for the prompt, before guidance; with gradient.
    """

    index: int
    timestep: Tensor
    latents: Tensor
    conditional: Tensor


@dataclass(frozen=True, eq=False)
class Jump(Point):
    """A step, and where its prediction leads at once.

    Attributes:
        x0: the clean latents (B, C, h, w) that the guided prediction jumps to; with gradient.
    """

    x0: Tensor


class Rollout:
    """Samples with a solver; the same noise gives the same rollout.

    Args:
        networks: of the model.
        solver: ``ddim`` (Euler's method, under flow matching), ``dpmpp`` or ``unipc``.
        num_inference_steps: how many steps the whole way has.
        guidance_scale: classifier-free guidance; at most 1 switches it off.
    """

    def __init__(self, networks: Networks, solver: str, num_inference_steps: int, guidance_scale: float) -> None:
        self.networks, self.steps, self.guidance_scale = networks, num_inference_steps, guidance_scale
        noise = networks.noise
        self._class, self._changes = (_FLOW_SOLVERS if noise.kind == FLOW else _SOLVERS)[solver]
        self._sigmas: list[float] | None = None
        if isinstance(noise, FlowNoise):  # solvers call it by two names
            shift = {"shift" if solver == "ddim" else "flow_shift": noise.shift}
            self._changes = {**self._changes, **shift, "use_dynamic_shifting": False}
            if solver == "ddim" and networks.distilled:  # FLUX's pipeline has levels of its own
                self._sigmas = [1 - step / num_inference_steps for step in range(num_inference_steps)]

    def scheduler(self) -> Any:
        """The solver, with its steps set."""
        import diffusers

        # Made anew: multistep solvers remember what they have seen.
        config = dict(self.networks.pipeline.scheduler.config)
        config.pop("shift", None)  # which solvers that call it otherwise complain of
        scheduler = getattr(diffusers, self._class).from_config(config, **self._changes)
        levels = {} if self._sigmas is None else {"sigmas": self._sigmas}
        scheduler.set_timesteps(self.steps, device=self.networks.device, **levels)
        return scheduler

    def jumps(self, noise: Tensor, text: Text, at: Sequence[int]) -> Iterator[Jump]:
        """Denoise ``noise`` (B, C, h, w), and stop at each step index of ``at`` for a prediction with gradient.

        The rollout goes on from the same prediction without its gradient, so several points cost one rollout.
        Take one's gradient before asking for the next: its graph is let go then.

        Raises:
            ModelError: the model computed NaN or infinity.
        """
        scheduler, last = self.scheduler(), max(at)
        latents = noise * initial_scale(scheduler)
        for index, timestep in enumerate(self.networks.noise.timesteps_of(scheduler)[: last + 1]):
            if index in at:
                with torch.enable_grad():
                    prediction, conditional = self._predict(latents, timestep, text)
                    x0 = self.networks.predict_x0(latents, timestep, prediction)
                yield Jump(index, timestep, latents, conditional, x0)
                if index == last:
                    return
                prediction = prediction.detach()
                del conditional, x0
            else:
                prediction = self._predict_quietly(latents, timestep, text)
            latents = scheduler.step(prediction, scheduler.timesteps[index], latents, return_dict=False)[0]

    def finished(self, noise: Tensor, text: Text, at: Sequence[int]) -> tuple[Tensor, list[Point]]:
        """Denoise ``noise`` (B, C, h, w) to the end; the gradient reaches the predictions at the step indices ``at``.

        What the network reads is held: the gradient goes from the image through the solver, which is linear in the
        predictions, straight to each of them, and not through later predictions (DRTune, Wu et al., 2024). So it
        neither explodes over many steps nor grows with them, and early steps may carry it. The graphs of all of them
        are kept until then: memory grows with their number.

        Returns:
            Clean latents (B, C, h, w), and the steps that carry their gradient.

        Raises:
            ModelError: the model computed NaN or infinity.
        """
        scheduler, points = self.scheduler(), []
        latents = noise * initial_scale(scheduler)
        for index, timestep in enumerate(self.networks.noise.timesteps_of(scheduler)):
            if index in at:
                with torch.enable_grad():
                    read = latents.detach()
                    prediction, conditional = self._predict(read, timestep, text)
                points.append(Point(index, timestep, read, conditional))
            else:
                prediction = self._predict_quietly(latents.detach(), timestep, text)
            with torch.enable_grad():
                latents = scheduler.step(prediction, scheduler.timesteps[index], latents, return_dict=False)[0]
        return latents, points

    @torch.no_grad()
    def sample(self, noise: Tensor, text: Text) -> Tensor:
        """Clean latents (B, C, h, w) of ``noise`` (B, C, h, w), the whole way without gradient.

        Raises:
            ModelError: the model computed NaN or infinity.
        """
        scheduler = self.scheduler()
        latents: Tensor = noise * initial_scale(scheduler)
        # Around all steps, so that weights are rounded once and not at each.
        with self.networks.autocast():
            for index, timestep in enumerate(self.networks.noise.timesteps_of(scheduler)):
                prediction = self._predict_quietly(latents, timestep, text)
                latents = scheduler.step(prediction, scheduler.timesteps[index], latents, return_dict=False)[0]
        return latents

    @torch.no_grad()
    def _predict_quietly(self, latents: Tensor, timestep: Tensor, text: Text) -> Tensor:
        return self._predict(latents, timestep, text)[0]

    def _predict(self, latents: Tensor, timestep: Tensor, text: Text) -> tuple[Tensor, Tensor]:
        prediction, conditional = self.networks.guided(latents, timestep, text, self.guidance_scale)
        if not torch.isfinite(prediction).all():
            raise ModelError(
                "the model computed NaN or infinity while sampling. Use mixed_precision=bf16 or no; if it is off "
                "already, lower the learning rate and resume from the last checkpoint."
            )
        return prediction, conditional


def initial_scale(scheduler: Any) -> Any:
    """What a solver multiplies noise of unit variance with; those of flow matching start from it as it is."""
    return getattr(scheduler, "init_noise_sigma", 1.0)
