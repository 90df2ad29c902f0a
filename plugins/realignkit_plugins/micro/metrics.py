"""The oracle as a metric plugin."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from realignkit.contracts import Metric
from realignkit.errors import PluginError

if TYPE_CHECKING:
    from PIL.Image import Image

    from realignkit_plugins.micro.oracle import Oracle


class FullyRight(Metric):
    """Share of images in which every object of the prompt is there, in its colour, as often as it says.

    For pictures of the embedded world only; prompts must name coloured objects of its vocabulary.
    """

    def __init__(self) -> None:
        super().__init__()
        self.right, self.objects, self.count = 0, 0.0, 0

    @cached_property
    def _oracle(self) -> Oracle:
        from realignkit_plugins.micro.oracle import Oracle

        return Oracle.load()

    def update(self, images: Sequence[Image], prompts: Sequence[str]) -> None:
        """Judge images (RGB, 64 x 64).

        Raises:
            ValueError: a prompt names no coloured object of the embedded world.
        """
        from realignkit_plugins.micro.oracle import fully_right, share_right

        for prompt, found in zip(prompts, self._oracle.detect(images), strict=True):
            self.right += fully_right(prompt, found)
            self.objects += share_right(prompt, found)
            self.count += 1

    def compute(self) -> dict[str, float]:
        """``fully_right`` and ``objects_right`` in [0, 1], and ``n``.

        Raises:
            PluginError: nothing has been judged yet.
        """
        if not self.count:
            raise PluginError("nothing to compute: call update(images, prompts) first.")
        return {"fully_right": self.right / self.count, "objects_right": self.objects / self.count, "n": self.count}

    def merge(self, other: Metric) -> None:
        """Add another instance's counts."""
        if not isinstance(other, FullyRight):
            raise PluginError(f"cannot merge a {type(other).__name__} into FullyRight.")
        self.right += other.right
        self.objects += other.objects
        self.count += other.count
