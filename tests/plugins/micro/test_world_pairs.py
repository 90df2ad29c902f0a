"""``python -m realignkit_plugins.micro.world``: a folder of pictures and captions."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from realignkit_plugins.micro.oracle import Oracle, fully_right, in_vocabulary


@pytest.fixture
def draw(quick: Path) -> Callable[..., list[dict[str, str]]]:
    def run(out: Path, *options: str) -> list[dict[str, str]]:
        command = [quick / "python", "-m", "realignkit_plugins.micro.world", out, "--count", "12", *options]
        subprocess.run(command, check=True, capture_output=True)
        return [json.loads(line) for line in (out / "metadata.jsonl").read_text().splitlines()]

    return run


def test_captions_are_true_and_the_seed_decides(draw: Callable[..., list[dict[str, str]]], tmp_path: Path) -> None:
    lines = draw(tmp_path / "a", "--objects", "2")
    images = [Image.open(tmp_path / "a" / line["file_name"]).convert("RGB") for line in lines]
    plain = [(line["text"], image) for line, image in zip(lines, images, strict=True) if in_vocabulary(line["text"])]
    assert len(plain) >= 4
    seen = Oracle.load().detect([image for _, image in plain])
    assert all(fully_right(text, found) for (text, _), found in zip(plain, seen, strict=True))
    assert draw(tmp_path / "b", "--objects", "2") == lines
    assert draw(tmp_path / "c", "--objects", "2", "--seed", "1") != lines
    for line in lines:
        name = line["file_name"]
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_careless_captions_are_of_the_same_pictures_and_often_wrong(
    draw: Callable[..., list[dict[str, str]]], tmp_path: Path
) -> None:
    true, careless = (
        draw(tmp_path / name, "--objects", "2", "--count", "40", *options)
        for name, options in (("true", []), ("careless", ["--careless"]))
    )
    first = [line["file_name"] for line in true]
    assert first == [line["file_name"] for line in careless]
    assert all((tmp_path / "true" / n).read_bytes() == (tmp_path / "careless" / n).read_bytes() for n in first)
    images = [Image.open(tmp_path / "careless" / name).convert("RGB") for name in first]
    plain = [(c["text"], image) for c, image in zip(careless, images, strict=True) if in_vocabulary(c["text"])]
    seen = Oracle.load().detect([image for _, image in plain])
    right = sum(fully_right(text, found) for (text, _), found in zip(plain, seen, strict=True))
    assert 0.3 < right / len(plain) < 0.9
