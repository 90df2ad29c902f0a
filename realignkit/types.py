"""What flows through the realigner: frozen values, each made by one step and read by the next.

Images are :class:`PIL.Image.Image` in RGB; masks are NumPy boolean arrays of shape (H, W).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

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


@dataclass(frozen=True, eq=False)
class Segment:
    """An object's local caption and where it is: ``mask`` bool (H, W), ``confidence`` in [0, 1]."""

    caption: LocalCaption
    mask: Mask
    confidence: float = 1.0

    @property
    def area(self) -> float:
        """Share of the image that the mask covers, in [0, 1]."""
        return float(self.mask.mean())


@dataclass(frozen=True, eq=False)
class Layout:
    """The segments of one image, all masks of the same (height, width). May be empty."""

    segments: tuple[Segment, ...] = ()

    def __post_init__(self) -> None:
        shapes = {segment.mask.shape for segment in self.segments}
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


@dataclass(frozen=True, eq=False)
class Realignment:
    """Everything one realignment saw and made. :meth:`save` and :meth:`load` round-trip.

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

    def save(self, folder: str | Path) -> Path:
        """Write ``realignment.json``, ``coarse.png``, ``refined.png`` and ``masks/*.png`` into ``folder``.

        Files are written atomically, the JSON last, so a folder that has it is complete.

        Raises:
            OutputError: the folder cannot be written.
        """
        from realignkit.storage import save_realignment

        return save_realignment(self, Path(folder))

    @classmethod
    def load(cls, folder: str | Path) -> Realignment:
        """Read back what :meth:`save` wrote.

        Raises:
            OutputError: the folder holds no complete realignment.
        """
        from realignkit.storage import load_realignment

        return load_realignment(Path(folder))
