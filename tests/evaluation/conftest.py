"""Pictures to measure."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.evaluation.judges import PROMPTS


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve pictures of three prompts, four each, in a folder with metadata.jsonl."""
    random, rows = np.random.default_rng(1), []
    (tmp_path / "given").mkdir()
    for number in range(12):
        pixels = random.integers(256, size=(6 + 2 * (number % 2), 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "given" / f"{number}.png")
        rows.append({"file_name": f"{number}.png", "text": PROMPTS[number % 3]})
    (tmp_path / "given" / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "given"
