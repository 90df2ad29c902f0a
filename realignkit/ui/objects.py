"""The objects of a picture as a person changes them: one segment each, its mask empty where none was found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from PIL import Image

from realignkit.errors import OptionError
from realignkit.types import Layout, Likelihood, LocalCaption, Mask, Segment

Objects = tuple[Segment, ...]


def objects_of(captions: Sequence[LocalCaption], layout: Layout, size: tuple[int, int]) -> Objects:
    """What was found, in the captions' order; what a plugin has added to the layout comes last.

    Args:
        captions: of all tags.
        layout: of those that were segmented.
        size: (width, height) of the picture.
    """
    placed = {segment.caption.tag: segment for segment in layout}
    nowhere = np.zeros(size[::-1], dtype=np.bool_)
    tags = {caption.tag for caption in captions}
    return (
        *(placed.get(caption.tag) or Segment(caption, nowhere) for caption in captions),
        *(segment for segment in layout if segment.caption.tag not in tags),
    )


def layout_of(objects: Objects, *, with_unlikely: bool = False) -> Layout:
    """What acts on the drawing: objects that have a mask, and are not unlikely unless that is wanted."""
    return Layout(
        tuple(
            item
            for item in objects
            if item.mask.any() and (with_unlikely or item.caption.likelihood is not Likelihood.UNLIKELY)
        )
    )


def changed(
    item: Segment, *, caption: str | None = None, likelihood: str | None = None, mask: Mask | None = None
) -> Segment:
    """An object with another caption, likelihood or mask; None leaves each as it is.

    Raises:
        OptionError: the caption is empty, there is no such likelihood, or the mask is of another size.
    """
    if caption is not None:
        if not caption.strip():
            raise OptionError("the local caption is empty: describe the object, as in 'a red book', or delete it.")
        item = replace(item, caption=replace(item.caption, caption=caption.strip()))
    if likelihood is not None:
        if likelihood not in set(Likelihood):
            raise OptionError(f"a likelihood is {', '.join(Likelihood)}, not '{likelihood}'.")
        item = replace(item, caption=replace(item.caption, likelihood=Likelihood(likelihood)))
    if mask is not None:
        if mask.shape != item.mask.shape or mask.dtype != np.bool_:
            raise OptionError(f"a mask is bool {item.mask.shape}, not {mask.dtype} {mask.shape}.")
        item = replace(item, mask=mask)
    return item


def added(objects: Objects, caption: str, size: tuple[int, int]) -> Objects:
    """The objects and one more, certain and without a mask so far.

    Args:
        objects: those that there are.
        caption: of the new one; its tag too, with a number where that is taken.
        size: (width, height) of the picture.

    Raises:
        OptionError: the caption is empty.
    """
    tags, tag = {item.caption.tag for item in objects}, caption.strip()
    numbers = (f"{tag} {number}" for number in range(2, len(objects) + 3))
    free = next(name for name in (tag, *numbers) if name not in tags)
    new = Segment(LocalCaption(free, "new", Likelihood.CERTAIN), np.zeros(size[::-1], dtype=np.bool_))
    return (*objects, changed(new, caption=caption))


def mask_of(picture: Image.Image, size: tuple[int, int]) -> Mask:
    """A mask from a picture of it: where that is opaque and bright, bool (H, W).

    Args:
        picture: of any mode and size.
        size: (width, height) of the mask.
    """
    rgba = picture.convert("RGBA").resize(size, Image.Resampling.NEAREST)
    grey, opaque = np.asarray(rgba.convert("L")), np.asarray(rgba.getchannel("A"))
    return np.asarray((grey > 127) & (opaque > 127), dtype=np.bool_)


def differences(before: Objects, after: Objects) -> tuple[str, ...]:
    """What a person has changed, a sentence's part for each object; objects are told apart by their tags."""
    old = {item.caption.tag: item for item in before}
    new = {item.caption.tag: item for item in after}
    words = [f"'{item.caption.caption}' was deleted" for tag, item in old.items() if tag not in new]
    for tag, item in new.items():
        if tag not in old:
            words.append(f"'{item.caption.caption}' was added ({item.caption.likelihood})")
        elif parts := _different(old[tag], item):
            words.append(f"'{old[tag].caption.caption}' {' and '.join(parts)}")
    return tuple(words)


def _different(old: Segment, new: Segment) -> list[str]:
    parts = []
    if old.caption.caption != new.caption.caption:
        parts.append(f"is called '{new.caption.caption}'")
    if old.caption.likelihood is not new.caption.likelihood:
        parts.append(f"is {new.caption.likelihood}, not {old.caption.likelihood}")
    if not np.array_equal(old.mask, new.mask):
        parts.append(f"has another mask ({new.area:.0%} of the picture, not {old.area:.0%})")
    return parts
