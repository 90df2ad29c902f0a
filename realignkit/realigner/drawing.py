"""The coarse stage: images drawn a batch at a time, with what was noted meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from realignkit.attention.heatmaps import recording
from realignkit.heatmap import Heat
from realignkit.pipelines.generate import generate
from realignkit.pipelines.reward_guidance import GuidedSampling

if TYPE_CHECKING:
    from PIL.Image import Image

    from realignkit.resolve import SamplingOptions

Progress = Callable[[str, int, int], None]
"""``progress(step, done, total)``: ``step`` is one of ``STEPS``; counted in denoising steps or images."""


class Drawing(Protocol):
    """What is asked of a realigner that draws, which see."""

    batch_size: int
    sampling: SamplingOptions

    def pipeline(self) -> Any:
        """Of diffusers."""

    def guided(self, prompts: Sequence[str]) -> AbstractContextManager[GuidedSampling | None]:
        """Guide what the pipeline draws of some prompts, where something guides."""


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
    realigner: Drawing, prompts: Sequence[str], seeds: Sequence[int], progress: Progress, words: Sequence[str] = ()
) -> Drawn:
    """The coarse stage: an image for each prompt and seed, a batch at a time; and the heat maps of words in each."""
    drawn = Drawn()
    for start in range(0, len(prompts), realigner.batch_size):
        batch = slice(start, start + realigner.batch_size)
        with (
            realigner.guided(prompts[batch]) as guidance,
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
