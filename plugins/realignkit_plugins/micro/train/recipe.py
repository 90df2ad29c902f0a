"""What all recipes share: seeding, the schedule, training, and where the checkpoint goes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from realignkit_plugins.micro.train.loop import Schedule, console, fit


class Recipe(ABC):
    """How one embedded checkpoint is made; a child is what differs from the others.

    Its constructor calls this one first, which seeds torch, and then builds what is trained and what it learns from.

    Args:
        out: folder of the checkpoints.
        work: logs, the state to resume from, and what may be kept of the data.
        seed: of weights, data order and noise.
        steps: train for fewer (or more) than the schedule says.

    Attributes:
        name: the checkpoint's.
        schedule: how long and how fast.
        learner: what is trained: the network, perhaps with heads that are dropped afterwards.
    """

    name: ClassVar[str]
    schedule: Schedule
    learner: nn.Module

    def __init__(self, out: Path, work: Path, seed: int = 0, steps: int | None = None) -> None:
        self.out, self.work, self.seed, self.steps = out, work, seed, steps
        self.schedule = self.shortened(self.schedule)
        torch.manual_seed(seed)

    def shortened(self, schedule: Schedule) -> Schedule:
        """A schedule for as many steps as are wanted."""
        return schedule if self.steps is None else replace(schedule, steps=self.steps)

    @classmethod
    def train(cls, out: Path, work: Path, seed: int = 0, steps: int | None = None) -> None:
        """Train, measure on unseen scenes, save to ``out/<name>``. One that was stopped goes on."""
        recipe = cls(out, work, seed, steps)
        recipe.fit()
        recipe.finish(out / cls.name)
        console.print(f"saved {out / cls.name}")

    def fit(self) -> None:
        """Train the learner, which then holds the moving average of its weights."""
        fit(self.learner, self.loss, self.schedule, self.seed, self.work / self.name)

    @abstractmethod
    def loss(self, step: int, generator: torch.Generator) -> tuple[torch.Tensor, Mapping[str, torch.Tensor]]:
        """What a step minimises, and what of it the log shows."""

    @abstractmethod
    def finish(self, folder: Path) -> None:
        """Measure, and save to a folder."""


def save(model: Any, folder: Path, *beside: Any) -> None:
    """A network of transformers in half precision, and what has a ``save_pretrained`` beside it (a tokenizer)."""
    for each in (model.half(), *beside):
        each.save_pretrained(folder)
