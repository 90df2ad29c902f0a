"""RAFT (Dong et al., 2023): draw several images per prompt, and learn from the one that the reward likes best."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field

from realignkit.calls import rewards_of
from realignkit.refl import seeds
from realignkit.refl.algorithms import Algorithm, Gradients, MicroBatch, RolloutOptions

if TYPE_CHECKING:
    from torch import Tensor


class RAFTOptions(RolloutOptions):
    """Of ``algorithm=raft``: the denoising loss on the best of several images per prompt."""

    gradients_per_rollout: int = Field(1, ge=1, description="noise levels to learn each best image at")
    candidates: int = Field(4, ge=2, description="images per prompt, of which the best is learnt from")
    shuffle_rewards: bool = Field(
        False, description="a control: rewards exchanged among the candidates of each prompt, so that they say nothing"
    )


class RAFT(Algorithm):
    """See :class:`RAFTOptions`."""

    Options = RAFTOptions
    options: RAFTOptions

    def add(self, gradients: Gradients, batch: MicroBatch) -> None:
        """Draw, choose, and add the gradients of the denoising loss on what was chosen, and of L_pre."""
        if self.has_reward_term:
            self._add_reward_term(gradients, batch)
        self.add_l_pre(gradients, batch)

    def _add_reward_term(self, gradients: Gradients, batch: MicroBatch) -> None:
        prompts, count = self.prompts_at(batch.places), self.options.gradients_per_rollout
        best, rewards = self._best(prompts, batch)
        for draw in range(count):
            scale = self.options.guidance_scale
            loss = self.denoising_losses(best, prompts, f"raft {draw}", batch.places, scale).mean() / count
            self.accumulate(gradients.reward, loss * batch.scale)
            gradients.note("reward_loss", float(loss.detach()))
        gradients.note("reward", float(rewards.mean()))

    def _best(self, prompts: list[str], batch: MicroBatch) -> tuple[Tensor, Tensor]:
        """The best image of each prompt as clean latents (B, C, h, w), and the rewards (candidates, B) of all."""
        import torch

        networks, seed = self.networks, self.config.seed
        text = networks.text(prompts)
        drawn, rated = [], []
        for candidate in range(self.options.candidates):
            noise = seeds.normal(networks.latent_shape, seed, f"candidate {candidate}", batch.places)
            latents = self.rollout.sample(noise.to(networks.device), text)
            with torch.no_grad(), seeds.seeded(seed, "reward", batch.places[0], candidate):
                rated.append(rewards_of(self.reward, networks.decode(latents), prompts).to(networks.device))
            drawn.append(latents)
        rewards, everyone = torch.stack(rated), torch.arange(len(prompts), device=networks.device)
        said = self._shuffled(rewards, batch.places) if self.options.shuffle_rewards else rewards
        return torch.stack(drawn)[said.argmax(0), everyone], rewards

    def _shuffled(self, rewards: Tensor, places: Sequence[int]) -> Tensor:
        """Rewards (candidates, B), those of each prompt exchanged among its candidates."""
        import torch

        seed, count = self.config.seed, len(rewards)
        orders = [seeds.numpy_rng(seed, "shuffled rewards", place).permutation(count) for place in places]
        return rewards.gather(0, torch.tensor(np.stack(orders, 1), device=rewards.device))
