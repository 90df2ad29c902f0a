"""The oracle as a metric plugin."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from realignkit.contracts import Metric
from realignkit.errors import PluginError

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

    from realignkit_plugins.micro.oracle import Oracle

MOST_OBJECTS = 3
_REFERENCE = 404  # a sequence of scenes of its own: no training's, no prompt set's


class FullyRight(Metric):
    """Share of images in which every object of the prompt is there, in its colour, as often as it says.

    For pictures of the embedded world only; prompts must name coloured objects of its vocabulary.
    """

    yes_or_no = ("fully_right",)

    def __init__(self) -> None:
        super().__init__()
        self.right, self.objects, self.count = 0, 0.0, 0

    @cached_property
    def _oracle(self) -> Oracle:
        from realignkit_plugins.micro.oracle import Oracle

        return Oracle.load()

    def update(self, images: Sequence[Image], prompts: Sequence[str]) -> None:
        """Judge images (RGB, 64 x 64 or larger, which are reduced by area).

        Raises:
            ValueError: a prompt names no coloured object of the embedded world.
        """
        for values in self.judge_each(images, prompts):
            self.right += int(values["fully_right"])
            self.objects += values["objects_right"]
            self.count += 1

    def judge_each(self, images: Sequence[Image], prompts: Sequence[str]) -> list[dict[str, float]]:
        """``fully_right`` (0 or 1) and ``objects_right`` (in [0, 1]) of each image (RGB, as :meth:`update`).

        Raises:
            ValueError: a prompt names no coloured object of the embedded world.
        """
        from realignkit_plugins.micro.oracle import fully_right, share_right

        return [
            {
                "fully_right": float(fully_right(prompt, detections)),
                "objects_right": round(share_right(prompt, detections), 6),
            }
            for prompt, detections in zip(prompts, self._oracle.detect(images), strict=True)
        ]

    def can_judge(self, prompt: str) -> bool:
        """Whether a prompt consists of coloured objects of the embedded world (CC-500's form)."""
        from realignkit_plugins.micro.oracle import in_vocabulary

        return in_vocabulary(prompt)

    def features(self, images: Sequence[Image]) -> np.ndarray:
        """The oracle's features of images (RGB, as :meth:`update`), float32 (B, D)."""
        return self._oracle.features(images)

    def reference(self, prompts: Sequence[str], count: int) -> list[Image]:
        """``count`` pictures (RGB, 64 x 64) that the embedded world itself draws for these prompts, in turn.

        Always the same ones. Prompts of more objects than a scene has are passed over.

        Raises:
            PluginError: no prompt is left.
        """
        import numpy as np
        from PIL import Image

        from realignkit_plugins.micro.oracle import expected
        from realignkit_plugins.micro.world.scenes import compose, render

        wanted = [
            [(noun, colour) for noun, colour, many in expected(prompt) for _ in range(many)]
            for prompt in prompts
            if self.can_judge(prompt)
        ]
        wanted = [pairs for pairs in wanted if len(pairs) <= MOST_OBJECTS]
        if not wanted:
            raise PluginError("the embedded world can draw none of the prompts. Give prompts of one to three objects.")
        chosen = (wanted[number % len(wanted)] for number in range(count))
        scenes = (compose(np.random.default_rng([_REFERENCE, number]), pairs) for number, pairs in enumerate(chosen))
        return [Image.fromarray(render(scene).image) for scene in scenes]

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
