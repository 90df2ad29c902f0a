"""What is seen in an image and where: tags, local captions, masks; and what is wrong with them, whoever made them."""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from realignkit.errors import breach, with_article

Mask = npt.NDArray[np.bool_]


class Likelihood(StrEnum):
    """How sure the prompt makes us that a tagged object belongs in the picture (eq. 6)."""

    CERTAIN = "certain"
    POSSIBLE = "possible"
    UNLIKELY = "unlikely"

    @property
    def score(self) -> float:
        """``s_i`` of eq. 6: 2 (certain), 0.5 (possible) or 0 (unlikely)."""
        return {"certain": 2.0, "possible": 0.5, "unlikely": 0.0}[self.value]


@dataclass(frozen=True)
class Tag:
    """An object that a tagger sees in an image; ``confidence`` in [0, 1]."""

    name: str
    confidence: float = 1.0


@dataclass(frozen=True)
class LocalCaption:
    """``l_i`` and ``s_i``: the phrase that describes a tagged object, and how likely it is (eq. 6)."""

    tag: str
    caption: str
    likelihood: Likelihood

    @property
    def score(self) -> float:
        """``s_i`` of eq. 6."""
        return self.likelihood.score


@dataclass(frozen=True, eq=False, repr=False)
class Segment:
    """An object's local caption and where it is: ``mask`` bool (H, W), ``confidence`` in [0, 1]."""

    caption: LocalCaption
    mask: Mask
    confidence: float = 1.0

    @property
    def area(self) -> float:
        """Share of the image that the mask covers, in [0, 1]."""
        return float(self.mask.mean())

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Segment):
            return NotImplemented
        mine, theirs = (self.caption, self.confidence), (other.caption, other.confidence)
        return mine == theirs and np.array_equal(self.mask, other.mask)

    def __hash__(self) -> int:
        return hash((self.caption, self.confidence))

    def __repr__(self) -> str:
        size = " x ".join(map(str, np.shape(self.mask)))
        return f"Segment({self.caption!r}, mask={size}, confidence={self.confidence:.3g})"


@dataclass(frozen=True)
class Layout:
    """The segments of one image, all masks of the same (height, width). May be empty."""

    segments: tuple[Segment, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "segments", tuple(self.segments))
        if strangers := [segment for segment in self.segments if not isinstance(segment, Segment)]:
            raise ValueError(f"a layout is made of Segments, not of {with_article(type(strangers[0]).__name__)}")
        shapes = {np.shape(segment.mask) for segment in self.segments}
        if len(shapes) > 1 or any(len(shape) != 2 for shape in shapes):
            raise ValueError(f"a layout needs masks of one shape (H, W), got {sorted(shapes)}")

    def __iter__(self) -> Iterator[Segment]:
        return iter(self.segments)

    def __len__(self) -> int:
        return len(self.segments)


@dataclass(frozen=True)
class Answer:
    """A scorer's local captions, who gave them, why scorers before it did not, and what it has to say about them."""

    captions: tuple[LocalCaption, ...]
    scorer: str
    failures: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Expected:
    """What a right answer says about one tag. Words are in lower case.

    Attributes:
        named: whether the prompt names the tag.
        attributes: the attributes of each object of the prompt that the tag may mean; any one of them will do.
        foreign: attributes that the prompt gives to something.
        others: names of objects that the tag does not mean.
    """

    named: bool
    attributes: tuple[frozenset[str], ...] = ()
    foreign: frozenset[str] = frozenset()
    others: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Truth:
    """The truth about a prompt and some tags.

    Attributes:
        expected: by tag, in the order they were asked for.
        objects: how many objects the prompt names.
        found: how many of them some tag names.
    """

    expected: Mapping[str, Expected]
    objects: int
    found: int


# --- what is wrong, in words ------------------------------------------------------------------------------------------


def listing_problem(value: Any, wanted: str) -> str:
    """What is wrong with an answer that should have parts, as ``wanted`` says: None, a text or a mapping is none."""
    try:
        iter(value)
    except TypeError:
        parts = False
    else:
        parts = not isinstance(value, str | bytes | Mapping)
    return "" if parts else f"it returned {with_article(type(value).__name__)}, not {wanted}"


def listed(whose: str, value: Any, wanted: str) -> list[Any]:
    """The parts of what a plugin returned.

    Raises:
        PluginError: it has none; see :func:`listing_problem`.
    """
    if problem := listing_problem(value, wanted):
        raise breach(whose, problem)
    return list(value)


def checked_tags(whose: str, tags: Sequence[Any]) -> tuple[Tag, ...]:
    """The tags of an image, :func:`distinct`.

    Raises:
        PluginError: one of them is none.
    """
    if problem := next(filter(None, map(tag_problem, tags)), ""):
        raise breach(whose, problem)
    return distinct(list(tags))


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
        return f"{with_article(type(segment).__name__)} is no Segment"
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
    got = f"{mask.dtype} {mask.shape}" if isinstance(mask, np.ndarray) else with_article(type(mask).__name__)
    return f"masks must be bool {shape}, got {got}"


def confidence_problem(value: Any) -> str:
    """What is wrong with a confidence."""
    real = isinstance(value, numbers.Real) and not isinstance(value, bool)
    return "" if real and math.isfinite(value) and 0 <= value <= 1 else f"confidence must be in [0, 1], got {value!r}"


def checked_answer(answer: Any, tags: Sequence[Tag]) -> tuple[tuple[Any, ...], str]:
    """What a scorer returned, part by part, and what is wrong with it."""
    problem = listing_problem(answer, "a local caption for each tag")
    captions = () if problem else tuple(answer)
    return captions, problem or answer_problem(captions, tags)


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
        return f"{with_article(type(layout).__name__)} is no Layout"
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
