"""Held-out prompts: drawn, rated by the reward, judged by something else, and measured for what they look like."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from realignkit.calls import rate
from realignkit.named import Named
from realignkit.refl.distributed import Processes
from realignkit.refl.model import Networks
from realignkit.refl.options import TrainingOptions
from realignkit.refl.scope import CHANGE, DIVERSITY, MEASURES, PROBED, Probe, difference
from realignkit.refl.seeds import seeded
from realignkit.refl.trainable import Trainable
from realignkit.refl.validation import Judge, validation
from realignkit.types import Validation

if TYPE_CHECKING:
    from PIL.Image import Image


class Validator:
    """Draws the held-out prompts with the averaged weights, and has them judged, shared among the processes.

    Args:
        networks, trainable: the model.
        processes: that share the work.
        config: of the training.
        folder: of the run.
    """

    def __init__(
        self, networks: Networks, trainable: Trainable, processes: Processes, config: TrainingOptions, folder: Path
    ) -> None:
        self.networks, self.trainable, self.processes, self.config = networks, trainable, processes, config
        self.probe = Probe(networks, folder, config.seed)

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
            OutputError: the run's folder cannot be written.
        """
        options = self.config.validation
        mine = list(range(len(prompts)))[self.processes.rank :: self.processes.count]
        texts = [prompts[i] for i in mine]
        images = self._draw(texts, mine, options.sampling(sampling))
        scope = self._measure(images, texts, mine, len(prompts), options.sampling(sampling))
        rewards = self._rate(reward, images, texts)
        judged: Sequence[Any] = [None] * len(mine)
        if judge is not None and judge.is_reward:
            judged = [total for total, _ in self._rate(judge.named, images, texts)]
        kept = len(prompts) if judge is not None and not judge.is_reward else max(options.samples, PROBED)
        shown = [image if i < kept else None for i, image in zip(mine, images, strict=True)]
        rows: list[Any] = list(zip(mine, rewards, judged, shown, scope, strict=True))
        _, rated, judgements, pictures, measured = zip(
            *sorted(self.processes.gather(rows), key=lambda row: row[0]), strict=True
        )
        if judge is not None and not judge.is_reward:  # a metric needs all images in one place
            judgements = self.processes.share(judge.judge_all(pictures, prompts) if self.processes.main else None)
        measures = {
            name: tuple(row[name] for row in measured if name in row) for name in (*MEASURES, DIVERSITY, CHANGE)
        }
        measures[CHANGE] = self.processes.share(
            self._change(iteration, pictures, prompts) if self.processes.main else None
        )
        parts = {part.name: [each[n] for _, each in rated] for n, (part, _) in enumerate(reward.parts)}
        outcome = validation(
            iteration,
            [total for total, _ in rated],
            judge,
            judgements,
            parts if len(parts) > 1 else None,
            {name: values for name, values in measures.items() if values},
        )
        return outcome, list(pictures[: options.samples])

    def _draw(self, prompts: Sequence[str], places: Sequence[int], sampling: Mapping[str, Any]) -> list[Image]:
        images: list[Image] = []
        batch = self.config.batch_size
        with self.trainable.averaged():
            for start in range(0, len(prompts), batch):
                seeds = [self.config.validation.seed + place for place in places[start : start + batch]]
                images += self.networks.draw(prompts[start : start + batch], seeds, sampling)
        return images

    def _measure(
        self,
        images: Sequence[Image],
        prompts: Sequence[str],
        places: Sequence[int],
        count: int,
        sampling: Mapping[str, Any],
    ) -> list[dict[str, float]]:
        """What each image looks like, and of the first prompts how much it differs from another one of the prompt."""
        measured = [{name: measure(image) for name, measure in MEASURES.items()} for image in images]
        twice = [n for n, place in enumerate(places) if place < self.config.validation.diversity]
        others = self._draw([prompts[n] for n in twice], [count + places[n] for n in twice], sampling)
        for n, other in zip(twice, others, strict=True):
            measured[n][DIVERSITY] = difference(images[n], other)
        return measured

    def _change(self, iteration: int, pictures: Sequence[Image], prompts: Sequence[str]) -> tuple[float, ...]:
        first = slice(0, PROBED)
        with self.trainable.averaged():
            if iteration == 0:
                self.probe.begin(pictures[first], prompts[first])
            return self.probe.change(prompts[first])

    def _rate(
        self, reward: Named, images: Sequence[Image], prompts: Sequence[str]
    ) -> list[tuple[float, tuple[float, ...]]]:
        """Of each image the reward, and those of its parts, unweighted."""
        rated: list[tuple[float, tuple[float, ...]]] = []
        batch = self.config.batch_size
        for start in range(0, len(images), batch):
            part = slice(start, start + batch)
            with seeded(self.config.seed, "validation", start):
                each = [rate(one, images[part], prompts[part], self.networks.device) for one, _ in reward.parts]
            weights = [weight for _, weight in reward.parts]
            rated += [(weighted(values, weights), values) for values in zip(*each, strict=True)]
        return rated


def weighted(values: Sequence[float], weights: Sequence[float]) -> float:
    """A sum of rewards in float32, as the sum itself computes it."""
    import torch

    total = torch.zeros(())
    for value, weight in zip(values, weights, strict=True):
        total = total + weight * torch.tensor(value)
    return float(total)
