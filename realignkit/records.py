"""JSON files read as what they should be: finite numbers, every value of its type, no endless nesting."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from realignkit.errors import DamagedError

MAX_DIGITS = 100
MAX_VALUES = 1_000_000
MAX_DEPTH = 64
"""Most levels of nesting in a file: no record of ours has ten, and what is shown is walked through recursively."""

Text = Annotated[str, Field(min_length=1, pattern=r"\S")]
"""A string with something in it."""

Share = Annotated[float, Field(ge=0, le=1)]
"""A number in [0, 1]."""


class Written(BaseModel):
    """What a file should hold: no value is converted ("false" is no false), numbers are finite, keys are known."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


W = TypeVar("W", bound=Written)


def read_json(path: Path, advice: str = "Make it again.") -> dict[str, Any]:
    """The JSON object in a UTF-8 file.

    Args:
        path: the file.
        advice: what to do where it is damaged, a sentence.

    Raises:
        DamagedError: it cannot be read, is no JSON object, or has NaN, infinity or more than :data:`MAX_DEPTH` levels.
        FileNotFoundError, NotADirectoryError: there is none.
    """
    try:
        found = parse_json(path.read_text(encoding="utf-8-sig"))  # editors of Windows put a mark in front
    except (FileNotFoundError, NotADirectoryError):
        raise
    except (OSError, ValueError) as error:
        raise DamagedError(f"{path} cannot be read: {error}", advice) from error
    if not isinstance(found, dict):
        raise DamagedError(f"{path} holds a {type(found).__name__}, no JSON object", advice)
    return found


def parse_json(text: str | bytes) -> Any:
    """``json.loads`` without NaN, infinity and endless nesting.

    Raises:
        ValueError: it is no such JSON.
    """
    try:
        found = json.loads(text, parse_constant=_no_constant, parse_float=_finite, parse_int=_whole)
    except RecursionError:
        raise ValueError(f"more than {MAX_DEPTH} levels of nesting") from None
    check_depth(found)
    return found


def check_depth(values: Any) -> None:
    """Refuse nested lists and mappings of more than :data:`MAX_DEPTH` levels, or more than :data:`MAX_VALUES` values.

    Raises:
        ValueError: there are more.
    """
    level, count = [values], 0
    for _ in range(MAX_DEPTH):
        level = [
            item
            for value in level
            if isinstance(value, dict | list)
            for item in (value.values() if isinstance(value, dict) else value)
        ]
        count += len(level)
        if count > MAX_VALUES:  # a few lines of YAML can refer to themselves into billions
            raise ValueError(f"more than {MAX_VALUES} values")
        if not level:
            return
    raise ValueError(f"more than {MAX_DEPTH} levels of nesting")


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no finite number")


def _finite(text: str) -> float:
    return float(text) if math.isfinite(float(text)) else _no_constant(text)


def _whole(text: str) -> int:
    # Python refuses more than some thousand digits with advice for programmers.
    return int(text) if len(text) < MAX_DIGITS else _no_constant(f"{text[:20]}…")


def as_written(model: type[W], record: dict[str, Any], path: Path, advice: str = "Make it again.") -> W:
    """A record held against what it should be.

    Raises:
        DamagedError: a value is missing, unknown, or of another type or range; the first one is named.
    """
    try:
        # By way of JSON, whose strings may be an enumeration's values and whose lists a tuple's.
        return model.model_validate_json(json.dumps(record))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the record"
        raise DamagedError(f"{path} is damaged ({place}: {first['msg']})", advice) from error
