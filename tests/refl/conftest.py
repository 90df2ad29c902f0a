"""Small real rewards, a tiny pipeline that may be changed, and a trainer made from them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from realignkit.cli._settings import nested
from realignkit.provenance import flat
from realignkit.refl.config import ALGORITHMS
from tests import tiny
from tests.refl.rewards import Colour

PROMPTS = ("a red book", "a yellow pen", "a red pen", "the book on the desk", "a yellow sign", "a pen and a book")

QUICK: dict[str, Any] = {
    "iterations": 2,
    "batch_size": 2,
    "refl.num_inference_steps": 4,
    "refl.gradient_steps": (2, 3),
    "refl.guidance_scale": 2.0,
    "raft.num_inference_steps": 4,
    "raft.guidance_scale": 2.0,
    "prior_images": 3,
    "lora.rank": 2,
    "learning_rate": 1e-3,
    "warmup_iterations": 0,
    "schedule": "constant",
    "validation.steps": 2,
    "validation.every": 1,
    "validation.samples": 2,
    "tracker": "none",
}


DRAWING = {"num_inference_steps": 2, "guidance_scale": 2.0, "candidates": 3}
QUICK_FEEDBACK: dict[str, dict[str, Any]] = {
    "dpo": {**DRAWING, "gap": 0.0},
    "nft": {**DRAWING, "pictures_at_once": 2},
    "grpo": {**DRAWING, "num_inference_steps": 3},
}
"""Of the algorithms that draw in rounds."""


def options_over_quick(**given: Any) -> dict[str, Any]:
    """:data:`QUICK`, without what belongs to an algorithm that is not trained, and the given options over it."""
    given = flat(given)
    trained = given.get("algorithm", "auto")
    kept = {name: value for name, value in QUICK.items() if name.split(".")[0] not in ALGORITHMS or trained == "auto"}
    own = {name: value for name, value in QUICK.items() if name.split(".")[0] == trained}
    own |= {f"{trained}.{name}": value for name, value in QUICK_FEEDBACK.get(trained, {}).items()}
    return nested({**kept, **own, **given})


@pytest.fixture
def pipeline() -> Any:
    """A tiny pipeline of its own: training changes it."""
    return tiny.build_pipeline()


def trainer(reward: Any = None, **given: Any) -> Any:
    """A ReFLTrainer on a fresh tiny pipeline; options over :data:`QUICK`, arguments of the trainer by their names."""
    from realignkit.refl import ReFLTrainer
    from realignkit.registry import Registry

    names = ("pipeline", "prompts", "out", "held_out", "judge", "names", "sampling", "prior", "registry")
    names = (*names, "on_step", "on_message", "generator_options")
    arguments = {name: given.pop(name) for name in names if name in given}
    arguments.setdefault("registry", Registry(discover=False))
    arguments.setdefault("prompts", PROMPTS)
    arguments.setdefault("held_out", ("a red desk", "a yellow book"))
    arguments.setdefault("sampling", {"num_inference_steps": 2})
    chosen = arguments.pop("pipeline", None) or tiny.build_pipeline()
    return ReFLTrainer(chosen, reward or Colour(), options_over_quick(**given), **arguments)


@pytest.fixture
def make_trainer(tmp_path: Path) -> Callable[..., Any]:
    """:func:`trainer` in a folder of the test's own."""
    return lambda reward=None, **given: trainer(reward, **{"out": tmp_path / "run", **given})
