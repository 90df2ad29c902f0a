"""DiffusionNFT (Zheng et al., 2025): towards what good pictures of a prompt have and bad ones lack, by regression.

Each picture's advantage among those of its prompt says how good it is: ``r = 1/2 + A / (2 A_max)``, in [0, 1]. A
prediction is learnt twice: as it is for the good half of the picture, mirrored at the old policy's for the bad half.

    v+ = (1 - beta) v_old + beta v
    v- = (1 + beta) v_old - beta v
    loss = (r |v+ - v*|^2 / w+ + (1 - r) |v- - v*|^2 / w-) / beta

The paper's KL to the frozen model is, between two steps of equal noise, the squared distance of the predictions; it
weighs ``kl_weight``. ``v*`` is the target and ``w`` the mean absolute error, held. ``v`` is whatever the network
predicts, so the same lines serve epsilon, v and flow. A timestep weighs as its errors in x_0 do, as in the paper, but
not without a limit: those of epsilon grow with noise over signal, up to fourteenfold.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field, model_validator

from realignkit.errors import ModelError, OptionError
from realignkit.refl import losses, seeds
from realignkit.refl.algorithms import Gradients, MicroBatch
from realignkit.refl.algorithms.feedback import CURRENT, Feedback, FeedbackOptions, check_errors
from realignkit.refl.data import Order

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from realignkit.refl.pictures import RatedPictures


class NFTOptions(FeedbackOptions):
    """Of ``algorithm=nft``: the model's own pictures, each a good half and a bad one by its advantage in its group."""

    beta: float = Field(1.0, gt=0, allow_inf_nan=False, description="how far the old policy is mirrored")
    pictures_at_once: int = Field(
        4, ge=2, description="pictures of a prompt that are learnt from together, at one timestep and noise"
    )
    max_advantage: float = Field(
        2.0, gt=0, allow_inf_nan=False, description="advantage, in standard deviations, that counts as wholly good"
    )
    old_decay: float = Field(
        1.0,
        gt=0,
        le=1,
        description="of the old policy, a moving average of the weights; 1: it stays what drew the round",
    )
    max_weight: float | None = Field(
        4.0,
        gt=0,
        allow_inf_nan=False,
        description="a timestep weighs as its errors in x_0 do, at most so much; none: all alike",
    )
    kl_weight: float = Field(
        0.0,
        ge=0,
        allow_inf_nan=False,
        description="of the squared distance from the frozen model's conditional prediction, which holds colours and "
        "style; 0: free to go",
    )
    guided: bool = Field(
        False,
        description="learn the guided prediction, with the frozen model's unconditional one; else the conditional one",
    )

    @model_validator(mode="after")
    def _enough(self) -> NFTOptions:
        if self.pictures is None and self.too_many:
            raise ValueError(self.too_many)
        return self

    @property
    def too_many(self) -> str:
        """Why no round that is drawn could be learnt from; empty where each can."""
        if self.pictures_at_once <= self.candidates:
            return ""
        return (
            f"{self.pictures_at_once} pictures_at_once of {self.candidates} candidates are too many: set "
            f"nft.pictures_at_once={self.candidates} or less"
        )


class NFT(Feedback):
    """See :class:`NFTOptions`."""

    Options = NFTOptions
    options: NFTOptions

    @property
    def pictures_per_place(self) -> int:
        """See :class:`NFTOptions`."""
        return self.options.pictures_at_once

    @property
    def compares_with_round(self) -> bool:
        """With the old policy, which is at first what drew the round."""
        return True

    @property
    def knows_what_drew(self) -> bool:
        """Where the old policy stays."""
        return self.options.old_decay == 1

    def check_rounds(self) -> None:
        """Those that follow on given pictures are drawn, too."""
        if self.options.draws_later(self.config.iterations) and self.options.too_many:
            raise OptionError(f"the rounds after the first are drawn, and {self.options.too_many}.")

    def look_at(self, pictures: RatedPictures, number: int) -> str:
        """How good each picture is, and the prompts that tell, in an order of their own.

        Raises:
            ModelError: all pictures of each prompt are rated alike, or there are too few.
        """
        import torch

        self.groups = [group for group in pictures.unequal if len(group) >= self.options.pictures_at_once]
        few = len(pictures.unequal) - len(self.groups)
        if not self.groups:
            remedy = "Lower nft.pictures_at_once." if few else "Take another reward, or more candidates."
            raise ModelError(
                f"no prompt has {self.options.pictures_at_once} pictures of which some are rated better than others, "
                f"so there is nothing to learn from. {remedy}"
            )
        self.goodness = torch.clamp(0.5 + pictures.advantages / (2 * self.options.max_advantage), 0, 1)
        self.pictures, self.order = pictures, Order(len(self.groups), self.config.seed, f"prompts of round {number}")
        left_out = f" ({few} more have less than {self.options.pictures_at_once} and are left out)" if few else ""
        return f"{len(self.groups)} prompts with better and worse ones{left_out}"

    def add(self, gradients: Gradients, batch: MicroBatch) -> None:
        """Add the gradient of a micro-batch of prompts, and of what holds the unconditional prediction."""
        import torch

        count = self.options.pictures_at_once
        indices = [i for place in batch.places for i in self._pictures_at(place)]
        clean, prompts = self.pictures.get(indices)
        noise, timesteps = (tensor.repeat_interleave(count, 0) for tensor in self.noise_at(batch.places))
        latents, target = self.noised(clean, noise, timesteps)
        with torch.no_grad():
            with self.trainable.holding(self.trainable.kept[CURRENT]):
                old = self.predict(latents, timesteps, prompts)
            unconditional = self._unconditional(latents, timesteps)
        now = self.predict(latents, timesteps, prompts)
        loss = self._distance(now, latents, timesteps, prompts)
        if unconditional is not None:
            old, now = (losses.guide(unconditional, each, self.options.guidance_scale or 1.0) for each in (old, now))
        goodness = self.goodness[indices].to(now.device)
        loss = (loss + losses.nft(now, old, target, goodness, self.options.beta)) * self._weights(timesteps)
        check_errors(loss)
        self.accumulate(gradients.reward, loss.mean() * batch.scale)
        gradients.note("reward_loss", float(loss.detach().mean()))
        self.note_rewards(gradients, self.pictures, indices)
        self.hold(gradients, batch, latents[::count], timesteps[::count], 1.0)

    def updated(self) -> None:
        """Let the old policy follow."""
        self.trainable.follow(CURRENT, self.options.old_decay)

    def _pictures_at(self, place: int) -> list[int]:
        group = self.groups[self.order.at(place)]
        chosen = seeds.numpy_rng(self.config.seed, "pictures at once", place).permutation(len(group))
        return [group[i] for i in chosen[: self.options.pictures_at_once]]

    def _weights(self, timesteps: Tensor) -> Tensor:
        """Of timesteps (B,): (B,)."""
        import torch

        if (limit := self.options.max_weight) is None:
            return torch.ones_like(timesteps, dtype=torch.float32)
        noise = self.networks.noise
        return losses.x0_slope(noise.level(timesteps), noise.kind).flatten().clamp(max=limit)

    def _distance(self, now: Tensor, latents: Tensor, timesteps: Tensor, prompts: Sequence[str]) -> Tensor | float:
        """How far predictions (B, C, h, w) are from the frozen model's, weighed; (B,), or 0 where it does not count."""
        import torch

        if not self.options.kl_weight:
            return 0.0
        with torch.no_grad(), self.trainable.base():
            frozen = self.predict(latents, timesteps, prompts)
        return self.options.kl_weight * (now - frozen).square().mean((1, 2, 3))

    def _unconditional(self, latents: Tensor, timesteps: Tensor) -> Tensor | None:
        """The frozen model's, where guided predictions are learnt."""
        if not self.options.guided or self.networks.distilled or (self.options.guidance_scale or 1.0) <= 1:
            return None
        with self.trainable.base():
            return self.networks.predict(latents, timesteps, self.networks.unconditional(len(latents)))
