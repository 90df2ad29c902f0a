"""What users hand in, brought into form: what is of the wrong kind ends in a sentence that says what is wanted."""

from __future__ import annotations

import json
import math
import numbers
import operator
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from realignkit.errors import OptionError, PromptError
from realignkit.layout import Layout, LocalCaption, Tag, caption_problem, distinct, layout_problem, tag_problem

if TYPE_CHECKING:
    from PIL.Image import Image

    from realignkit.images import Given

T = TypeVar("T")
Picture = Any
"""A PIL image, the path of a file, or a uint8 array: what :func:`realignkit.images.given_image` takes."""


def shown(value: object) -> str:
    """A value as messages show it: plain ones as they are written, others by their kind."""
    if isinstance(value, str | bytes):
        return repr(value) if len(value) <= 60 else f"{value[:60]!r} …"
    if isinstance(value, type):
        return f"the class {value.__name__} (make one: {value.__name__}())"
    plain = value is None or isinstance(value, bool | int | float)
    return repr(value) if plain else f"an object of type {type(value).__name__}"


def whole(name: str, value: Any, least: int = 1) -> int:
    """A whole number of at least ``least``; NumPy's and ``8.0`` are welcome, and ``True`` is none.

    Raises:
        OptionError: it is no such number.
    """
    try:
        exact = int(value) if isinstance(value, float) and value.is_integer() else value
        number = least - 1 if isinstance(value, bool) else operator.index(exact)
    except TypeError:
        number = least - 1
    if number < least:
        raise OptionError(f"{name} must be at least {least}, a whole number, got {shown(value)}.")
    return number


def real(name: str, value: Any) -> float:
    """A finite number.

    Raises:
        OptionError: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not math.isfinite(value):
        raise OptionError(f"{name} must be a number, got {shown(value)}.")
    return float(value)


def truth(name: str, value: Any) -> bool:
    """A truth value; None is false.

    Raises:
        OptionError: it is none.
    """
    if value not in (True, False, None):
        raise OptionError(f"{name} must be True or False, got {shown(value)}.")
    return bool(value)


def mapping(name: str, value: Any) -> dict[str, Any]:
    """Options by name, a copy; None is none of them.

    Raises:
        OptionError: it is no mapping, or has a name that is no text.
    """
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise OptionError(f"{name} takes a dict, names and their values, not {shown(value)}.")
    if odd := [key for key in value if not isinstance(key, str)]:
        raise OptionError(f"{name} takes a dict of names and their values, and its key {shown(odd[0])} is no name.")
    return dict(value)


def json_values(name: str, value: Any) -> dict[str, Any]:
    """A mapping of JSON values, a copy, paths as text; None is none of them.

    Raises:
        OptionError: it is none.
    """
    try:
        values: dict[str, Any] = json.loads(json.dumps(mapping(name, value), default=os.fspath))
    except (TypeError, ValueError, RecursionError):
        raise OptionError(f"{name} takes JSON values: texts, numbers, and lists and dicts of them.") from None
    return values


def listed(name: str, values: Any, one: str = "also one: [one]") -> list[Any]:
    """Several values, from anything that can be gone through but a text.

    ``one``: how the message says that a single value is given.

    Raises:
        OptionError: it is no such thing.
    """
    if not isinstance(values, Iterable) or isinstance(values, str | bytes):
        raise OptionError(f"{name} come in a list, {one}. This is {_kind(values)}.")
    return list(values)


def words(name: str, values: Any) -> tuple[str, ...]:
    """Different texts, none of them empty, without white space around them.

    Raises:
        OptionError: this is no list of texts.
    """
    given = listed(name, values)
    if bad := [value for value in given if not isinstance(value, str) or not value.strip()]:
        raise OptionError(f"{name} takes a list of words, and {shown(bad[0])} is none.")
    return tuple(dict.fromkeys(value.strip() for value in given))


def function(name: str, value: Any) -> Any:
    """Something to be called, or None.

    Raises:
        OptionError: it cannot be called.
    """
    if value is not None and not callable(value):
        raise OptionError(f"{name} takes a function, not {shown(value)}.")
    return value


def as_path(name: str, value: Any) -> Path:
    """The path of a file or folder.

    Raises:
        OptionError: it is none.
    """
    if not isinstance(value, str | os.PathLike):
        raise OptionError(f"{name} takes a path, not {shown(value)}.")
    return Path(value)


def instance(name: str, value: Any, kind: type[T]) -> T | None:
    """An object of a class, or None.

    Raises:
        OptionError: it is of another one.
    """
    if value is not None and not isinstance(value, kind):
        raise OptionError(f"{name} takes a {kind.__name__}, not {shown(value)}.")
    return value


def _kind(value: object) -> str:
    return "None" if value is None else f"of type {type(value).__name__}"


def value_of(text: str) -> Any:
    """JSON where it parses as JSON, otherwise the text itself."""
    try:
        return json.loads(text)
    except ValueError:
        return text


# --- prompts, seeds, images, and what is seen in them -----------------------------------------------------------------


def pair(
    prompt: str | Sequence[str], seed: int | Sequence[int], coarse: Picture | Sequence[Picture | None] | None
) -> tuple[list[str], list[int], list[Given | None]]:
    """One prompt, seed and perhaps image per result; a single one serves all.

    Raises:
        OptionError: the numbers do not match, a seed is no whole number in [0, 2**63), or an image cannot be read.
        PromptError: a prompt is no text.
    """
    prompts = [prompt] if isinstance(prompt, str) else listed("prompts", prompt, "or alone: a text")
    seeds = [seed] * len(prompts) if is_one(seed) else listed("seeds", seed)
    if isinstance(prompt, str):
        prompts *= len(seeds)
    one = coarse is None or _is_one_picture(coarse)
    kinds = "or alone: a picture, a path or an array"
    images = [coarse] * len(prompts) if one else listed("coarse images", coarse, kinds)
    if not len(prompts) == len(seeds) == len(images):
        given = "" if coarse is None else f" and {len(images)} coarse images"
        raise OptionError(
            f"{len(prompts)} prompts and {len(seeds)} seeds{given} do not go together: give one of each per prompt."
        )
    for text in prompts:
        if not isinstance(text, str):
            raise PromptError(f"a prompt is text, not {shown(text)}.")
    return (
        prompts,
        [seed_of(value) for value in seeds],
        [None if image is None else _picture(image) for image in images],
    )


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


def pictures(images: Sequence[Picture]) -> list[Image]:
    """Images in RGB, copies of what was given.

    Raises:
        OptionError: this is no list, or an image cannot be read.
    """
    if _is_one_picture(images):
        raise OptionError("give a list of images, also of one: [image].")
    return [_picture(image)[0] for image in listed("images", images)]


def _is_one_picture(value: Any) -> bool:
    from PIL import Image

    return isinstance(value, Image.Image | str | Path) or getattr(value, "ndim", 4) < 4


def _picture(value: Picture) -> Given:
    from realignkit.images import given_image  # on use: who looks plugins up needs no pictures

    return given_image(value)


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
    _refuse(layout_problem(layout, size) for layout in given)
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
