"""The fixtures are there for whoever tests a plugin, without a conftest, and cost nothing until one is asked for."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import entry_points

from tests.conftest import HANGS, ROOT

MODULE = "realignkit.testing.fixtures"
SEEN = """
import sys

def test_nothing_heavy_is_imported():
    assert not {"torch", "numpy", "PIL", "pydantic"} & set(sys.modules)

def test_images(tiny_images, tiny_prompts, hostile_images, hostile_prompts):
    assert len(tiny_images) == len(tiny_prompts) == 4
    assert {image.size for image in tiny_images} == {(64, 64)}
    assert (1, 1) in {image.size for image in hostile_images}
    assert any("\\n" in prompt for prompt in hostile_prompts)

def test_a_realigner(micro_realigner, tiny_prompts):
    result = micro_realigner(tiny_prompts[0], seed=1)
    assert result.refined.size == (64, 64)
    assert result.plugins["tagger"] == "micro"
"""


def pytest_in(folder, *arguments, path=()):
    """pytest as an author runs it; where the installed package does not announce the fixtures yet, ``-p`` does."""
    known = any(point.value == MODULE for point in entry_points(group="pytest11"))
    paths = [*path, ROOT, ROOT / "plugins"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))}
    options = ["-q", "-p", "no:cacheprovider", *(() if known else ("-p", MODULE)), *arguments]
    return subprocess.run(
        [sys.executable, "-m", "pytest", *options],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=HANGS,
    )  # fmt: skip


def test_an_authors_tests(tmp_path):
    (tmp_path / "test_seen.py").write_text(SEEN)
    done = pytest_in(tmp_path)
    assert done.returncode == 0, done.stdout
    assert "3 passed" in done.stdout


def test_what_each_is_for_is_listed(tmp_path):
    listed = pytest_in(tmp_path, "--fixtures").stdout
    for name in ("tiny_images", "tiny_prompts", "hostile_images", "hostile_prompts", "micro_realigner"):
        assert name in listed
