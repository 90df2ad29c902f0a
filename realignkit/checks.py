"""What users hand in, brought into form; and what is wrong with tags, captions and segments, whoever made them."""

from __future__ import annotations

import math
import numbers
import operator
from collections.abc import Iterable, Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from PIL.Image import Image as PILImage

from realignkit.arguments import listed, shown
from realignkit.errors import OptionError, PromptError
from realignkit.images import Given, given_image
from realignkit.types import Layout, Likelihood, LocalCaption, Segment, Tag

if TYPE_CHECKING:
    from realignkit.realignment import Realignment

Picture = Any
"""A PIL image, the path of a file, or a uint8 array: what :func:`realignkit.images.given_image` takes."""


# --- what users hand in -----------------------------------------------------------------------------------------------


def pair(
    prompt: str | Sequence[str], seed: int | Sequence[int], coarse: Picture | Sequence[Picture | None] | None
) -> tuple[list[str], list[int], list[Given | None]]:
    """One prompt, seed and perhaps image per result; a single one serves all.

    Raises:
        OptionError: the numbers do not match, a seed is no whole number in [0, 2**63), or an image cannot be read.
        PromptError: a prompt is no text.
    """
    prompts = [prompt] if isinstance(prompt, str) else listed("prompts", prompt)
    seeds = [seed] * len(prompts) if is_one(seed) else listed("seeds", seed)
    if isinstance(prompt, str):
        prompts *= len(seeds)
    if coarse is None or isinstance(coarse, Image.Image | str | Path) or getattr(coarse, "ndim", 4) < 4:
        images = [coarse] * len(prompts)
    else:
        images = listed("coarse images", coarse)
    if not len(prompts) == len(seeds) == len(images):
        given = "" if coarse is None else f" and {len(images)} coarse images"
        raise OptionError(
            f"{len(prompts)} prompts and {len(seeds)} seeds{given} do not go together: give one of each per prompt."
        )
    for text in prompts:
        if not isinstance(text, str):
            raise PromptError(f"a prompt is text, not {shown(text)}.")
    return prompts, [seed_of(value) for value in seeds], [None if i is None else given_image(i) for i in images]


def is_one(seed: Any) -> bool:
    """Whether this is one seed, not a list of them."""
    return isinstance(seed, str | bytes) or not isinstance(seed, Iterable) or getattr(seed, "ndim", 1) == 0


def seed_of(seed: Any) -> int:
    """A seed as Python's integer; NumPy's are welcome.

    Raises:
        OptionError: it is no whole number in [0, 2**63).
    """
    try:
        value = -1 if isinstance(seed, bool) else operator.index(seed)
    except TypeError:
        value = -1
    if not 0 <= value < 2**63:
        raise OptionError(f"a seed is a whole number from 0 to 2**63 - 1, not {shown(seed)}.")
    return value


def pictures(images: Sequence[Picture]) -> list[PILImage]:
    """Images in RGB, copies of what was given.

    Raises:
        OptionError: this is no list, or an image cannot be read.
    """
    if isinstance(images, Image.Image | str | Path) or getattr(images, "ndim", 4) < 4:
        raise OptionError("give a list of images, also of one: [image].")
    return [given_image(image)[0] for image in listed("images", images)]


def tags(values: Sequence[Tag]) -> tuple[Tag, ...]:
    """Tags that a user hands in, held against the same rules as a tagger's.

    Raises:
        OptionError: one is no tag with a name and a confidence in [0, 1].
    """
    given = listed("tags", values)
    _refuse(map(tag_problem, given))
    return distinct(given)


def captions(values: Sequence[LocalCaption]) -> tuple[LocalCaption, ...]:
    """Local captions that a user hands in, held against the same rules as a scorer's.

    Raises:
        OptionError: one is no local caption with a text and a likelihood.
    """
    given = listed("captions", values)
    _refuse(map(caption_problem, given))
    return tuple(given)


def layouts(values: Sequence[Layout], size: tuple[int, int]) -> list[Layout]:
    """Layouts that a user hands in, held against the same rules as a segmenter's masks.

    ``size``: (width, height) of the images.

    Raises:
        OptionError: one is no layout, or has a mask of another size or type.
    """
    if isinstance(values, Layout):
        raise OptionError("give a list of layouts, also of one: [layout].")
    given = listed("layouts", values)
    for layout in given:
        if not isinstance(layout, Layout):
            raise OptionError(f"a {type(layout).__name__} is no Layout.")
        _refuse(segment_problem(segment, size) for segment in layout)
    return given


def _refuse(problems: Iterable[str]) -> None:
    if problem := next(filter(None, problems), ""):
        raise OptionError(f"{problem}.")


def check_text(prompt: str) -> None:
    """Refuse a prompt that is no text: bytes that are no UTF-8 and halves of surrogate pairs get into Python strings.

    Raises:
        PromptError: it is no text, or holds a lone surrogate.
    """
    if not isinstance(prompt, str):
        raise PromptError(f"a prompt is text, not {shown(prompt)}.")
    broken = next((character for character in prompt if "\ud800" <= character <= "\udfff"), None)
    if broken is not None:
        raise PromptError(
            f"the prompt holds a broken character (\\u{ord(broken):x}, half of a pair): '{readable(prompt[:60])}'. "
            f"Type it again, or save the file that it comes from as UTF-8."
        )


def readable(text: str) -> str:
    """A text that any file or terminal takes: lone surrogates are written as escapes."""
    return text.encode("utf-8", "backslashreplace").decode()


# --- what is wrong, in words ------------------------------------------------------------------------------------------


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
