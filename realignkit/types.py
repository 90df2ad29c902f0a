"""What flows through the realigner: frozen values, each made by one step and read by the next.

Images are :class:`PIL.Image.Image` in RGB; masks are NumPy boolean arrays of shape (H, W).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from realignkit.arguments import as_path

if TYPE_CHECKING:
    from PIL.Image import Image

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
            raise ValueError(f"a layout is made of Segments, not of a {type(strangers[0]).__name__}")
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


@dataclass(frozen=True, eq=False, repr=False)
class Realignment:
    """Everything one realignment saw and made. :meth:`save` and :meth:`load` round-trip.

    Two are equal where all they hold is, pixel by pixel; how long they took aside.

    Attributes:
        prompt, seed: what was asked for.
        coarse: the image before refinement, RGB.
        tags, captions, layout: the results of the tag, score and segment steps.
        refined: the image after refinement, RGB; the coarse image itself when there was nothing to modulate.
        accepted: False where ``modulation.verify`` found that the refined image has lost an object; see :attr:`image`.
        conditioning: the text that the refined image was conditioned on.
        plugins: which plugin did each step (kind -> name); ``scorer`` is the one that answered.
        notes: recorded fallbacks, in words ("no mask for 'desk' …").
        timings: seconds per step.
        settings: every option that the result depends on.
        versions: versions of realignkit and of the libraries below it.
    """

    prompt: str
    seed: int
    coarse: Image
    tags: tuple[Tag, ...]
    captions: tuple[LocalCaption, ...]
    layout: Layout
    refined: Image
    conditioning: str = ""
    plugins: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    timings: Mapping[str, float] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    accepted: bool = True

    @property
    def image(self) -> Image:
        """The picture to use, RGB: the refined one, or the coarse one where the refined one was not accepted."""
        return self.refined if self.accepted else self.coarse

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Realignment):
            return NotImplemented
        same = (
            getattr(self, f.name) == getattr(other, f.name) for f in fields(self) if f.name not in (*_IMAGES, "timings")
        )
        return all(same) and all(_same_pixels(getattr(self, name), getattr(other, name)) for name in _IMAGES)

    def __hash__(self) -> int:
        return hash((self.prompt, self.seed, self.tags, self.captions))

    def __repr__(self) -> str:
        width, height = self.coarse.size
        prompt = self.prompt if len(self.prompt) <= 60 else f"{self.prompt[:59]}…"
        fate = "coarse image kept" if not self.accepted or _same_pixels(self.coarse, self.refined) else "refined"
        return (
            f"<Realignment of {prompt!r}, seed {self.seed}: {width} x {height}, {len(self.tags)} tags, "
            f"{len(self.layout)} segments, {fate}>"
        )

    def _repr_html_(self) -> str:
        from realignkit.notebook import html

        return html(self)

    def _repr_png_(self) -> bytes:
        from realignkit.notebook import side_by_side

        return side_by_side(self)

    def save(self, folder: str | Path) -> Path:
        """Write ``realignment.json``, ``coarse.png``, ``refined.png`` and ``masks/*.png`` into ``folder``.

        Files are written atomically, the JSON last, so a folder that has it is complete.

        Raises:
            OutputError: the folder cannot be written.
            OptionError: this is no path.
        """
        from realignkit.realignment import save_realignment

        return save_realignment(self, as_path("folder", folder))

    @classmethod
    def load(cls, folder: str | Path) -> Realignment:
        """Read back what :meth:`save` wrote.

        Raises:
            OutputError: the folder holds no complete realignment.
            OptionError: this is no path.
        """
        from realignkit.realignment import load_realignment

        return load_realignment(as_path("folder", folder))


_IMAGES = ("coarse", "refined")


def _same_pixels(one: Image, other: Image) -> bool:
    return one.size == other.size and one.convert("RGB").tobytes() == other.convert("RGB").tobytes()
