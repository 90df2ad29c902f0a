"""The segmenter benchmark with segmenters whose answers are known."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np

from realignkit_plugins.micro.world import phrase, render, scene
from realignkit_plugins.micro.world.scenes import Thing

_PATH = Path(__file__).parents[2] / "benchmarks" / "segmenters.py"
_SPEC = importlib.util.spec_from_file_location("segmenters_benchmark", _PATH)
assert _SPEC and _SPEC.loader
benchmark = importlib.util.module_from_spec(_SPEC)
sys.modules["segmenters_benchmark"] = benchmark
_SPEC.loader.exec_module(benchmark)

COUNT = 12


class Knowing:
    """Answers with the world's own masks, looked up by picture; may grow them or be blind."""

    def __init__(self, *, blind: bool = False, everywhere: bool = False) -> None:
        self.blind, self.everywhere = blind, everywhere
        self.masks = {}
        for index in range(COUNT):
            drawn = scene(benchmark.SEED, index, "all")
            rendering = render(drawn)
            named = zip((phrase(thing) for thing in drawn.things), rendering.masks, strict=False)
            self.masks[rendering.image.tobytes()] = dict(named)

    def __call__(self, image, phrases):
        own = self.masks[np.asarray(image).tobytes()]
        if self.blind:
            return [None] * len(phrases)
        return [(np.ones_like(own[text]) if self.everywhere else own[text], 1.0) for text in phrases]


def test_perfect_blind_and_everywhere():
    perfect, blind = benchmark.overlaps(Knowing(), COUNT), benchmark.overlaps(Knowing(blind=True), COUNT)
    assert perfect and {overlap for picture in perfect for overlap in picture} == {1.0}
    assert blind == [[None] * len(picture) for picture in perfect]
    areas = [float(mask.mean()) for masks in Knowing().masks.values() for mask in masks.values()]
    everywhere = benchmark.overlaps(Knowing(everywhere=True), COUNT)
    assert set(np.round(np.concatenate(everywhere), 6)) <= set(np.round(areas, 6))


def test_what_is_not_found_counts_zero():
    line = benchmark.row("x", [[1.0, None], [0.5, None]])
    assert line.startswith("| x | 4 | 2 | 50.0 % | 0.375 [")
    assert line.endswith("| 25.0 % |")


def test_objects_of_a_picture_are_no_draws_of_their_own():
    found = [[value] for value in np.random.default_rng(6).random(80)]
    alone = benchmark.row("x", found).split(" | ")[4]
    assert benchmark.row("x", [picture * 3 for picture in found]).split(" | ")[4] == alone
    assert benchmark.row("x", [[0.5, 1.0]]).split(" | ")[4] == "0.750 [-]"
    assert benchmark.row("x", []) == "| x | 0 | 0 | - | - | - |"


def things(*pairs):
    return [Thing(noun, colour, (0, 0, 0), 0, 0, 8, False) for colour, noun in pairs]


def test_what_is_asked_for():
    two = things(("red", "car"), ("blue", "dog"))
    assert benchmark.asked(two, "phrase") == ["a red car", "a blue dog"]
    assert benchmark.asked(two, "noun") == ["car", "dog"]
    assert benchmark.asked(two, "exchanged") == ["a blue car", "a red dog"]
    for alike in (things(("red", "car"), ("blue", "car")), things(("red", "car"), ("red", "dog")), two[:1]):
        assert benchmark.asked(alike, "noun") is benchmark.asked(alike, "exchanged") is None
    assert benchmark.asked(things(("red", "car"), ("red", "car")), "phrase") is None
