"""Lifecycle hooks held against their contracts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from realignkit import calls
from realignkit.layout import Layout, Likelihood, LocalCaption, Segment, Tag
from realignkit.realignment import Realignment
from realignkit.registry import Registry
from realignkit.testing.examples import PROMPTS, tiny_images
from realignkit.types import TrainState


def example_layout() -> Layout:
    """Two objects in a picture of :func:`realignkit.testing.tiny_images`, one in each half."""
    left = np.zeros((64, 64), bool)
    left[:, :32] = True
    captions = ("book", "a red book"), ("pen", "a yellow pen")
    masks = (left, ~left)
    return Layout(
        tuple(
            Segment(LocalCaption(tag, caption, Likelihood.CERTAIN), mask, 0.9)
            for (tag, caption), mask in zip(captions, masks, strict=True)
        )
    )


def example_realignment() -> Realignment:
    """A finished realignment that nobody had to draw."""
    coarse, refined, *_ = tiny_images()
    layout = example_layout()
    captions = tuple(segment.caption for segment in layout)
    tags = tuple(Tag(caption.tag, 0.9) for caption in captions)
    return Realignment(PROMPTS[0], 1, coarse, tags, captions, layout, refined, PROMPTS[0])


def _layouts(registry: Registry) -> None:
    for layout in (example_layout(), Layout()):
        calls.before_refine(registry, PROMPTS[0], layout, (64, 64))


def _realignments(registry: Registry) -> None:
    calls.after_realign(registry, example_realignment())


def _training(registry: Registry) -> None:
    whole = TrainState(1, 2, 0.5, 0.1, 0.2, 0.3, 1.0, 0.1, 0.1, 0.2, 1e-4, False, 1.5, None, Path("run"))
    control = TrainState(2, 2, 0.5, None, 0.0, 0.3, 0.0, None, None, None, 1e-4, True, 1.5, None, Path("run"))
    for state in (whole, control):
        calls.after_train_step(registry, state)


HOOKS: Mapping[str, Callable[[Registry], None]] = {
    "before_refine": _layouts,
    "after_realign": _realignments,
    "after_train_step": _training,
}
"""What a hook is called with: a layout and an empty one, a realignment, a training step and one that draws nothing."""
