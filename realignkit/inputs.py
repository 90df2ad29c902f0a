"""What users hand in: prompts, seeds and images, paired and brought into the form that the model takes."""

from __future__ import annotations

import operator
from collections.abc import Collection, Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image, ImageOps

from realignkit import checks
from realignkit.arguments import listed, shown
from realignkit.attention.config import ModulationConfig
from realignkit.errors import OptionError, PromptError
from realignkit.images import as_seen, given_image
from realignkit.resolve import SamplingOptions
from realignkit.types import Layout, LocalCaption, Tag

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

Picture = Any
"""A PIL image, the path of a file, or a uint8 array: what :func:`realignkit.images.given_image` takes."""
Given = tuple["PILImage", tuple[str, ...]]
"""An image in RGB, with a note for each change that made it so."""


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
    return prompts, [whole(value) for value in seeds], [None if i is None else given_image(i) for i in images]


def is_one(seed: Any) -> bool:
    """Whether this is one seed, not a list of them."""
    return isinstance(seed, str | bytes) or not isinstance(seed, Iterable) or getattr(seed, "ndim", 1) == 0


def whole(seed: Any) -> int:
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
    found = listed("tags", values)
    _refuse(map(checks.tag_problem, found))
    return checks.distinct(found)


def captions(values: Sequence[LocalCaption]) -> tuple[LocalCaption, ...]:
    """Local captions that a user hands in, held against the same rules as a scorer's.

    Raises:
        OptionError: one is no local caption with a text and a likelihood.
    """
    found = listed("captions", values)
    _refuse(map(checks.caption_problem, found))
    return tuple(found)


def layouts(values: Sequence[Layout], size: tuple[int, int]) -> list[Layout]:
    """Layouts that a user hands in, held against the same rules as a segmenter's masks.

    ``size``: (width, height) of the images.

    Raises:
        OptionError: one is no layout, or has a mask of another size or type.
    """
    if isinstance(values, Layout):
        raise OptionError("give a list of layouts, also of one: [layout].")
    found = listed("layouts", values)
    for layout in found:
        if not isinstance(layout, Layout):
            raise OptionError(f"a {type(layout).__name__} is no Layout.")
        _refuse(checks.segment_problem(segment, size) for segment in layout)
    return found


def misplaced(name: str, known: Collection[str], constructor: Collection[str]) -> TypeError:
    """The error for an argument that belongs elsewhere, or nowhere.

    ``known``: what the function takes; ``constructor``: what ``from_pretrained`` takes.
    """
    if name in constructor:
        return TypeError(f"'{name}' is an option of the realigner, not of a call: Realigner.from_pretrained({name}=…).")
    for group, fields in (("sampling", SamplingOptions.model_fields), ("modulation", ModulationConfig.model_fields)):
        if name in fields:
            return TypeError(f"'{name}' is a {group} option: Realigner.from_pretrained({group}={{'{name}': …}}).")
    near = get_close_matches(name, known, n=1)
    return TypeError(f"there is no argument '{name}'{f'; did you mean {near[0]}' if near else ''}.")


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


def fit_image(image: PILImage, size: tuple[int, int]) -> tuple[PILImage, list[str]]:
    """An image as RGB of ``size`` (width, height), cropped around its centre; with a note per change.

    Raises:
        OptionError: as for :func:`realignkit.images.to_rgb`.
    """
    return cropped(as_seen(image), size)


def cropped(given: Given, size: tuple[int, int]) -> tuple[PILImage, list[str]]:
    """A given image of ``size`` (width, height), cut around its centre; with all notes."""
    image, notes = given
    changes = list(notes)
    if image.size != size:
        before, after = (f"{width} x {height}" for width, height in (image.size, size))
        changes.append(f"the given image of {before} was cropped and resized to {after}")
        image = ImageOps.fit(image, size, Image.Resampling.LANCZOS)
    return image, changes
