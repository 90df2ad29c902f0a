"""What flows through the realigner and through training: frozen values, each made by one step and read by the next.

Images are :class:`PIL.Image.Image` in RGB; masks are NumPy boolean arrays of shape (H, W).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from realignkit.heatmap import HeatMap as HeatMap
from realignkit.layout import Answer as Answer
from realignkit.layout import Expected as Expected
from realignkit.layout import Layout as Layout
from realignkit.layout import Likelihood as Likelihood
from realignkit.layout import LocalCaption as LocalCaption
from realignkit.layout import Mask as Mask
from realignkit.layout import Segment as Segment
from realignkit.layout import Tag as Tag
from realignkit.layout import Truth as Truth
from realignkit.realignment import Realignment as Realignment


@dataclass(frozen=True)
class Validation:
    """Held-out prompts, drawn and judged after ``iteration`` optimizer steps (0: the model as it came).

    Attributes:
        iteration: optimizer steps done.
        reward: mean training reward of the held-out images.
        judgement: what decides: the judge's mean, or the training reward where there is no judge.
        higher_is_better: which way the judgement is meant.
        values: everything that was computed.
        rewards: per image, in the prompts' order.
        judgements: per image; empty where the judge gives one number for all.
        scope: what the pictures look like (:mod:`realignkit.refl.scope`), measure -> per image; ``diversity`` and
            ``prediction_change`` of the first images alone. ``values`` has the means, as ``scope.NAME``.
    """

    iteration: int
    reward: float
    judgement: float
    higher_is_better: bool = True
    values: Mapping[str, float] = field(default_factory=dict)
    rewards: tuple[float, ...] = ()
    judgements: tuple[float, ...] = ()
    scope: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    @property
    def score(self) -> float:
        """The judgement, turned so that higher is better."""
        return self.judgement if self.higher_is_better else -self.judgement


@dataclass(frozen=True)
class TrainState:
    """One optimizer step, as ``log.jsonl``, the trackers and the hook ``after_train_step`` see it.

    Attributes:
        iteration: optimizer steps done, from 1.
        iterations: how many there will be at most.
        loss: eq. 5, as weighted; of drawn pairs (``pair_sampling=weighted``) their plain mean.
        reward: mean over the batch; None in a control run, which draws nothing.
        reward_loss: mean ``phi(R)`` (refl) or denoising loss on the chosen images (raft), unweighted; 0 of drawn pairs.
        denoising_loss: L_pre and KL-style term, weighted; or of drawn pairs.
        reward_weight: lambda, as used; of drawn pairs it is in their shares.
        reward_gradient_norm: of the unweighted reward term; this and the next two are None where it overflowed.
        denoising_gradient_norm: of the denoising terms.
        gradient_norm: of their weighted sum, before clipping.
        learning_rate: as used.
        skipped: the step was skipped, because half precision overflowed.
        seconds: that the step took.
        held_out: the latest validation.
        folder: where the run is written.
        rewards: of a sum of rewards the mean of each, unweighted, where the algorithm rates them one by one.
    """

    iteration: int
    iterations: int
    loss: float
    reward: float | None
    reward_loss: float
    denoising_loss: float
    reward_weight: float
    reward_gradient_norm: float | None
    denoising_gradient_norm: float | None
    gradient_norm: float | None
    learning_rate: float
    skipped: bool
    seconds: float
    held_out: Validation | None
    folder: Path
    rewards: Mapping[str, float] = field(default_factory=dict)

    def record(self) -> dict[str, float | int | bool | None]:
        """A line of ``log.jsonl``."""
        names = (
            *("iteration", "loss", "reward", "reward_loss", "denoising_loss", "reward_weight"),
            *("reward_gradient_norm", "denoising_gradient_norm", "gradient_norm", "learning_rate", "skipped"),
            "seconds",
        )
        each = {f"reward.{name}": value for name, value in self.rewards.items()}
        return {**{name: getattr(self, name) for name in names}, **each}


@dataclass(frozen=True)
class TrainResult:
    """How a run ended.

    Attributes:
        folder: where everything is.
        status: ``finished``, ``stopped early`` (patience) or ``stopped by a plugin``.
        iterations: optimizer steps done.
        history: all validations, the first being the model as it came.
        best: the best one after training began; None without validation.
        warnings: in words, what should make a reader doubt the result.
    """

    folder: Path
    status: str
    iterations: int
    history: tuple[Validation, ...]
    best: Validation | None
    warnings: tuple[str, ...] = ()

    @property
    def improved(self) -> bool:
        """Whether the best weights are judged better than the model as it came."""
        return self.best is not None and bool(self.history) and self.best.score > self.history[0].score
