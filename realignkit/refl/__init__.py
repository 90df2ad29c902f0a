"""Eq. 5: fine-tuning a generator with a reward (ReFL), and watching that it is not exploited."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from realignkit.refl.config import PRESETS, ReFLConfig, preset
from realignkit.types import TrainResult, TrainState, Validation

if TYPE_CHECKING:
    from realignkit.refl.trainer import ReFLTrainer
    from realignkit.refl.validation import Judge

__all__ = ["PRESETS", "Judge", "ReFLConfig", "ReFLTrainer", "TrainResult", "TrainState", "Validation", "preset"]

_MODULE_OF = {"ReFLTrainer": "trainer", "Judge": "validation"}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'realignkit.refl' has no attribute '{name}'")
    return getattr(importlib.import_module(f"realignkit.refl.{_MODULE_OF[name]}"), name)
