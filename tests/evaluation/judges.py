"""Metrics for tests of evaluations: of single pictures, with groups and a sum of its own, and of whole sets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from realignkit.contracts import Metric
from realignkit.named import Named

PROMPTS = ["a red book", "a blue pen", "an unknown thing"]


def levels(image: Any) -> np.ndarray:
    return np.asarray(image.convert("RGB"), np.float64).mean((0, 1)) / 255


class Redness(Metric):
    """How red a picture is; a metric of elements, whose total is that of its questions, not of its pictures."""

    def judge_each(self, images, prompts):
        values = [levels(image) for image in images]
        return [
            {
                "red": float(red > 0.5),
                "colour/red": red,
                **({"colour/blue": blue} if "blue" in prompt else {}),
                "details": [{"question": "is it red?", "answer": f"{red:.2f}", "right": bool(red > 0.5)}],
            }
            for (red, _, blue), prompt in zip(values, prompts, strict=True)
        ]

    def summarise(self, records):
        questions = [detail["right"] for record in records for detail in record["details"]]
        return {"red": float(np.mean([r["red"] for r in records])), "asked": float(len(questions) / len(records))}

    def can_judge(self, prompt):
        return "unknown" not in prompt

    def identity(self):
        return {"template": "is it red?"}

    def update(self, images, prompts):
        raise AssertionError("judge_each is there")

    def compute(self):
        raise AssertionError("judge_each is there")

    def merge(self, other):
        raise AssertionError("judge_each is there")


class Spread(Metric):
    """Variance of the pictures' levels: of the set as a whole."""

    def __init__(self) -> None:
        super().__init__()
        self.restore({"sums": np.zeros(3), "squares": np.zeros(3), "count": np.array(0)})

    def update(self, images, prompts):
        for image in images:
            self.sums, self.squares = self.sums + levels(image), self.squares + levels(image) ** 2
            self.count = self.count + 1

    def compute(self):
        mean = self.sums / self.count
        return {"spread": float((self.squares / self.count - mean**2).sum()), "n": float(self.count)}

    def merge(self, other):
        self.sums, self.squares = self.sums + other.sums, self.squares + other.squares
        self.count = self.count + other.count

    def state(self):
        return {"sums": self.sums, "squares": self.squares, "count": self.count}

    def restore(self, state):
        self.sums, self.squares, self.count = state["sums"], state["squares"], state["count"]


def metrics() -> list[Named]:
    """One of each kind."""
    return [Named("metric", "redness", Redness()), Named("metric", "spread", Spread())]


def results(out: Path) -> dict[str, Any]:
    """What an evaluation has kept: of each picture, and of all together."""
    record = json.loads((out / "eval.json").read_text())
    return {"lines": (out / "pictures.jsonl").read_bytes(), "whole": record["whole"]}
