"""Any reward as a metric: its mean over images, streamed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field

from realignkit.contracts import Metric
from realignkit.contracts import Options as PluginOptions
from realignkit.errors import OptionError, PluginError
from realignkit.machine import full_precision

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor


class RewardMetric(Metric):
    """Mean of a reward over images, with its standard deviation, computed in float32 unless ``options`` say otherwise.

    For ``caption`` that is eq. 4 itself; ``as_trained`` measures what a training learns from instead: an estimator's
    rewards. Images go through the path of the checkpoint's own processor where the reward has one, except
    ``as_trained``, and are judged ``batch_size`` at a time.
    """

    yes_or_no = ()

    class Options(PluginOptions):
        """Options of :class:`RewardMetric`."""

        reward: str = Field(
            description="name of the reward, or a weighted sum such as caption:1,clip:0.5", min_length=1
        )
        options: dict[str, Any] = Field({}, description="the reward's options")
        batch_size: int = Field(16, ge=1, description="images per forward pass")
        as_trained: bool = Field(
            False,
            description="measure what a training with these options learns from, not what is reported; where that "
            "samples captions, it differs a little each time",
        )

    options: RewardMetric.Options

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._reward: Any = None
        self.count, self.total, self.squares = 0, 0.0, 0.0

    @property
    def reward(self) -> Any:
        """The reward, made at first use.

        Raises:
            PluginError: there is none of that name.
            OptionError: a bad option, or one on which what is reported does not depend.
        """
        if self._reward is None:
            from realignkit.registry import default_registry
            from realignkit.resolve import measuring_reward

            chosen = self.options
            try:
                self._reward = measuring_reward(
                    default_registry(), chosen.reward, chosen.options, as_trained=chosen.as_trained
                )
            except OptionError as error:
                if not chosen.options:
                    raise
                raise OptionError(f"within 'options' of the metric of '{chosen.reward}': {error}") from error
        return self._reward

    def out_of_reach(self) -> str:
        """What the reward cannot get, see :class:`realignkit.contracts.Plugin`."""
        return str(getattr(self.reward, "out_of_reach", str)())

    def update(self, images: Sequence[Image], prompts: Sequence[str]) -> None:
        """Judge images (RGB) by the prompts that they were made for.

        Raises:
            OptionError: not as many prompts as images.
        """
        if len(images) != len(prompts):
            raise OptionError(f"{len(images)} images but {len(prompts)} prompts: give one prompt per image.")
        for start in range(0, len(images), self.options.batch_size):
            part = slice(start, start + self.options.batch_size)
            values = self._judge(images[part], prompts[part]).double()
            self.count += len(values)
            self.total += float(values.sum())
            self.squares += float(values.square().sum())

    def judge_each(self, images: Sequence[Image], prompts: Sequence[str]) -> list[dict[str, float]]:
        """The reward of each image, named as by :meth:`compute`; nothing is summed up."""
        verdicts = []
        for start in range(0, len(images), self.options.batch_size):
            part = slice(start, start + self.options.batch_size)
            verdicts += [{self._value_name: float(v)} for v in self._judge(images[part], prompts[part])]
        return verdicts

    @property
    def _value_name(self) -> str:
        return self.options.reward + ("_as_trained" if self.options.as_trained else "")

    def _judge(self, images: Sequence[Image], prompts: Sequence[str]) -> Tensor:
        return (called if self.options.as_trained else reported)(self.reward, images, prompts)

    def compute(self) -> dict[str, float]:
        """The mean (called as the reward, with ``_as_trained`` where that is asked), ``std`` over images, and ``n``.

        Raises:
            PluginError: nothing has been judged yet.
        """
        if not self.count:
            raise PluginError("nothing to compute: call update(images, prompts) first.")
        mean = self.total / self.count
        variance = max(0.0, self.squares / self.count - mean * mean)
        return {self._value_name: mean, "std": math.sqrt(variance), "n": self.count}

    def merge(self, other: Metric) -> None:
        """Add another instance's sums.

        Raises:
            PluginError: it is another metric, or has other options.
        """
        if not isinstance(other, RewardMetric) or other.options != self.options:
            raise PluginError(f"cannot merge another metric into that of '{self.options.reward}'. Use equal options.")
        self.count += other.count
        self.total += other.total
        self.squares += other.squares


def reported(reward: Any, images: Sequence[Image], prompts: Sequence[str]) -> Tensor:
    """What a reward reports about PIL images, float32 (B,) on the CPU, without a gradient.

    Rewards with a method ``reported(images, prompts)`` say it themselves; others are called with the images as tensors.

    Raises:
        OptionError: the images have different sizes, and the reward only takes tensors.
    """
    import torch

    if not hasattr(reward, "reported"):
        return called(reward, images, prompts)
    with torch.no_grad(), full_precision():
        values: Tensor = reward.reported(images, prompts)
        return values


def called(reward: Any, images: Sequence[Image], prompts: Sequence[str]) -> Tensor:
    """What a reward gives for PIL images as tensors, float32 (B,) on the CPU, without a gradient.

    Raises:
        OptionError: the images have different sizes.
    """
    import torch

    from realignkit.images import to_tensor

    with torch.no_grad(), full_precision():
        return reward(to_tensor(images), list(prompts)).float().cpu()
