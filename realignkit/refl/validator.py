"""Draws the held-out prompts with the averaged weights, and has them judged, shared among the processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from realignkit.calls import rate
from realignkit.named import Named
from realignkit.refl.config import ReFLConfig
from realignkit.refl.distributed import Processes
from realignkit.refl.model import Networks
from realignkit.refl.seeds import seeded
from realignkit.refl.trainable import Trainable
from realignkit.refl.validation import Judge, validation
from realignkit.types import Validation

if TYPE_CHECKING:
    from PIL.Image import Image


class Validator:
    """See :meth:`__call__`."""

    def __init__(self, networks: Networks, trainable: Trainable, processes: Processes, config: ReFLConfig) -> None:
        self.networks, self.trainable, self.processes, self.config = networks, trainable, processes, config

    def __call__(
        self,
        iteration: int,
        prompts: Sequence[str],
        sampling: Mapping[str, Any],
        reward: Named,
        judge: Judge | None,
    ) -> tuple[Validation, list[Image]]:
        """Validate; the first ``samples`` images come along.

        Every validation draws the same prompts from the same noise, so that two of them can be compared in pairs.

        Raises:
            ModelError, PluginError: model, reward or judge failed.
        """
        mine = list(range(len(prompts)))[self.processes.rank :: self.processes.count]
        images = self._draw([prompts[i] for i in mine], mine, sampling)
        rewards = self._rate(reward, images, [prompts[i] for i in mine])
        judged: list[Any] = [None] * len(mine)
        if judge is not None and judge.is_reward:
            judged = self._rate(judge.named, images, [prompts[i] for i in mine])
        shown = judge is not None and not judge.is_reward  # a metric needs all images in one place
        rows: list[Any] = [
            (i, value, other, image if shown or i < self.config.validation.samples else None)
            for i, value, other, image in zip(mine, rewards, judged, images, strict=True)
        ]
        rows = sorted(self.processes.gather(rows), key=lambda row: row[0])
        values = [row[1] for row in rows]
        if judge is None or judge.is_reward:
            found: Any = [row[2] for row in rows]
        else:
            found = judge.judge_all([row[3] for row in rows], prompts) if self.processes.main else None
            found = self.processes.share(found)
        return validation(iteration, values, judge, found), [row[3] for row in rows[: self.config.validation.samples]]

    def _draw(self, prompts: Sequence[str], places: Sequence[int], sampling: Mapping[str, Any]) -> list[Image]:
        images: list[Image] = []
        batch = self.config.batch_size
        with self.trainable.averaged():
            for start in range(0, len(prompts), batch):
                seeds = [self.config.validation.seed + place for place in places[start : start + batch]]
                images += self.networks.draw(prompts[start : start + batch], seeds, sampling)
        return images

    def _rate(self, reward: Named, images: Sequence[Image], prompts: Sequence[str]) -> list[float]:
        values: list[float] = []
        batch = self.config.batch_size
        for start in range(0, len(images), batch):
            part = slice(start, start + batch)
            with seeded(self.config.seed, "validation", start):
                values += rate(reward, images[part], prompts[part], self.networks.device)
        return values
