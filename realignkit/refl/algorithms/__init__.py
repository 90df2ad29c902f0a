"""What the training algorithms share: gradients of two terms, kept apart (eq. 5), and the denoising loss (eq. 3).

A new algorithm is a file beside this one and a field of :class:`~realignkit.refl.config.ReFLConfig`. The configuration
has its options and is read without torch, which nothing in here imports before it computes, therefore.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from realignkit.contracts import Options
from realignkit.errors import ModelError, OptionError
from realignkit.named import Named
from realignkit.refl import losses, seeds
from realignkit.refl.data import Order, Pairs
from realignkit.refl.options import TrainingOptions

if TYPE_CHECKING:
    from torch import Tensor

    from realignkit.refl.distributed import Processes
    from realignkit.refl.model import Networks
    from realignkit.refl.rollout import Rollout
    from realignkit.refl.trainable import Trainable

PART = "reward."
"""What the name of a logged value begins with that is the mean of one part of a sum of rewards."""

Solver = Literal["ddim", "dpmpp", "unipc"]


class DrawingOptions(Options):
    """How an algorithm draws images."""

    solver: Solver = Field(
        "ddim",
        description="sampler of the rollout; dpmpp and unipc need fewer steps; in flow matching ddim is Euler's",
    )
    num_inference_steps: int = Field(40, ge=1, le=1000, description="steps of the rollout")
    guidance_scale: float | None = Field(
        None,
        ge=0,
        allow_inf_nan=False,
        description="in rollout and gradient; none: as the model is sampled; at most 1: off",
    )


class RolloutOptions(DrawingOptions):
    """How an algorithm draws images in each iteration, to learn from at once."""

    gradients_per_rollout: int = Field(1, ge=1, description="how often what was drawn is learnt from")


@dataclass
class Gradients:
    """Sums over micro-batches, in the order of the trainable parameters; loss-scaled. Empty for a term that is off.

    Attributes:
        reward: of the unweighted reward term.
        denoising: of the weighted L_pre and KL-style term, or of drawn pairs, which weigh alike.
        values: sums of what is logged: ``reward``, ``reward_loss``, ``denoising_loss``, and ``reward.NAME``
            (:data:`PART`) of the parts of a sum of rewards that are rated one by one.
    """

    reward: list[Tensor]
    denoising: list[Tensor]
    values: dict[str, float] = field(default_factory=dict)

    def note(self, name: str, value: float) -> None:
        """Add to a logged value."""
        self.values[name] = self.values.get(name, 0.0) + value


@dataclass(frozen=True)
class MicroBatch:
    """Samples that are computed together.

    Attributes:
        group: number of the micro-batch in the run, the same in all processes: decides the steps.
        places: numbers of its samples in the run: decide prompts, pairs and noise.
        scale: losses are multiplied by it, against underflow in half precision.
    """

    group: int
    places: Sequence[int]
    scale: float = 1.0


class Algorithm(ABC):
    """Computes a training's gradients: of its reward term, and of L_pre beside it.

    A subclass says how the reward teaches, in :meth:`add`; its ``Options`` are a group of the configuration.

    Args:
        networks, trainable: the model.
        config: of the training.
        options: of this algorithm; a ``guidance_scale`` is decided.
        reward: the training reward.
        prompts: to train on.
        pairs: for L_pre; None where it is dropped.
    """

    Options: ClassVar[type[Options]]
    differentiates: ClassVar[bool] = False
    """Whether it needs the gradient of the reward."""
    needs_pairs: ClassVar[bool] = False
    """Whether it needs pairs where L_pre is dropped, too."""
    has_l_pre: ClassVar[bool] = True
    """Whether ``denoising_weight`` is L_pre's; else it weighs another term that holds the model, without pairs."""
    draws_ahead: ClassVar[bool] = False
    """Whether it draws for long before iterations: a checkpoint comes first, by which the run is known."""
    default_reward_weight: ClassVar[float] = 1.0
    """Lambda of eq. 5, where the configuration leaves it open."""

    def __init__(
        self,
        networks: Networks,
        trainable: Trainable,
        config: TrainingOptions,
        options: Any,
        reward: Named,
        prompts: Sequence[str],
        pairs: Pairs | None,
    ) -> None:
        self.networks, self.trainable, self.config, self.options = networks, trainable, config, options
        self.reward, self.prompts, self.pairs = reward, prompts, pairs
        self.prompt_order = Order(len(prompts), config.seed, "prompts")
        self.pair_order = Order(len(pairs), config.seed, "pairs") if pairs is not None else None

    @classmethod
    def needs_base(cls, options: Any) -> bool:
        """Whether, with these options of its own, it compares with the model as it came: :meth:`Trainable.base`."""
        return False

    @abstractmethod
    def add(self, gradients: Gradients, batch: MicroBatch) -> None:
        """Add a micro-batch's gradients; those of the reward term only where :attr:`has_reward_term`.

        Raises:
            ModelError: the model or the reward computed NaN or infinity.
            PluginError: the reward failed or broke its contract.
        """

    def prepare(  # noqa: B027, most have nothing to prepare
        self, processes: Processes, folder: Path, stop: Callable[[], bool], say: Callable[[str], None]
    ) -> None:
        """What must be done once, before the first iteration; for most algorithms nothing.

        Args:
            processes: that share the work.
            folder: of the run.
            stop: asked now and then.
            say: is told how far it is, and what came of it.

        Raises:
            KeyboardInterrupt: ``stop`` said so; what is done is kept.
        """

    def begin(self, iteration: int) -> None:  # noqa: B027
        """What must be done before an iteration (from 0), with the weights as they are then; mostly nothing."""

    def updated(self) -> None:  # noqa: B027
        """What must be done after the weights have moved; mostly nothing."""

    @classmethod
    def control_options(cls, options: Any, run: Path) -> Any:
        """Options of its control, which learns the same without what the reward says; None: it has no reward term.

        Where several pictures of a prompt are rated, their rewards are exchanged.

        Args:
            options: of this algorithm.
            run: folder of the training that it is the control of.

        Raises:
            OptionError: they are exchanged already.
        """
        if "shuffle_rewards" not in type(options).model_fields:
            return None
        if options.shuffle_rewards:
            raise OptionError("with shuffle_rewards the training is a control itself: leave it or --control out.")
        return options.model_copy(update={"shuffle_rewards": True})

    @property
    def has_reward_term(self) -> bool:
        """Whether there is a reward term with a gradient of its own; with ``reward_weight=0`` there is none."""
        return self.config.reward_weight != 0

    @property
    def has_denoising_term(self) -> bool:
        """Whether there is anything beside the reward term."""
        return self.pairs is not None and self.config.denoising_weight > 0

    @property
    def reward_weight(self) -> float | Literal["auto"]:
        """Lambda of eq. 5."""
        weight = self.config.reward_weight
        return self.default_reward_weight if weight is None else weight

    @cached_property
    def rollout(self) -> Rollout:
        """How images are drawn, by :class:`RolloutOptions`."""
        from realignkit.refl.rollout import Rollout

        options = self.options
        return Rollout(self.networks, options.solver, options.num_inference_steps, options.guidance_scale)

    def zero(self) -> Gradients:
        """Nothing yet, and no memory for a term that there is none of."""
        import torch

        parameters = list(self.trainable.parameters.values())
        terms = (self.has_reward_term, self.has_denoising_term)
        reward, denoising = ([torch.zeros_like(p) for p in parameters] if term else [] for term in terms)
        return Gradients(reward, denoising)

    def prompts_at(self, places: Sequence[int]) -> list[str]:
        """The prompts at places of the run."""
        return [self.prompts[self.prompt_order.at(place)] for place in places]

    def pairs_at(self, places: Sequence[int]) -> tuple[list[int], Tensor, list[str]]:
        """Indices, clean latents (B, C, h, w) and captions of the pairs at places of the run."""
        assert self.pairs is not None and self.pair_order is not None
        indices = [self.pair_order.at(place) for place in places]
        return indices, *self.pairs.get(indices)

    def add_l_pre(self, gradients: Gradients, batch: MicroBatch) -> None:
        """Add the gradients of L_pre (eq. 3), where there is one."""
        if self.pairs is not None and self.config.denoising_weight:
            _, latents, captions = self.pairs_at(batch.places)
            self.add_l_pre_of(gradients, self.losses_of_pairs(latents, captions, batch.places), batch)

    def add_l_pre_of(self, gradients: Gradients, each: Tensor, batch: MicroBatch) -> None:
        """Likewise, from the denoising losses (B,) of its pairs."""
        loss = self.config.denoising_weight * each.mean()
        self.accumulate(gradients.denoising, loss * batch.scale)
        gradients.note("denoising_loss", float(loss.detach()))

    def losses_of_pairs(self, clean: Tensor, captions: Sequence[str], places: Sequence[int]) -> Tensor:
        """:meth:`denoising_losses` of pairs at places of the run."""
        scale = None if self.pairs is None else self.pairs.guidance_scale
        return self.denoising_losses(clean, captions, "pairs", places, scale)

    def denoising_losses(
        self,
        clean: Tensor,
        captions: Sequence[str],
        purpose: str,
        places: Sequence[int],
        guidance_scale: float | None = None,
    ) -> Tensor:
        """Eq. 3, on latents (B, C, h, w): mean squared errors of predictions at random timesteps, (B,).

        ``guidance_scale``: with which the model has drawn them, see :meth:`realignkit.refl.model.Networks.predict`.

        Raises:
            ModelError: the model computed NaN or infinity.
        """
        import torch

        config, networks = self.config, self.networks
        rngs = [seeds.numpy_rng(config.seed, f"{purpose} timestep", place) for place in places]
        timesteps = torch.tensor([networks.noise.draw(rng) for rng in rngs])
        # Some captions are left empty, so that guidance keeps something to steer away from.
        pairs = zip(rngs, captions, strict=True)
        texts = ["" if rng.random() < config.caption_dropout else caption for rng, caption in pairs]
        noise = seeds.normal(clean.shape[1:], config.seed, f"{purpose} noise", places).to(networks.device)
        timesteps = timesteps.to(networks.device)
        level = networks.noise.level(timesteps)
        noised = losses.add_noise(clean, noise, level)
        prediction = networks.predict(noised, timesteps, networks.text(texts), guidance_scale)
        target = losses.denoising_target(clean, noise, level, networks.noise.kind)
        each = (prediction - target).square().mean((1, 2, 3))
        if not torch.isfinite(each).all():
            raise ModelError(
                "the model computed NaN or infinity for the denoising loss. Use mixed_precision=bf16 or no; if it is "
                "off already, lower the learning rate and resume from the last checkpoint."
            )
        return each

    def accumulate(self, total: list[Tensor], loss: Tensor, *, keep: bool = False) -> None:
        """Add a loss's gradient to a term's; ``keep``: the graph, for another loss on it.

        Raises:
            PluginError: no weight has a part in the loss, because the reward did not look at the images.
        """
        import torch

        parameters = list(self.trainable.parameters.values())
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True, retain_graph=keep)
        if all(gradient is None for gradient in gradients):  # the model's own losses always lead there
            raise self.reward.breach(
                "it says that it is differentiable, but its rewards do not lead back to the images"
            )
        for sum_, gradient in zip(total, gradients, strict=True):
            if gradient is not None:
                sum_ += gradient


class MarginAlgorithm(Algorithm):
    """One whose options have the ``margin`` of phi."""

    @property
    def margin(self) -> float:
        """Of phi: the option's, else the reward's.

        Raises:
            PluginError: the reward's is no number.
        """
        given: float | None = self.options.margin
        return self.reward.margin if given is None else given
