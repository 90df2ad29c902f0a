"""What ordinary plugins are called with and answer, as JSON values and arrays: what a channel carries."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator, Mapping
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from realignkit import layout
from realignkit.errors import PluginError, with_article

_TYPE, _VALUE = "type", "value"


@dataclasses.dataclass(frozen=True)
class Held:
    """A plugin that the other end holds, by its number there."""

    number: int


_CLASSES = {
    made.__name__: made
    for made in (
        *(layout.Tag, layout.LocalCaption, layout.Segment, layout.Layout, layout.Truth, layout.Expected),
        *(layout.Likelihood, Held),
    )
}


def pack(value: Any) -> Any:
    """A value as JSON has it, with numpy arrays anywhere in it.

    Raises:
        PluginError: it is none that a contract knows.
    """
    if isinstance(value, Enum):
        return _typed(type(value).__name__, value.value)
    if value is None or isinstance(value, bool | int | float | str | np.ndarray):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, list):
        return [pack(each) for each in value]
    if isinstance(value, tuple):
        return _typed("tuple", [pack(each) for each in value])
    if isinstance(value, set | frozenset):
        return _typed(type(value).__name__, [pack(each) for each in value])
    if isinstance(value, Mapping):
        return _typed("dict", [[pack(key), pack(each)] for key, each in value.items()])
    if isinstance(value, Image.Image):
        return _typed("Image", np.asarray(value.convert("RGB")))
    if isinstance(value, Path):
        return str(value)
    if type(value).__name__ in _CLASSES:
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return _typed(type(value).__name__, {name: pack(each) for name, each in fields.items()})
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        numbers = value.detach().cpu()
        return _typed("Tensor", (numbers.float() if numbers.dtype == torch.bfloat16 else numbers).numpy())
    if isinstance(value, Iterator):
        return pack(list(value))
    raise PluginError(
        f"{with_article(type(value).__name__)} cannot go to a plugin in a process of its own, or come back."
    )


def unpack(value: Any) -> Any:
    """What was packed."""
    if isinstance(value, list):
        return [unpack(each) for each in value]
    if not isinstance(value, dict):
        return value
    kind, inside = value[_TYPE], value[_VALUE]
    if kind == "Image":
        return Image.fromarray(inside)
    if kind == "Tensor":
        import torch

        return torch.from_numpy(inside)
    if kind == "dict":
        return {unpack(key): unpack(each) for key, each in inside}
    if kind in ("tuple", "set", "frozenset"):
        return {"tuple": tuple, "set": set, "frozenset": frozenset}[kind](unpack(each) for each in inside)
    made: Any = _CLASSES[kind]
    return made(**{name: unpack(each) for name, each in inside.items()}) if isinstance(inside, dict) else made(inside)


def _typed(kind: str, value: Any) -> dict[str, Any]:
    return {_TYPE: kind, _VALUE: value}
