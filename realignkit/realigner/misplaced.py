"""Arguments that belong elsewhere, or nowhere, refused with where they go."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from typing import Any

from realignkit.attention.config import ModulationConfig
from realignkit.resolve import SamplingOptions

_AS_PARTS = {"model": "generator", "scorer": "scorers"}
"""What the constructor calls arguments of ``from_pretrained``."""


def refuse_misplaced(names: Iterable[str], function: Callable[..., Any], realigner: Any) -> None:
    """Refuse arguments that a function does not have.

    Args:
        names: of the arguments.
        function: whom they were given to; the class of realigners itself: ``with_``, which takes its arguments.
        realigner: the class of realigners.

    Raises:
        TypeError: there is one.
    """
    changing = function is realigner
    where = "realigner.with_" if changing else "Realigner.from_pretrained"
    for name in names:
        if changing and name in _AS_PARTS:
            raise TypeError(f"'{name}' is called {_AS_PARTS[name]} here: {where}({_AS_PARTS[name]}=…).")
        if not changing and name in inspect.signature(realigner.from_pretrained).parameters:
            raise TypeError(f"'{name}' is an option of the realigner, not of a call: {where}({name}=…).")
        for group, options in (("sampling", SamplingOptions), ("modulation", ModulationConfig)):
            if name in options.model_fields:
                raise TypeError(f"'{name}' is a {group} option: {where}({group}={{'{name}': …}}).")
        near = get_close_matches(name, inspect.signature(function).parameters, n=1)
        raise TypeError(f"there is no argument '{name}'{f'; did you mean {near[0]}' if near else ''}.")
