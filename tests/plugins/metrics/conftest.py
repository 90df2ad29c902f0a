"""A cache of each test's own, pictures, Inception's weights as a file, and a question answerer of the tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from realignkit.registry import default_registry
from tests.plugins.metrics import inception as golden
from tests.plugins.metrics.answerers import Plugin


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REALIGNKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("REALIGNKIT_DATA", raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))


@pytest.fixture(scope="session")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights by the golden pack's recipe."""
    path = tmp_path_factory.mktemp("inception") / "recipe.pth"
    torch.save(golden.weights(), path)
    return path


def pictures(count: int, seed: int, tint: int = 0) -> list[Image.Image]:
    """Coloured noise, 12 x 10."""
    random = np.random.default_rng(seed)
    pixels = random.integers(0, 256, (count, 10, 12, 3)) + random.integers(-90, 90, (count, 1, 1, 3)) + tint
    return [Image.fromarray(each.clip(0, 255).astype(np.uint8)) for each in pixels]


def folder_of(images: list[Image.Image], folder: Path) -> Path:
    folder.mkdir(parents=True)
    for number, image in enumerate(images):
        image.save(folder / f"{number:03}.png")
    return folder


@pytest.fixture
def reference(tmp_path: Path) -> Path:
    return folder_of(pictures(10, 1), tmp_path / "reference")


@pytest.fixture
def scripted() -> Iterator[str]:
    """The registry knows a question answerer of the tests."""
    plugin = Plugin()
    default_registry().register(plugin, "scripted")
    yield "scripted"
    default_registry().unregister(plugin)


@pytest.fixture
def dark() -> Image.Image:
    return Image.new("RGB", (8, 8), (10, 10, 10))


@pytest.fixture
def light() -> Image.Image:
    return Image.new("RGB", (8, 8), (240, 240, 240))
