"""ReFL (Xu et al., 2023; eq. 5): the reward's gradient, through an image into the prediction that it came from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from realignkit.calls import rewards_of
from realignkit.refl import losses, seeds
from realignkit.refl.algorithms import Gradients, MarginAlgorithm, MicroBatch, RolloutOptions

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from realignkit.refl.model import Text
    from realignkit.refl.rollout import Point

LATE_SHARE = 0.6
"""Where the late steps begin, as a share of the rollout, unless ``gradient_steps`` says: the paper's 30 of 50."""


class ReFLOptions(RolloutOptions):
    """Of ``algorithm=refl``: the gradient of ``relu(margin - R)`` of images that the model draws."""

    gradients_per_rollout: int = Field(1, ge=1, description="steps of one rollout that carry a gradient")
    margin: float | None = Field(None, allow_inf_nan=False, description="of phi; none: as the reward states")
    rated_image: Literal["jump", "final"] = Field(
        "jump",
        description="jump: what a late step's prediction jumps to (ReFL); final: the finished image, whose gradient "
        "goes straight to the predictions at the drawn steps (DRTune)",
    )
    gradient_steps: tuple[int, int] | None = Field(
        None, description="first and last step index (from 0) that may carry the gradient; none: the last 40 %"
    )
    kl_weight: float = Field(
        0.0, ge=0, allow_inf_nan=False, description="of ||eps - eps_base||^2 at the rollout's steps"
    )

    @model_validator(mode="after")
    def _consistent(self) -> ReFLOptions:
        first, last = self.late_steps
        if not 0 <= first <= last < self.num_inference_steps:
            raise ValueError(
                f"gradient_steps {first}, {last} must be two rising step indices below "
                f"num_inference_steps={self.num_inference_steps}"
            )
        if self.gradients_per_rollout > last - first + 1:
            raise ValueError(
                f"{self.gradients_per_rollout} gradients_per_rollout do not fit into steps {first} to {last}"
            )
        return self

    @property
    def late_steps(self) -> tuple[int, int]:
        """First and last step index (both included, from 0) that may carry the gradient."""
        if self.gradient_steps is not None:
            return self.gradient_steps
        return int(LATE_SHARE * self.num_inference_steps), self.num_inference_steps - 1


def draw_steps(first: int, last: int, count: int, rng: np.random.Generator) -> list[int]:
    """``count`` different step indices in [first, last], in the order of the rollout."""
    return sorted(int(i) for i in rng.choice(range(first, last + 1), size=count, replace=False))


class ReFL(MarginAlgorithm):
    """See :class:`ReFLOptions`."""

    Options = ReFLOptions
    options: ReFLOptions
    differentiates = True
    default_reward_weight = 1e-3

    @classmethod
    def needs_base(cls, options: Any) -> bool:
        """For the KL-style term."""
        return bool(options.kl_weight)

    @property
    def has_denoising_term(self) -> bool:
        """L_pre, or the KL-style term, which is measured where the reward's rollout has been."""
        return super().has_denoising_term or (self.has_reward_term and self.options.kl_weight > 0)

    def add(self, gradients: Gradients, batch: MicroBatch) -> None:
        """Roll out, and add the gradients of the reward at the drawn steps, of the KL-style term, and of L_pre."""
        if self.has_reward_term:
            self._add_reward_term(gradients, batch)
        self.add_l_pre(gradients, batch)

    def _add_reward_term(self, gradients: Gradients, batch: MicroBatch) -> None:
        options, networks, seed = self.options, self.networks, self.config.seed
        prompts = self.prompts_at(batch.places)
        text = networks.text(prompts)
        noise = seeds.normal(networks.latent_shape, seed, "rollout", batch.places).to(networks.device)
        rng = seeds.numpy_rng(seed, "late steps", batch.group)
        steps = draw_steps(*options.late_steps, options.gradients_per_rollout, rng)
        if options.rated_image == "final":
            x0, points = self.rollout.finished(noise, text, steps)
            self._climb(gradients, batch, x0, prompts, steps[-1])
            for point in points:
                self._stay(gradients, batch, point, prompts, text)
            return
        for jump in self.rollout.jumps(noise, text, steps):
            self._climb(gradients, batch, jump.x0, prompts, jump.index, share=1 / len(steps))
            self._stay(gradients, batch, jump, prompts, text)

    def _climb(
        self, gradients: Gradients, batch: MicroBatch, x0: Tensor, prompts: Sequence[str], step: int, share: float = 1
    ) -> None:
        """``phi(R)`` of the images of clean latents that a step led to, a ``share`` of the rollout's."""
        with seeds.seeded(self.config.seed, "reward", batch.places[0], step, 0):
            rewards = rewards_of(self.reward, self.networks.decode(x0), prompts, gradient=True)
        loss = losses.phi(rewards, self.margin).mean() * share
        self.accumulate(gradients.reward, loss * batch.scale, keep=self._keeps_graph)
        gradients.note("reward_loss", float(loss.detach()))
        gradients.note("reward", float(rewards.detach().mean()) * share)

    def _stay(self, gradients: Gradients, batch: MicroBatch, point: Point, prompts: Sequence[str], text: Text) -> None:
        """``||eps_theta - eps_base||^2`` where the rollout has been: no further prediction of the learning model."""
        import torch

        options = self.options
        if not options.kl_weight:
            return
        with torch.no_grad(), self.trainable.base():
            base_text = self.networks.text(prompts) if self.networks.learns_text else text
            base = self.networks.predict(point.latents, point.timestep, base_text, options.guidance_scale)
        distance = torch.nn.functional.mse_loss(point.conditional, base)
        loss = options.kl_weight * distance / options.gradients_per_rollout
        self.accumulate(gradients.denoising, loss * batch.scale, keep=self.networks.learns_text)
        gradients.note("denoising_loss", float(loss.detach()))

    @property
    def _keeps_graph(self) -> bool:
        return self.options.kl_weight > 0 or self.networks.learns_text
