"""What is wrong with tags, captions and segments, whoever made them: in words, "" where all is right."""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from realignkit.types import Layout, Likelihood, LocalCaption, Segment, Tag

if TYPE_CHECKING:
    from realignkit.realignment import Realignment


def tag_problem(tag: Any) -> str:
    """What is wrong with a :class:`~realignkit.types.Tag`."""
    if not isinstance(tag, Tag) or not isinstance(tag.name, str) or not tag.name.strip():
        return f"{tag!r} is no tag with a name"
    return _with(f"tag '{tag.name}'", confidence_problem(tag.confidence))


def caption_problem(caption: Any) -> str:
    """What is wrong with a :class:`~realignkit.types.LocalCaption`."""
    if not isinstance(caption, LocalCaption) or not isinstance(caption.tag, str):
        return f"{caption!r} is no local caption"
    if not isinstance(caption.likelihood, Likelihood):
        return f"the likelihood of '{caption.tag}' is {caption.likelihood!r}, no Likelihood"
    if not isinstance(caption.caption, str) or not caption.caption.strip():
        return f"the local caption of '{caption.tag}' is empty"
    return ""


def segment_problem(segment: Any, size: tuple[int, int]) -> str:
    """What is wrong with a :class:`~realignkit.types.Segment` of an image of ``size`` (width, height)."""
    if not isinstance(segment, Segment):
        return f"a {type(segment).__name__} is no Segment"
    return (
        caption_problem(segment.caption)
        or mask_problem(segment.mask, size)
        or _with(f"the mask of '{segment.caption.caption}'", confidence_problem(segment.confidence))
    )


def mask_problem(mask: Any, size: tuple[int, int]) -> str:
    """What is wrong with a mask of an image of ``size`` (width, height)."""
    shape = size[::-1]
    if isinstance(mask, np.ndarray) and mask.dtype == np.bool_ and mask.shape == shape:
        return ""
    got = f"{mask.dtype} {mask.shape}" if isinstance(mask, np.ndarray) else f"a {type(mask).__name__}"
    return f"masks must be bool {shape}, got {got}"


def confidence_problem(value: Any) -> str:
    """What is wrong with a confidence."""
    real = isinstance(value, numbers.Real) and not isinstance(value, bool)
    return "" if real and math.isfinite(value) and 0 <= value <= 1 else f"confidence must be in [0, 1], got {value!r}"


def answer_problem(captions: Sequence[Any], tags: Sequence[Tag]) -> str:
    """What is wrong with a scorer's answer about tags: one local caption for each, in their order, is right."""
    if problem := next(filter(None, map(caption_problem, captions)), ""):
        return problem
    asked, got = [tag.name for tag in tags], [caption.tag for caption in captions]
    if got == asked:
        return ""
    problems = {
        "leaves out": [name for name in asked if name not in got],
        "invents": [name for name in got if name not in asked],
        "repeats": sorted({name for name in got if got.count(name) > 1}),
    }
    wrong = [f"{verb} {', '.join(map(repr, names))}" for verb, names in problems.items() if names]
    return f"the answer {' and '.join(wrong) if wrong else 'has another order than the tags'}"


def layout_problem(layout: Any, size: tuple[int, int]) -> str:
    """What is wrong with a :class:`~realignkit.types.Layout` of an image of ``size`` (width, height)."""
    if not isinstance(layout, Layout):
        return f"a {type(layout).__name__} is no Layout"
    return next(filter(None, (segment_problem(segment, size) for segment in layout)), "")


def _with(subject: str, problem: str) -> str:
    return problem and f"{subject}: {problem}"


def distinct(tags: list[Tag]) -> tuple[Tag, ...]:
    """Tags with Python's own numbers; of those with the same name the first."""
    first = {tag.name: tag for tag in reversed(tags)}
    return tuple(replace(tag, confidence=float(tag.confidence)) for tag in first.values())[::-1]


def copied_layout(layout: Layout) -> Layout:
    """A layout with masks of its own, to hand out."""
    return Layout(tuple(replace(segment, mask=segment.mask.copy()) for segment in layout))


def copied(realignment: Realignment) -> Realignment:
    """A realignment with pixels, masks and records of its own, to hand out."""
    return replace(
        realignment,
        coarse=realignment.coarse.copy(),
        refined=realignment.refined.copy(),
        layout=copied_layout(realignment.layout),
        plugins=dict(realignment.plugins),
        timings=dict(realignment.timings),
        settings=deepcopy(realignment.settings),
        versions=dict(realignment.versions),
    )
