"""Any metric that judges each image, as a reward without a gradient: for candidates, and to train with."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pydantic import Field

from realignkit.contracts import Options as PluginOptions
from realignkit.contracts import Reward
from realignkit.errors import OptionError
from realignkit.registry import default_registry

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor


class MetricReward(Reward):
    """What a metric says of each image: its first value, or the one named. No gradient leads back to the images."""

    differentiable = False

    class Options(PluginOptions):
        """Options of :class:`MetricReward`."""

        metric: str = Field(description="name of a metric that judges each image", min_length=1)
        options: dict[str, Any] = Field({}, description="the metric's options")
        value: str = Field("", description="which of its values; empty: the first")

    options: MetricReward.Options

    @cached_property
    def metric(self) -> Any:
        """The metric, made at first use.

        Raises:
            PluginError: there is none of that name.
            OptionError: it looks at sets of images alone.
        """
        made = default_registry().create("metric", self.options.metric, **self.options.options)
        if not hasattr(made, "judge_each"):
            raise OptionError(
                f"metric '{self.options.metric}' judges sets of images alone. Choose one such as vqascore."
            )
        return made

    @property
    def usage(self) -> Any:
        """What the metric has used of a service; None of one that asks none."""
        return getattr(self.metric, "usage", None)

    def check(self) -> str:
        """What keeps the metric from working here."""
        return str(self.metric.check()) if hasattr(self.metric, "check") else ""

    def out_of_reach(self) -> str:
        """What the metric cannot get, see :class:`realignkit.contracts.Plugin`."""
        return str(getattr(self.metric, "out_of_reach", str)())

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Values float32 (B,) of images (B, 3, H, W) in [0, 1], on their device."""
        from PIL import Image

        pixels = (images.detach().float().clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
        return self.reported([Image.fromarray(each) for each in pixels], prompts).to(images.device)

    def reported(self, images: Sequence[Image], prompts: Sequence[str]) -> Tensor:
        """The same of PIL images, on the CPU.

        Raises:
            OptionError: the metric has no value of that name.
        """
        import torch

        return torch.tensor([self._value(judged) for judged in self.metric.judge_each(list(images), list(prompts))])

    def _value(self, judged: Any) -> float:
        numbers = {name: value for name, value in judged.items() if isinstance(value, int | float)}
        name = self.options.value or next(iter(numbers), "")
        if name not in numbers:
            raise OptionError(f"metric '{self.options.metric}' has no value '{name}'. It has: {', '.join(numbers)}.")
        return float(numbers[name])
