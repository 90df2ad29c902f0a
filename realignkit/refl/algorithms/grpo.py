"""Policy gradient with group advantages (GRPO; for images Flow-GRPO and DanceGRPO, 2025; without groups DDPO, 2024).

Pictures are drawn by a sampler that draws noise at every step, so that each step has a probability. Steps of pictures
that are better than others of their prompt become likelier, as far as the clipped ratio goes:

    loss = -min(ratio A, clip(ratio, 1 - c, 1 + c) A) + kl_weight KL,  ratio = p(step) / p_old(step)

with A the advantage in the group, ``p_old`` of what drew the round, and KL to the frozen model.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

from pydantic import Field, model_validator

from realignkit.errors import ModelError, OptionError
from realignkit.refl.algorithms import Gradients, MicroBatch, Solver
from realignkit.refl.algorithms.feedback import CURRENT, Feedback, FeedbackOptions
from realignkit.refl.data import Order

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from torch import Tensor

    from realignkit.refl.distributed import Processes
    from realignkit.refl.model import Text
    from realignkit.refl.pictures import RatedPictures
    from realignkit.refl.policy import Policy

TRAJECTORY = "trajectory"
"""What is kept of a picture beside its latents: all of them on the way."""


class GRPOOptions(FeedbackOptions):
    """Of ``algorithm=grpo``: a policy gradient on the steps of the model's own pictures."""

    solver: Solver = Field("ddim", description="must be ddim: the others draw no noise")
    eta: float = Field(1.0, gt=0, le=1, description="noise at each step; 1: as much as DDPM")
    clip_range: float = Field(
        1e-4, gt=0, allow_inf_nan=False, description="c of the ratio, whose logarithm is a mean over all numbers"
    )
    max_advantage: float = Field(5.0, gt=0, allow_inf_nan=False, description="advantages are clipped to it")
    kl_weight: float = Field(0.0, ge=0, allow_inf_nan=False, description="of the divergence from the frozen model")

    @model_validator(mode="after")
    def _draws_noise(self) -> GRPOOptions:
        if self.solver != "ddim":
            raise ValueError(f"solver={self.solver} draws no noise at its steps, which grpo learns from: use ddim")
        return self


class GRPO(Feedback):
    """See :class:`GRPOOptions`."""

    Options = GRPOOptions
    options: GRPOOptions

    @property
    def compares_with_round(self) -> bool:
        """With what drew the round."""
        return True

    @cached_property
    def policy(self) -> Policy:
        """What draws, and says how likely each step was."""
        from realignkit.refl.policy import Policy

        options = self.options
        return Policy(self.networks, options.num_inference_steps, options.guidance_scale or 1.0, options.eta)

    def sample(self, noise: Tensor, text: Text, noise_seeds: Sequence[int]) -> dict[str, Tensor]:
        """Clean latents, and all of them on the way."""
        trajectory = self.policy.sample(noise, text, noise_seeds)
        return {"latents": trajectory[:, -1], TRAJECTORY: trajectory}

    def prepare(self, processes: Processes, folder: Path, stop: Callable[[], bool], say: Callable[[str], None]) -> None:
        """See :meth:`Feedback.prepare`; ratios are to this model, so it is said where another one drew the pictures."""
        from realignkit.refl.rounds import record_of

        super().prepare(processes, folder, stop, say)
        given = self.options.pictures
        if given is not None and record_of(given)["weights"] != self.trainable.digest():
            say(f"{given} was drawn by other weights than learn here: ratios are to these, and not to what drew it")

    def check_rounds(self) -> None:
        """Some step must draw noise, and the last one never does."""
        if not self.policy.random_steps:
            raise OptionError(
                f"grpo learns from steps that draw noise, and none of {self.options.num_inference_steps} with "
                f"eta={self.options.eta:g} does: raise grpo.num_inference_steps, or leave grpo.eta out."
            )

    @property
    def drawn_by(self) -> dict[str, Any]:
        """With the noise of each step."""
        return {**super().drawn_by, "eta": self.options.eta}

    def look_at(self, pictures: RatedPictures, number: int) -> str:
        """Advantages, and the steps of pictures that have one, in an order of their own.

        Raises:
            ModelError: all pictures of each prompt are rated alike.
            OptionError: how pictures were drawn has not been kept, or they were drawn with other options.
        """
        from realignkit.refl.rounds import record_of

        advantages = pictures.advantages
        self.advantages = advantages.clamp(-self.options.max_advantage, self.options.max_advantage)
        self.pictures, kept = pictures, [i for i, advantage in enumerate(advantages.tolist()) if advantage]
        if not kept:
            raise ModelError(
                "all pictures of each prompt are rated alike, so there is nothing to learn from. Take another reward."
            )
        made_with = record_of(pictures.folder).get("made_with", {})
        if not made_with or TRAJECTORY not in pictures.kept(kept[0]):
            raise OptionError(
                f"grpo learns from the way on which pictures were drawn, which is not kept in {pictures.folder}: leave "
                f"grpo.pictures out, or use algorithm=dpo or nft."
            )
        pictures.get(kept[:1])  # which refuses another size
        if others := [name for name, value in self.drawn_by.items() if made_with.get(name, value) != value]:
            were = ", ".join(f"grpo.{name}={made_with[name]}" for name in others)
            raise OptionError(
                f"grpo asks how likely the steps are on which pictures were drawn, and those of {pictures.folder} were "
                f"drawn otherwise: set {were}, or leave grpo.pictures out."
            )
        self.steps = [(i, step) for i in kept for step in self.policy.random_steps]
        self.order = Order(len(self.steps), self.config.seed, f"steps of round {number}")
        return f"{len(self.steps)} steps of {len(kept)} that differ from others of their prompt"

    def add(self, gradients: Gradients, batch: MicroBatch) -> None:
        """Add the gradient of a micro-batch of steps, and of what holds the unconditional prediction."""
        import torch

        networks, options, policy = self.networks, self.options, self.policy
        chosen = [self.steps[self.order.at(place)] for place in batch.places]
        ways = [self.pictures.kept(i)[TRAJECTORY] for i, _ in chosen]
        latents, reached = (
            torch.stack([way[step + more] for way, (_, step) in zip(ways, chosen, strict=True)]).to(networks.device)
            for more in (0, 1)
        )
        steps = torch.tensor([step for _, step in chosen], device=networks.device)
        prompts = [self.pictures.prompt(i) for i, _ in chosen]
        with torch.no_grad(), self.trainable.holding(self.trainable.kept[CURRENT]):
            old = policy.log_probability(reached, policy.mean(latents, steps, self.text_of(prompts)), steps)
        mean = policy.mean(latents, steps, self.text_of(prompts))
        ratio = (policy.log_probability(reached, mean, steps) - old).exp()
        advantages = self.advantages[[i for i, _ in chosen]].to(networks.device)
        clipped = ratio.clamp(1 - options.clip_range, 1 + options.clip_range)
        loss = -torch.minimum(ratio * advantages, clipped * advantages).mean()
        if options.kl_weight:
            with torch.no_grad(), self.trainable.base():
                frozen = policy.mean(latents, steps, self.text_of(prompts))
            loss = loss - options.kl_weight * policy.log_probability(mean, frozen, steps).mean()
        self.accumulate(gradients.reward, loss * batch.scale)
        gradients.note("reward_loss", float(loss.detach()))
        self.note_rewards(gradients, self.pictures, [i for i, _ in chosen])
        self.hold(gradients, batch, latents, policy.timesteps[steps], 1.0)
