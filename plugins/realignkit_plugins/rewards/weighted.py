"""A weighted sum of rewards is a reward."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field, PositiveFloat

from realignkit.contracts import Options as PluginOptions
from realignkit.contracts import Reward
from realignkit.errors import OptionError

if TYPE_CHECKING:
    from torch import Tensor

    from realignkit.registry import Registry


class WeightedReward(Reward):
    """``sum_i w_i R_i``, differentiable when all parts are; the margin is ``sum_i w_i margin_i``.

    ``WeightedReward(rewards={"caption": 1, "clip": 0.5}, options={"clip": {"model": …}})`` takes registered names;
    :meth:`of` takes rewards that are already made.

    Raises:
        OptionError: there is no part, or a weight is not positive.
        PluginError: a name is unknown.
    """

    class Options(PluginOptions):
        """Options of :class:`WeightedReward`."""

        rewards: dict[str, PositiveFloat] = Field(description="reward name -> weight", min_length=1)
        options: dict[str, dict[str, Any]] = Field({}, description="reward name -> its options")

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
            [
                (name, registry.create("reward", name, **chosen.options.get(name, {})), weight)
                for name, weight in chosen.rewards.items()
            ]
        )

    @classmethod
    def of(cls, parts: Mapping[str, tuple[Any, float]]) -> WeightedReward:
        """From rewards that are already made: name -> (reward, weight)."""
        made = cls.__new__(cls)
        made.options = cls.Options(rewards={name: weight for name, (_, weight) in parts.items()})
        made._take([(name, reward, weight) for name, (reward, weight) in parts.items()])
        return made

    def _take(self, parts: Sequence[tuple[str, Any, float]]) -> None:
        self.parts = tuple(parts)
        self.differentiable = all(reward.differentiable for _, reward, _ in parts)
        self.margin = float(sum(weight * reward.margin for _, reward, weight in parts))

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """The weighted sum, float (B,)."""
        return self._sum(self.each(images, prompts))

    def each(self, images: Tensor, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Every part's own rewards (B,), unweighted, by name: for logs."""
        return {name: reward(images, prompts) for name, reward, _ in self.parts}

    def reported(self, images: Any, prompts: Sequence[str]) -> Tensor:
        """The weighted sum of what the parts report."""
        from realignkit_plugins.rewards.metric import reported

        return self._sum({name: reported(reward, images, prompts) for name, reward, _ in self.parts})

    def _sum(self, values: Mapping[str, Tensor]) -> Tensor:
        weighted = [weight * values[name] for name, _, weight in self.parts]
        total = weighted[0]
        for value in weighted[1:]:
            total = total + value
        return total
