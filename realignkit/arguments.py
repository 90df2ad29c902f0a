"""Arguments of the Python interface: one of the wrong kind ends in a sentence that says what is wanted."""

from __future__ import annotations

import math
import numbers
import operator
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from realignkit.errors import OptionError, redacted_urls

T = TypeVar("T")
_ADDRESS = re.compile(r"(?:[a-z][a-z0-9+.-]+:/|data:)", re.IGNORECASE)  # a drive has one letter


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
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise OptionError(f"{name} takes a dict, names and their values, not {shown(value)}.")
    return dict(value)


def listed(name: str, values: Any) -> list[Any]:
    """Several values, from anything that can be gone through but a text.

    Raises:
        OptionError: it is no such thing.
    """
    if not isinstance(values, Iterable) or isinstance(values, str | bytes):
        raise OptionError(f"{name} come in a list, also one: [one]. This is {_kind(values)}.")
    return list(values)


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


def refuse_address(path: str | Path) -> None:
    """Refuse what is an address (``https://…``, ``data:…``) where a file is meant.

    Raises:
        OptionError: it is one; the message shows none of its parts that may be keys.
    """
    text = str(path)
    if not _ADDRESS.match(text):
        return
    where = redacted_urls(text.replace(":/", "://", 1) if isinstance(path, Path) else text)[:80]
    raise OptionError(f"'{where}' is an address, and nothing is fetched here. Download it, and give the file's path.")


def plugin(name: str, value: Any) -> Any:
    """A plugin that is called, of a class or a function.

    Raises:
        OptionError: it cannot be called, or is a class.
    """
    if isinstance(value, type) or not callable(value):
        by_name = " (Realigner.from_pretrained and Registry.create take names)" if isinstance(value, str) else ""
        raise OptionError(f"{name} takes a plugin that is made, not {shown(value)}{by_name}.")
    return value


def scorers(value: Any) -> tuple[tuple[str, Any], ...]:
    """One scorer, or a chain of ``(name, scorer)``, as a chain.

    Raises:
        OptionError: it is neither, or empty.
    """
    if callable(value):
        return ((type(value).__name__, plugin("scorers", value)),)
    chain = tuple(value) if isinstance(value, Iterable) and not isinstance(value, str | bytes) else (value,)
    if not chain:
        raise OptionError("a realigner needs at least one scorer; 'lexical' always answers.")
    for item in chain:
        if not isinstance(item, tuple | list) or len(item) != 2 or not isinstance(item[0], str):
            raise OptionError(f"scorers takes a plugin, or a list of (name, plugin), not {shown(item)}.")
        plugin("scorers", item[1])
    return tuple((name, scorer) for name, scorer in chain)


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
