"""Diffusion-DPO (Wallace et al., 2023): of two pictures of one prompt, the better one becomes likelier than the other.

For a pair, one timestep and one noise for both; ``d`` is the squared error of a prediction less that of the reference,
and the loss ``-log sigmoid(-beta (d_better - d_worse))``.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from realignkit.errors import ModelError
from realignkit.refl import losses
from realignkit.refl.algorithms import Gradients, MicroBatch
from realignkit.refl.algorithms.feedback import CURRENT, Feedback, FeedbackOptions
from realignkit.refl.data import Order

if TYPE_CHECKING:
    from torch import Tensor

    from realignkit.refl.pictures import RatedPictures


class DPOOptions(FeedbackOptions):
    """Of ``algorithm=dpo``: pairs of the model's own pictures of one prompt, of which the reward prefers one."""

    beta: float = Field(200.0, gt=0, allow_inf_nan=False, description="how sharply differences of errors are weighed")
    pair_by: Literal["gap", "best_worst"] = Field(
        "gap", description="any two pictures of a prompt that differ by more than the gap, or its best and its worst"
    )
    gap: float = Field(
        0.5,
        ge=0,
        allow_inf_nan=False,
        description="in standard deviations of the rewards within prompts; 0: all that differ",
    )
    loss_type: Literal["sigmoid", "ipo"] = Field(
        "sigmoid", description="sigmoid: DPO's; ipo: (beta (d_worse - d_better) - 1/2)^2, which has an end"
    )
    label_smoothing: float = Field(
        0.0, ge=0, lt=0.5, description="share of preferences that are taken to be wrong (cDPO), with loss_type=sigmoid"
    )
    reference: Literal["base", "round"] = Field(
        "base",
        description="whose errors are subtracted: the frozen model's, or those of what drew the round's pictures",
    )

    @model_validator(mode="after")
    def _consistent(self) -> DPOOptions:
        if self.label_smoothing and self.loss_type == "ipo":
            raise ValueError("label_smoothing is of loss_type=sigmoid; ipo is made for noisy preferences as it is")
        return self


class DPO(Feedback):
    """See :class:`DPOOptions`."""

    Options = DPOOptions
    options: DPOOptions

    @property
    def pictures_per_place(self) -> int:
        """Two make a pair."""
        return 2

    @property
    def compares_with_round(self) -> bool:
        """With ``reference=round``."""
        return self.options.reference == "round"

    def look_at(self, pictures: RatedPictures, number: int) -> str:
        """Pairs (better, worse) of a round, in an order of their own.

        Raises:
            ModelError: no prompt has two pictures, or none differ enough.
        """
        self.pictures = pictures
        self.chosen = pairs_of(pictures, self.options.pair_by, self.options.gap)
        if not pictures.groups:
            raise ModelError("no prompt has two pictures, of which one could be preferred. Give several of each.")
        if not self.chosen:
            given = self.options.pictures is not None and number == 0
            remedy = "pictures that are rated or ranked differently" if given else "another reward"
            raise ModelError(
                f"no two pictures of a prompt differ in their reward by more than {self.options.gap:g} standard "
                f"deviations, so there is nothing to learn from. Lower dpo.gap, or take {remedy}."
            )
        self.order = Order(len(self.chosen), self.config.seed, f"pairs of round {number}")
        return f"{len(self.chosen)} pairs"

    def add(self, gradients: Gradients, batch: MicroBatch) -> None:
        """Add the gradient of a micro-batch of pairs, and of what holds the unconditional prediction."""
        import torch

        pairs = [self.chosen[self.order.at(place)] for place in batch.places]
        indices = [better for better, _ in pairs] + [worse for _, worse in pairs]
        clean, prompts = self.pictures.get(indices)
        noise, timesteps = (torch.cat([half, half]) for half in self.noise_at(batch.places))
        latents, target = self.noised(clean, noise, timesteps)
        with torch.no_grad(), self._reference():
            reference = self.errors(latents, timesteps, target, prompts)
        better, worse = (self.errors(latents, timesteps, target, prompts) - reference).chunk(2)
        loss = self._losses(worse - better).mean()
        self.accumulate(gradients.reward, loss * batch.scale)
        gradients.note("reward_loss", float(loss.detach()))
        self.note_rewards(gradients, self.pictures, indices)
        self.hold(gradients, batch, latents[: len(pairs)], timesteps[: len(pairs)], self.options.beta)

    def _reference(self) -> contextlib.AbstractContextManager[None]:
        kept = self.trainable.kept.get(CURRENT)
        return self.trainable.base() if kept is None else self.trainable.holding(kept)

    def _losses(self, margins: Tensor) -> Tensor:
        """Of how much more the worse picture's error has grown than the better one's, (B,)."""
        options = self.options
        if options.loss_type == "ipo":
            return losses.ipo(margins, options.beta)
        return losses.dpo(margins, options.beta, options.label_smoothing)


def pairs_of(pictures: RatedPictures, by: str, gap: float) -> list[tuple[int, int]]:
    """Pairs (better, worse) of pictures of one prompt.

    Args:
        pictures: with their scores.
        by: ``gap``: any two that differ by more than the gap; ``best_worst``: the two ends, where they do.
        gap: in standard deviations of the scores within prompts.
    """
    least, scores = gap * pictures.spread, pictures.scores.tolist()
    pairs = []
    for group in pictures.unequal:
        ranked = sorted(group, key=lambda i: -scores[i])
        ends = [(ranked[0], ranked[-1])]
        every = [(i, k) for at, i in enumerate(ranked) for k in ranked[at + 1 :]]
        pairs += [(i, k) for i, k in (ends if by == "best_worst" else every) if scores[i] - scores[k] > least]
    return pairs
