"""Tag2Text, in the embedded world."""

from __future__ import annotations

from pathlib import Path

from realignkit_plugins.micro.train.recognize_anything import train_as


def train(out: Path, work: Path, seed: int = 0, steps: int | None = None) -> None:
    """Train, measure precision and recall on unseen scenes, save to ``out/tag2text``."""
    train_as("tag2text", out, work, seed, steps)
