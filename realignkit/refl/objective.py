"""One micro-batch's gradients: of the reward term and of the denoising terms, kept apart (eq. 5)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from realignkit.calls import rewards_of
from realignkit.errors import ModelError
from realignkit.named import Named
from realignkit.refl import losses, seeds
from realignkit.refl.config import ReFLConfig
from realignkit.refl.data import Order, Pairs
from realignkit.refl.model import Networks, Text
from realignkit.refl.rollout import Point, Rollout, draw_steps
from realignkit.refl.trainable import Trainable


@dataclass
class Gradients:
    """Sums over micro-batches, in the order of the trainable parameters; loss-scaled. Empty for a term that is off.

    Attributes:
        reward: of the unweighted reward term.
        denoising: of the weighted L_pre and KL-style term, or of drawn pairs, which weigh alike.
        values: sums of what is logged: ``reward``, ``reward_loss``, ``denoising_loss``.
    """

    reward: list[Tensor]
    denoising: list[Tensor]
    values: dict[str, float] = field(default_factory=dict)

    def note(self, name: str, value: float) -> None:
        """Add to a logged value."""
        self.values[name] = self.values.get(name, 0.0) + value


@dataclass(frozen=True, eq=False)
class _MicroBatch:
    """What is rolled out together: see :meth:`Objective.add`."""

    group: int
    places: Sequence[int]
    prompts: Sequence[str]
    text: Text
    scale: float


class Objective:
    """Computes the gradients of eq. 5 for places of the run.

    Args:
        networks, trainable: the model.
        config: of the training.
        reward: the training reward.
        algorithm: ``refl``, ``raft`` or ``reward_weighted``.
        guidance_scale: of the rollouts.
        prompts: to train on.
        pairs: for L_pre; None where it is dropped.
    """

    def __init__(
        self,
        networks: Networks,
        trainable: Trainable,
        config: ReFLConfig,
        reward: Named,
        *,
        algorithm: str,
        guidance_scale: float,
        prompts: Sequence[str],
        pairs: Pairs | None,
    ) -> None:
        self.networks, self.trainable, self.config = networks, trainable, config
        self.reward, self.algorithm = reward, algorithm
        self.margin = float(getattr(reward.plugin, "margin", 1.0)) if config.margin is None else config.margin
        self.rollout = Rollout(networks, config.solver, config.num_inference_steps, guidance_scale)
        self.prompts, self.pairs = prompts, pairs
        self._prompt_order = Order(len(prompts), config.seed, "prompts")
        self._pair_order = Order(len(pairs), config.seed, "pairs") if pairs is not None else None
        self._rated: dict[int, float] = {}
        self.draws_pairs = config.pair_sampling == "weighted" and config.reward_weight != 0

    def zero(self) -> Gradients:
        """Nothing yet, and no memory for a term that there is none of."""
        parameters = list(self.trainable.parameters.values())
        config = self.config
        l_pre = self.pairs is not None and (self.draws_pairs or config.denoising_weight > 0)
        terms = (config.reward_weight != 0 and not self.draws_pairs, l_pre or config.kl_weight > 0)
        reward, denoising = ([torch.zeros_like(p) for p in parameters] if there else [] for there in terms)
        return Gradients(reward, denoising)

    def add(self, gradients: Gradients, group: int, places: Sequence[int], scale: float) -> None:
        """Add a micro-batch's gradients.

        Args:
            gradients: what to add to.
            group: number of the micro-batch in the run, the same in all processes: decides the steps.
            places: numbers of its samples in the run: decide prompts and noise.
            scale: losses are multiplied by it, against underflow in half precision.

        Raises:
            ModelError: the model or the reward computed NaN or infinity.
            PluginError: the reward failed or broke its contract.
        """
        if self.config.reward_weight != 0:
            if self.algorithm == "refl":
                self._reward_term(gradients, group, places, scale)
            elif self.algorithm == "raft":
                self._raft_term(gradients, places, scale)
        if self.pairs is not None:
            self._denoising_term(gradients, places, scale)

    def draw_pairs_by(self, rewards: Sequence[float]) -> float:
        """Draw pairs by their rewards from now on; gives Kish's effective number of pairs, ``(sum w)^2 / sum w^2``.

        The share of a pair is lambda times its weight, plus ``denoising_weight``: what both terms together weigh it.

        Args:
            rewards: of all pairs, in their order.

        Raises:
            ModelError: every pair weighs nothing.
        """
        assert self.pairs is not None and isinstance(self.config.reward_weight, float | None)
        self._rated = dict(enumerate(rewards))
        lam = 1.0 if self.config.reward_weight is None else self.config.reward_weight
        shares = lam * self._weights(torch.tensor(rewards, dtype=torch.float64)) + self.config.denoising_weight
        if not float(shares.sum()) > 0:
            raise ModelError(
                f"no pair's reward comes near the margin {self.margin:g} (the best has {max(rewards):.4g}), so there "
                f"is nothing to learn from. Lower margin, or raise reward_temperature."
            )
        self._pair_order = Order(len(self.pairs), self.config.seed, "pairs", shares.tolist())
        return float(shares.sum().square() / shares.square().sum())

    def _weights(self, rewards: Tensor) -> Tensor:
        return torch.exp(-losses.phi(rewards, self.margin) / self.config.reward_temperature)

    def _reward_term(self, gradients: Gradients, group: int, places: Sequence[int], scale: float) -> None:
        config, networks = self.config, self.networks
        prompts = [self.prompts[self._prompt_order.at(place)] for place in places]
        text = networks.text(prompts)
        noise = seeds.normal(networks.latent_shape, config.seed, "rollout", places).to(networks.device)
        rng = seeds.numpy_rng(config.seed, "late steps", group)
        steps = draw_steps(*config.late_steps, config.gradients_per_rollout, rng)
        micro = _MicroBatch(group, places, prompts, text, scale)
        if config.rated_image == "final":
            x0, points = self.rollout.finished(noise, text, steps)
            self._climb(gradients, x0, micro, steps[-1])
            for point in points:
                self._stay(gradients, point, micro)
            return
        for jump in self.rollout.jumps(noise, text, steps):
            self._climb(gradients, jump.x0, micro, jump.index, share=1 / len(steps))
            self._stay(gradients, jump, micro)

    def _climb(self, gradients: Gradients, x0: Tensor, micro: _MicroBatch, step: int, share: float = 1) -> None:
        """``phi(R)`` of the images of clean latents that a step led to, a ``share`` of the rollout's."""
        config = self.config
        with seeds.seeded(config.seed, "reward", micro.places[0], step, 0):
            rewards = rewards_of(self.reward, self.networks.decode(x0), micro.prompts, gradient=True)
        loss = losses.phi(rewards, self.margin).mean() * share
        self._accumulate(gradients.reward, loss * micro.scale, keep=config.kl_weight > 0 or config.train_text_encoder)
        gradients.note("reward_loss", float(loss.detach()))
        gradients.note("reward", float(rewards.detach().mean()) * share)

    def _stay(self, gradients: Gradients, point: Point, micro: _MicroBatch) -> None:
        """``||eps_theta - eps_base||^2`` where the rollout has been: no further prediction of the learning model."""
        config = self.config
        if not config.kl_weight:
            return
        with torch.no_grad(), self.trainable.base():
            base = self.networks.predict(point.latents, point.timestep, self._base_text(micro))
        apart = config.kl_weight * torch.nn.functional.mse_loss(point.conditional, base) / config.gradients_per_rollout
        self._accumulate(gradients.denoising, apart * micro.scale, keep=config.train_text_encoder)
        gradients.note("denoising_loss", float(apart.detach()))

    def _base_text(self, micro: _MicroBatch) -> Text:
        """What the frozen model reads, within :meth:`Trainable.base`."""
        return self.networks.text(micro.prompts) if self.config.train_text_encoder else micro.text

    def _raft_term(self, gradients: Gradients, places: Sequence[int], scale: float) -> None:
        config, networks = self.config, self.networks
        prompts = [self.prompts[self._prompt_order.at(place)] for place in places]
        text = networks.text(prompts)
        drawn, rated = [], []
        for candidate in range(config.candidates):
            noise = seeds.normal(networks.latent_shape, config.seed, f"candidate {candidate}", places)
            latents = self.rollout.sample(noise.to(networks.device), text)
            with torch.no_grad(), seeds.seeded(config.seed, "reward", places[0], candidate):
                rated.append(rewards_of(self.reward, networks.decode(latents), prompts).to(networks.device))
            drawn.append(latents)
        rewards, everyone = torch.stack(rated), torch.arange(len(prompts), device=networks.device)
        chosen = torch.stack(drawn)[rewards.argmax(0), everyone]
        for draw in range(config.gradients_per_rollout):
            loss = self._denoising_losses(chosen, prompts, f"raft {draw}", places).mean() / config.gradients_per_rollout
            self._accumulate(gradients.reward, loss * scale)
            gradients.note("reward_loss", float(loss.detach()))
        gradients.note("reward", float(rewards.mean()))

    def _denoising_term(self, gradients: Gradients, places: Sequence[int], scale: float) -> None:
        assert self.pairs is not None and self._pair_order is not None
        indices = [self._pair_order.at(place) for place in places]
        latents, captions = self.pairs.get(indices)
        each = self._denoising_losses(latents, captions, "pairs", places)
        if self.draws_pairs:
            # Lambda is in the shares: here it would only scale the step, up to the clipping that the control escapes.
            self._accumulate(gradients.denoising, each.mean() * scale)
            gradients.note("reward", float(self._pair_rewards(indices, captions).mean()))
            gradients.note("denoising_loss", float(each.mean().detach()))
            return
        if self.algorithm == "reward_weighted" and self.config.reward_weight != 0:
            rewards = self._pair_rewards(indices, captions).to(each.device)
            weighted = (self._weights(rewards) * each).mean()
            self._accumulate(gradients.reward, weighted * scale, keep=True)
            gradients.note("reward", float(rewards.mean()))
            gradients.note("reward_loss", float(weighted.detach()))
        if not self.config.denoising_weight:  # reward_weighted without L_pre
            return
        loss = self.config.denoising_weight * each.mean()
        self._accumulate(gradients.denoising, loss * scale)
        gradients.note("denoising_loss", float(loss.detach()))

    def _pair_rewards(self, indices: Sequence[int], captions: Sequence[str]) -> Tensor:
        """Of L_pre's images for their own captions, (B,); each pair is rated once."""
        assert self.pairs is not None
        for i, text in zip(indices, captions, strict=True):
            if i not in self._rated:
                # One by one, as for latents: a resumed run must not notice.
                self._rated[i] = self.rate_pair(i, text)
        return torch.tensor([self._rated[i] for i in indices])

    def rate_pair(self, index: int, caption: str) -> float:
        """The reward of an image of L_pre for its caption.

        Raises:
            OptionError: the image cannot be read.
            ModelError, PluginError: as for :meth:`add`.
        """
        assert self.pairs is not None
        with torch.no_grad(), seeds.seeded(self.config.seed, "pairs", index):
            image = self.pairs.image(index).to(self.networks.device)
            return float(rewards_of(self.reward, image, [caption]))

    def _denoising_losses(self, clean: Tensor, captions: Sequence[str], purpose: str, places: Sequence[int]) -> Tensor:
        """Eq. 3, on latents (B, C, h, w): mean squared errors of predictions at random timesteps, (B,)."""
        config, networks = self.config, self.networks
        rngs = [seeds.numpy_rng(config.seed, f"{purpose} timestep", place) for place in places]
        timesteps = torch.tensor([int(rng.integers(len(networks.alphas_cumprod))) for rng in rngs])
        # Some captions are left empty, so that guidance keeps something to steer away from.
        told = ["" if rng.random() < config.caption_dropout else text for rng, text in zip(rngs, captions, strict=True)]
        noise = seeds.normal(clean.shape[1:], config.seed, f"{purpose} noise", places).to(networks.device)
        timesteps = timesteps.to(networks.device)
        alpha_bar = networks.alpha_bar(timesteps)
        prediction = networks.predict(losses.add_noise(clean, noise, alpha_bar), timesteps, networks.text(told))
        target = losses.denoising_target(clean, noise, alpha_bar, networks.kind)
        each = (prediction - target).square().mean((1, 2, 3))
        if not torch.isfinite(each).all():
            raise ModelError(
                "the model computed NaN or infinity for the denoising loss. Use mixed_precision=bf16 or no; if it is "
                "off already, lower the learning rate and resume from the last checkpoint."
            )
        return each

    def _accumulate(self, into: list[Tensor], loss: Tensor, *, keep: bool = False) -> None:
        parameters = list(self.trainable.parameters.values())
        found = torch.autograd.grad(loss, parameters, allow_unused=True, retain_graph=keep)
        for total, gradient in zip(into, found, strict=True):
            if gradient is not None:
                total += gradient
