"""A plugin of pytest's: fixtures for tests of plugins. It comes with realignkit; ``-p no:realignkit`` leaves it out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from PIL.Image import Image

    from realignkit.realigner import Realigner


@pytest.fixture
def tiny_images() -> list[Image]:
    """Four pictures (RGB, 64 x 64), always the same; see :func:`realignkit.testing.tiny_images`."""
    from realignkit.testing import examples

    return examples.tiny_images()


@pytest.fixture
def tiny_prompts() -> list[str]:
    """The prompts of ``tiny_images``, in their order."""
    from realignkit.testing import examples

    return list(examples.PROMPTS)


@pytest.fixture
def hostile_images() -> list[Image]:
    """Pictures (RGB) of allowed sizes and contents that nobody thinks of."""
    from realignkit.testing import examples

    return examples.hostile_images()


@pytest.fixture
def hostile_prompts() -> list[str]:
    """Prompts full of signs, in other scripts, without an object, very long."""
    from realignkit.testing import examples

    return list(examples.HOSTILE_PROMPTS)


@pytest.fixture(scope="session")
def micro_realigner() -> Realigner:
    """The embedded model with its companions, of ten steps; ``micro_realigner.with_(tagger=Mine())`` tries a plugin."""
    from realignkit.realigner import Realigner

    sampling: dict[str, Any] = {"num_inference_steps": 10}
    return Realigner.from_pretrained("micro", sampling=sampling)
