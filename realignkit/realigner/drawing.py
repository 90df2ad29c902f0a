"""The coarse stage: images drawn a batch at a time, with what was noted meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from realignkit.attention.heatmaps import recording
from realignkit.heatmap import Heat
from realignkit.pipelines.generate import generate
from realignkit.pipelines.reward_guidance import GuidedSampling
from realignkit.realigner.guide import guided

if TYPE_CHECKING:
    from PIL.Image import Image

    from realignkit.realigner.steps import Progress, Steps


@dataclass(frozen=True, eq=False)
class Drawn:
    """Coarse images.

    Attributes:
        images: RGB.
        heat_maps: for each, its words' heat maps.
        guidance: for each, that of its batch; None where nothing guides.
    """

    images: list[Image] = field(default_factory=list)
    heat_maps: list[dict[str, Heat]] = field(default_factory=list)
    guidance: list[GuidedSampling | None] = field(default_factory=list)


def draw(
    realigner: Steps, prompts: Sequence[str], seeds: Sequence[int], progress: Progress, words: Sequence[str] = ()
) -> Drawn:
    """The coarse stage: an image for each prompt and seed, a batch at a time; and the heat maps of words in each."""
    drawn = Drawn()
    for start in range(0, len(prompts), realigner.batch_size):
        batch = slice(start, start + realigner.batch_size)
        with (
            guided(realigner, prompts[batch]) as guidance,
            recording(realigner.pipeline(), words, prompts[batch]) as recorder,
        ):
            images = generate(
                realigner.pipeline(),
                prompts[batch],
                seeds[batch],
                **realigner.sampling.model_dump(),
                progress=as_step("generate", progress),
            )
        drawn.images.extend(images)
        drawn.heat_maps.extend(recorder.maps())
        drawn.guidance.extend([guidance] * len(images))
    return drawn


def as_step(step: str, progress: Progress) -> Callable[[int, int], None]:
    """``progress`` of one step."""
    return lambda done, total: progress(step, done, total)
