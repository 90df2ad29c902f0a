"""Reward-guided sampling: each step's prediction is moved up a reward of the picture that it leads to.

The picture is that of the guided prediction, which shows most; the gradient goes from its clean latents *through the
conditional prediction*, down to the latents that the network reads. The network's Jacobian is, up to a factor, the
covariance of the pictures that could still follow: a gradient that has gone through it moves what the model is
undecided about; one that has not paints on the picture (docs/explanation/reward-gradients.md).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from realignkit.pipelines import families
from realignkit.pipelines.images import decoded, without_overflow
from realignkit.pipelines.prediction import Level, predict_x0

Gradient = Callable[[Tensor, Sequence[str]], Tensor]
"""Where images should go, float (B, 3, H, W), of images float (B, 3, H, W) in [0, 1] and their prompts; 0: nowhere."""

MOST_NOISE = 1e3
"""Sigma above which latents are noise alone, as at the end of a schedule of zero signal: nothing to predict from."""


@contextmanager
def guiding(
    pipeline: Any,
    prompts: Sequence[str],
    gradient: Gradient,
    *,
    strength: float,
    share: float,
    guidance_scale: float | None = None,
) -> Iterator[GuidedSampling]:
    """Guide what a pipeline draws while the context lasts, in the thread that enters it.

    What is compiled runs uncompiled meanwhile.

    Args:
        pipeline: one that :func:`~realignkit.pipelines.refusals.why_not_guided` has nothing against, called with one
            image per prompt.
        prompts: what the images are rated by.
        gradient: of the reward.
        strength: root mean square of what is taken off the predicted noise, whose own is about 1.
        share: which steps are guided: the first ones, as a share of those that run, in (0, 1].
        guidance_scale: of classifier-free guidance, as the pipeline is called with; None: its default.
    """
    if guidance_scale is None:
        guidance_scale = float(families.call_parameters(pipeline)["guidance_scale"].default)
    network = families.denoiser(pipeline)
    with families.alone(pipeline), torch.compiler.set_stance("force_eager"):
        before = vars(network).get("forward")
        sampling = GuidedSampling(pipeline, tuple(prompts), gradient, strength, share, guidance_scale, network.forward)
        network.forward = sampling
        try:
            yield sampling
        finally:
            del network.forward
            if before is not None:  # a hook's
                network.forward = before


@dataclass(eq=False)
class GuidedSampling:
    """A network's forward pass with guided predictions.

    Attributes:
        pipeline, prompts, gradient, strength, share, guidance_scale: see :func:`guiding`.
        forward: the network's own forward pass.
        passes: how many there were.
        guided: how many of them were guided.
        seconds: what their gradients took.
    """

    pipeline: Any
    prompts: tuple[str, ...]
    gradient: Gradient
    strength: float
    share: float
    guidance_scale: float
    forward: Callable[..., Any]
    passes: int = 0
    guided: int = 0
    seconds: float = 0.0
    _first: int | None = None
    _thread: int = field(default_factory=threading.get_ident)

    def __call__(self, sample: Tensor, *args: Any, **kwargs: Any) -> Any:
        """What the network predicts, moved where the step is guided; takes and returns what its forward pass does."""
        if threading.get_ident() != self._thread:
            return self.forward(sample, *args, **kwargs)
        timestep = float(torch.as_tensor(kwargs["timestep"] if "timestep" in kwargs else args[0]).flatten()[0])
        self.passes += 1
        sigma = self.sigma(timestep)
        if not self.guides(timestep) or sigma > MOST_NOISE:
            return self.forward(sample, *args, **kwargs)
        self.guided += 1
        count, kind = len(self.prompts), self.pipeline.scheduler.config.prediction_type
        level = Level.of_diffusion(torch.tensor(1 / (1 + sigma**2)))
        with torch.enable_grad():
            # Under classifier-free guidance the conditional half comes last.
            latents = sample[-count:].detach().requires_grad_()
            output = self.forward(torch.cat([sample[:-count], latents]), *args, **kwargs)
            start = time.perf_counter()
            prediction, channels = output[0], latents.shape[1]  # further channels are of a learned variance
            noises = prediction[:, :channels].float()
            conditional = predict_x0(latents.float(), noises[-count:], level, kind)
            with torch.no_grad():
                guided = conditional
                if len(noises) > count:  # the first half is the unconditional one, of the same latents
                    unconditional = predict_x0(latents.float(), noises[:count], level, kind)
                    guided = unconditional + self.guidance_scale * (conditional - unconditional)
            ascent = self.ascent(guided, conditional, latents)
        # By the noise that is taken off; what a network predicts instead of noise follows from it.
        signal, noise = float(level.signal), float(level.noise)
        scale = {"epsilon": -1.0, "v_prediction": -1 / signal, "sample": noise / signal}[kind] * self.strength
        moved = prediction.detach().clone()
        # Both halves alike, so that their guided combination moves by just as much.
        moved[:, :channels] += (scale * ascent).to(moved.dtype).repeat(len(moved) // count, 1, 1, 1)
        self.seconds += time.perf_counter() - start
        return (moved, *output[1:])

    def guides(self, timestep: float) -> bool:
        """Whether the pass at a timestep is among the first ``share`` of those that run."""
        distances = [abs(float(each) - timestep) for each in self.pipeline.scheduler.timesteps]
        index = distances.index(min(distances))
        if self._first is None:  # what starts from an image leaves out the beginning
            self._first = index
        return index - self._first < self.share * (len(distances) - self._first)

    def sigma(self, timestep: float) -> float:
        """Noise over signal at a timestep, interpolated where it lies between two of training, as solvers do."""
        alpha_bar = self.pipeline.scheduler.alphas_cumprod.double().cpu()
        sigmas = ((1 - alpha_bar) / alpha_bar).sqrt().clamp_max(10 * MOST_NOISE)  # at zero signal it is infinite
        low = min(int(timestep), len(sigmas) - 2)
        return float(torch.lerp(sigmas[low], sigmas[low + 1], timestep - low))

    def ascent(self, guided: Tensor, conditional: Tensor, latents: Tensor) -> Tensor:
        """Where latents should go: float32 (B, C, h, w), each of root mean square 1, or 0 where nothing is to do.

        Args:
            guided: the clean latents (B, C, h, w) that the guided prediction leads to: what is rated.
            conditional: those of the conditional one, with a gradient to ``latents``: what it goes through.
            latents: (B, C, h, w), what the network has read.
        """
        seen = guided.detach().requires_grad_()
        with without_overflow(self.pipeline.vae):
            images = decoded(self.pipeline.vae, seen)
            wanted = self.gradient(images.detach(), self.prompts)
            (wanted,) = torch.autograd.grad(images, seen, wanted.to(images))
        # In two parts, each at a scale that half precision can hold.
        (ascent,) = torch.autograd.grad(conditional, latents, normalised(wanted))
        return normalised(ascent.float())


def normalised(tensors: Tensor) -> Tensor:
    """Tensors (B, C, h, w), each brought to a root mean square of 1; what is 0 stays so."""
    size = tensors.square().mean((1, 2, 3), keepdim=True).sqrt()
    return tensors / size.clamp_min(torch.finfo(tensors.dtype).tiny)
