"""Modulated attention (eqs. 7-10): the maths, its installation in diffusers' networks, and sampling with it.

Where to find what: :mod:`.config` every option, :mod:`.modulation` the equations, :mod:`.regions` masks at attention
resolution, :mod:`.processor` diffusers (:mod:`.joint_processor` where text and image are one sequence), :mod:`.sampler`
refined images; coarse ones are :mod:`realignkit.pipelines`'.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from realignkit.attention.config import ModulationConfig

if TYPE_CHECKING:
    from realignkit.attention.processor import modulate
    from realignkit.attention.regions import Regions
    from realignkit.attention.sampler import RefineResult, refine
    from realignkit.attention.state import ModulatedAttention
    from realignkit.pipelines.families import attention_family
    from realignkit.pipelines.generate import generate

__all__ = [
    "ModulatedAttention",
    "ModulationConfig",
    "RefineResult",
    "Regions",
    "attention_family",
    "generate",
    "modulate",
    "refine",
]

# Lazily, so that the options can be shown without importing torch.
_HOMES = {
    "ModulatedAttention": "attention.state",
    "modulate": "attention.processor",
    "Regions": "attention.regions",
    "RefineResult": "attention.sampler",
    "attention_family": "pipelines.families",
    "generate": "pipelines.generate",
    "refine": "attention.sampler",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"realignkit.{_HOMES[name]}"), name)
