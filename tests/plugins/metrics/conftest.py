from __future__ import annotations

import pytest
from PIL import Image

from realignkit.registry import default_registry
from tests.plugins.metrics.answerers import Plugin


@pytest.fixture
def scripted():
    """The registry knows a question answerer of the tests."""
    plugin = Plugin()
    default_registry().register(plugin, "scripted")
    yield "scripted"
    default_registry().unregister(plugin)


@pytest.fixture
def dark():
    return Image.new("RGB", (8, 8), (10, 10, 10))


@pytest.fixture
def light():
    return Image.new("RGB", (8, 8), (240, 240, 240))
