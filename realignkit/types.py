"""What flows through the realigner and through training: frozen values, each made by one step and read by the next.

Images are :class:`PIL.Image.Image` in RGB; masks are NumPy boolean arrays of shape (H, W).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]


class Likelihood(StrEnum):
    """How sure the prompt makes us that a tagged object belongs in the picture (eq. 6)."""

    CERTAIN = "certain"
    POSSIBLE = "possible"
    UNLIKELY = "unlikely"

    @property
    def score(self) -> float:
        """``s_i`` of eq. 6: 2 (certain), 0.5 (possible) or 0 (unlikely)."""
        return {"certain": 2.0, "possible": 0.5, "unlikely": 0.0}[self.value]


@dataclass(frozen=True)
class Tag:
    """An object that a tagger sees in an image; ``confidence`` in [0, 1]."""

    name: str
    confidence: float = 1.0


@dataclass(frozen=True)
class LocalCaption:
    """``l_i`` and ``s_i``: the phrase that describes a tagged object, and how likely it is (eq. 6)."""

    tag: str
    caption: str
    likelihood: Likelihood

    @property
    def score(self) -> float:
        """``s_i`` of eq. 6."""
        return self.likelihood.score


@dataclass(frozen=True, eq=False, repr=False)
class Segment:
    """An object's local caption and where it is: ``mask`` bool (H, W), ``confidence`` in [0, 1]."""

    caption: LocalCaption
    mask: Mask
    confidence: float = 1.0

    @property
    def area(self) -> float:
        """Share of the image that the mask covers, in [0, 1]."""
        return float(self.mask.mean())

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Segment):
            return NotImplemented
        mine, theirs = (self.caption, self.confidence), (other.caption, other.confidence)
        return mine == theirs and np.array_equal(self.mask, other.mask)

    def __hash__(self) -> int:
        return hash((self.caption, self.confidence))

    def __repr__(self) -> str:
        size = " x ".join(map(str, np.shape(self.mask)))
        return f"Segment({self.caption!r}, mask={size}, confidence={self.confidence:.3g})"


@dataclass(frozen=True)
class Layout:
    """The segments of one image, all masks of the same (height, width). May be empty."""

    segments: tuple[Segment, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "segments", tuple(self.segments))
        if strangers := [segment for segment in self.segments if not isinstance(segment, Segment)]:
            raise ValueError(f"a layout is made of Segments, not of a {type(strangers[0]).__name__}")
        shapes = {np.shape(segment.mask) for segment in self.segments}
        if len(shapes) > 1 or any(len(shape) != 2 for shape in shapes):
            raise ValueError(f"a layout needs masks of one shape (H, W), got {sorted(shapes)}")

    def __iter__(self) -> Iterator[Segment]:
        return iter(self.segments)

    def __len__(self) -> int:
        return len(self.segments)


@dataclass(frozen=True)
class Answer:
    """A scorer's local captions, who gave them, why scorers before it did not, and what it has to say about them."""

    captions: tuple[LocalCaption, ...]
    scorer: str
    failures: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Expected:
    """What a right answer says about one tag. Words are in lower case.

    Attributes:
        named: whether the prompt names the tag.
        attributes: the attributes of each object of the prompt that the tag may mean; any one of them will do.
        foreign: attributes that the prompt gives to something.
        others: names of objects that the tag does not mean.
    """

    named: bool
    attributes: tuple[frozenset[str], ...] = ()
    foreign: frozenset[str] = frozenset()
    others: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Truth:
    """The truth about a prompt and some tags.

    Attributes:
        expected: by tag, in the order they were asked for.
        objects: how many objects the prompt names.
        found: how many of them some tag names.
    """

    expected: Mapping[str, Expected]
    objects: int
    found: int


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
    """

    iteration: int
    reward: float
    judgement: float
    higher_is_better: bool = True
    values: Mapping[str, float] = field(default_factory=dict)
    rewards: tuple[float, ...] = ()
    judgements: tuple[float, ...] = ()

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

    def record(self) -> dict[str, float | int | bool | None]:
        """A line of ``log.jsonl``."""
        names = (
            *("iteration", "loss", "reward", "reward_loss", "denoising_loss", "reward_weight"),
            *("reward_gradient_norm", "denoising_gradient_norm", "gradient_norm", "learning_rate", "skipped"),
            "seconds",
        )
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class TrainResult:
    """How a run ended.

    Attributes:
        folder: where everything is.
        status: ``finished``, ``stopped early`` (patience), ``stopped by a plugin`` or ``interrupted``.
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


if TYPE_CHECKING:
    from realignkit.realignment import Realignment as Realignment
else:

    def __getattr__(name: str) -> Any:
        if name == "Realignment":  # which saves and loads itself, so it lives above; the name is public here too
            from realignkit.realignment import Realignment

            return Realignment
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
