"""A weighted sum of rewards is a reward."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field, PositiveFloat

from realignkit.contracts import Options as PluginOptions
from realignkit.contracts import Reward
from realignkit.errors import OptionError

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from realignkit.named import Named
    from realignkit.registry import Registry


class WeightedReward(Reward):
    """``sum_i w_i R_i``, differentiable when all parts are; the margin is ``sum_i w_i margin_i``.

    ``WeightedReward(rewards={"caption": 1, "clip": 0.5}, options={"clip": {"model": …}})`` takes registered names;
    :meth:`of` takes rewards that are already made. Each of a sum's numbers (training's, the reported one, the one that
    ranks candidates) is the sum of the parts' own numbers of that kind.

    Raises:
        OptionError: there is no part, or a weight is not positive.
        PluginError: a name is unknown, or a part's margin is no number.
    """

    class Options(PluginOptions):
        """Options of :class:`WeightedReward`."""

        rewards: dict[str, PositiveFloat] = Field(description="reward name -> weight", min_length=1)
        options: dict[str, dict[str, Any]] = Field({}, description="reward name -> its options")
        normalise: bool = Field(
            False,
            description="to choose among a prompt's candidates: standardise each part over them first, so that weights "
            "compare whatever the parts' scales",
        )

    options: WeightedReward.Options

    def __init__(self, *, registry: Registry | None = None, **options: Any) -> None:
        super().__init__(**options)
        chosen = self.options
        if unused := chosen.options.keys() - chosen.rewards.keys():
            raise OptionError(f"options for {', '.join(sorted(unused))}, which are no parts of this sum. Remove them.")
        if registry is None:
            from realignkit.registry import default_registry

            registry = default_registry()
        self._take(
            {
                name: (registry.create("reward", name, **chosen.options.get(name, {})), weight)
                for name, weight in chosen.rewards.items()
            }
        )

    @classmethod
    def of(cls, parts: Mapping[str, tuple[Any, float]], *, normalise: bool = False) -> WeightedReward:
        """From rewards that are already made: name -> (reward, weight)."""
        made = cls.__new__(cls)
        weights = {name: weight for name, (_, weight) in parts.items()}
        made.options = cls.Options(rewards=weights, normalise=normalise)
        made._take(parts)
        return made

    def _take(self, parts: Mapping[str, tuple[Any, float]]) -> None:
        from realignkit.named import Named

        self.parts: tuple[tuple[Named, float], ...] = tuple(
            (Named("reward", name, reward), weight) for name, (reward, weight) in parts.items()
        )
        self.differentiable = all(getattr(part.plugin, "differentiable", True) for part, _ in self.parts)
        self.estimated_gradient = any(getattr(part.plugin, "estimated_gradient", False) for part, _ in self.parts)
        self.margin = sum(weight * part.margin for part, weight in self.parts)

    def out_of_reach(self) -> str:
        """Of all parts, the first whose weights are neither here nor to be had."""
        reasons = ((part.whose, part.out_of_reach()) for part, _ in self.parts)
        return next((f"{whose}: {why}" for whose, why in reasons if why), "")

    @property
    def compares(self) -> bool:
        """Whether what :meth:`ranked` says of an image depends on the prompt's other images."""
        return self.options.normalise or any(getattr(part.plugin, "compares", False) for part, _ in self.parts)

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """The weighted sum, float (B,).

        Raises:
            ModelError: a part computed NaN or infinity; it is named.
            PluginError: a part failed or broke its contract.
        """
        return self._sum(self.each(images, prompts))

    def guiding(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """The weighted sum of what guides sampling, float (B,), as :meth:`__call__`."""
        from realignkit.calls import rewards_of

        return self._sum({part.name: rewards_of(part.by("guiding"), images, prompts) for part, _ in self.parts})

    def each(self, images: Tensor, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Every part's own rewards (B,), unweighted, by name: for logs."""
        from realignkit.calls import rewards_of

        return {part.name: rewards_of(part, images, prompts).to(images.device) for part, _ in self.parts}

    def reported(self, images: Sequence[Image], prompts: Sequence[str]) -> Tensor:
        """The weighted sum of what the parts report, float32 (B,)."""
        import torch

        from realignkit.calls import rate

        return self._sum({part.name: torch.tensor(rate(part, images, prompts)) for part, _ in self.parts})

    def ranked(self, images: Sequence[Image], prompts: Sequence[str]) -> Tensor:
        """By what to choose among images of the same prompt: the weighted sum of what the parts rank by, float32 (B,).

        With ``normalise`` the images must be all candidates of each prompt: see :attr:`compares`.
        """
        import torch

        from realignkit.advantages import standardised
        from realignkit.calls import rank

        values = {part.name: torch.tensor(rank(part, images, prompts)) for part, _ in self.parts}
        if self.options.normalise:
            values = {name: standardised(value, prompts) for name, value in values.items()}
        return self._sum(values)

    def _sum(self, values: Mapping[str, Tensor]) -> Tensor:
        weighted = [weight * values[part.name] for part, weight in self.parts]
        total = weighted[0]
        for value in weighted[1:]:
            total = total + value
        return total
