"""realignkit: make text-to-image diffusion models draw what the prompt says (RealignDiff).

>>> from realignkit import Realigner
>>> result = Realigner.from_pretrained("micro_256")("a red book and a yellow pen", seed=42)  # doctest: +SKIP
>>> result.refined.show()  # doctest: +SKIP

Importing this package imports no torch; names load on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from realignkit.attention.config import ModulationConfig
    from realignkit.contracts import (
        VQA,
        Generator,
        Metric,
        Options,
        Plugin,
        PromptSet,
        Reward,
        Scorer,
        Segmenter,
        Tagger,
    )
    from realignkit.errors import (
        ModelError,
        OptionError,
        OutputError,
        PluginError,
        PromptError,
        RealignKitError,
        ScorerError,
    )
    from realignkit.hookspecs import hookimpl as hookimpl
    from realignkit.realigner import Realigner
    from realignkit.realignment import Realignment
    from realignkit.refl import ReFLConfig, ReFLTrainer
    from realignkit.registry import Registry, default_registry
    from realignkit.types import Answer, Layout, Likelihood, LocalCaption, Segment, Tag

__version__ = "0.2.0"
"""Of the package."""

_HOME = {
    "attention.config": ("ModulationConfig",),
    "contracts": (
        *("VQA", "Generator", "Metric", "Options", "Plugin", "PromptSet", "Reward", "Scorer", "Segmenter", "Tagger"),
    ),
    "errors": (
        *("ModelError", "OptionError", "OutputError", "PluginError", "PromptError", "RealignKitError", "ScorerError"),
    ),
    "hookspecs": ("hookimpl",),
    "realigner": ("Realigner",),
    "refl": ("ReFLConfig", "ReFLTrainer"),
    "registry": ("Registry", "default_registry"),
    "types": ("Answer", "Layout", "Likelihood", "LocalCaption", "Realignment", "Segment", "Tag"),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__all__ = ["__version__", *_MODULE_OF]


KINDS = ("generator", "reward", "tagger", "scorer", "segmenter", "vqa", "metric", "prompts")
"""The kinds of plugin, by name; each has a registering hook: ``register_<kind>s``, but ``register_vqa`` and
``register_prompts``."""


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'realignkit' has no attribute '{name}'")
    return getattr(importlib.import_module(f"realignkit.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
