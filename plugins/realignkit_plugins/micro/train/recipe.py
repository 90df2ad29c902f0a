"""What all recipes share: seeding, the schedule, training, and where the checkpoint goes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from realignkit_plugins.micro.train.loop import Schedule, console, fit


@dataclass(frozen=True)
class Machine:
    """What a recipe may use.

    Attributes:
        device: where the networks are.
        workers: processes that prepare data beside the training.
    """

    device: str = "cpu"
    workers: int = 0


class Recipe(ABC):
    """How one embedded checkpoint is made; a child is what differs from the others.

    Its constructor calls this one first, which seeds torch, and then builds what is trained and what it learns from.

    Args:
        out: folder of the checkpoints.
        work: logs, the state to resume from, and what may be kept of the data.
        seed: of weights, data order and noise.
        steps: train for fewer (or more) than the schedule says.
        minutes: train for as long, instead of a number of steps.
        machine: what may be used; recipes that say nothing of it train on the CPU.

    Attributes:
        name: the checkpoint's.
        schedule: how long and how fast.
        learner: what is trained: the network, perhaps with heads that are dropped afterwards.
        anywhere: whether it trains on other devices than the CPU.
    """

    name: ClassVar[str]
    anywhere: ClassVar[bool] = False
    schedule: Schedule
    learner: nn.Module

    def __init__(
        self,
        out: Path,
        work: Path,
        seed: int = 0,
        steps: int | None = None,
        minutes: float | None = None,
        machine: Machine = Machine(),
    ) -> None:
        self.out, self.work, self.seed, self.steps, self.minutes = out, work, seed, steps, minutes
        self.machine = machine
        self.schedule = self.shortened(self.schedule)
        torch.manual_seed(seed)

    def shortened(self, schedule: Schedule) -> Schedule:
        """A schedule for as many steps or minutes as are wanted."""
        steps = schedule.steps if self.steps is None else self.steps
        return replace(schedule, steps=steps, minutes=self.minutes)

    @classmethod
    def train(
        cls,
        out: Path,
        work: Path,
        seed: int = 0,
        steps: int | None = None,
        minutes: float | None = None,
        machine: Machine = Machine(),
    ) -> None:
        """Train, measure on unseen scenes, save to ``out/<name>``. One that was stopped goes on."""
        recipe = cls(out, work, seed, steps, minutes, machine)
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
