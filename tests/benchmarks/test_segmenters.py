"""The segmenter benchmark with segmenters whose answers are known."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from realignkit_plugins.micro.world import phrase, render, scene
from realignkit_plugins.micro.world.scenes import Scene, Thing
from realignkit_plugins.micro.world.vocabulary import COLOURS, NOUNS

COUNT = 12


@pytest.fixture
def benchmark(script):
    return script("segmenters")


class Knowing:
    """Answers with the world's own masks, looked up by picture; may grow them or be blind."""

    def __init__(self, *, blind: bool = False, everywhere: bool = False) -> None:
        self.blind, self.everywhere = blind, everywhere
        self.masks = {}
        for index in range(COUNT):
            drawn = scene(34, index, "all")
            rendering = render(drawn)
            named = zip((phrase(thing) for thing in drawn.things), rendering.masks, strict=False)
            self.masks[rendering.image.tobytes()] = dict(named)

    def __call__(self, image, phrases):
        own = self.masks[np.asarray(image).tobytes()]
        if self.blind:
            return [None] * len(phrases)
        return [(np.ones_like(own[text]) if self.everywhere else own[text], 1.0) for text in phrases]


def test_perfect_blind_and_everywhere(benchmark):
    pictures = benchmark.renderings(COUNT, ["phrase"])
    perfect, blind = benchmark.overlaps(Knowing(), pictures), benchmark.overlaps(Knowing(blind=True), pictures)
    assert perfect and {overlap for picture in perfect for overlap in picture} == {1.0}
    assert blind == [[None] * len(picture) for picture in perfect]
    areas = [float(mask.mean()) for masks in Knowing().masks.values() for mask in masks.values()]
    everywhere = benchmark.overlaps(Knowing(everywhere=True), pictures)
    assert set(np.round(np.concatenate(everywhere), 6)) <= set(np.round(areas, 6))


def test_what_is_not_found_counts_zero(benchmark):
    line = benchmark.row("x", [[1.0, None], [0.5, None]])
    assert line.startswith("| x | 4 | 2 | 50.0 % | 0.375 [")
    assert line.endswith("| 25.0 % |")


def test_objects_of_a_picture_are_no_draws_of_their_own(benchmark):
    found = [[value] for value in np.random.default_rng(6).random(80)]
    alone = benchmark.row("x", found).split(" | ")[4]
    assert benchmark.row("x", [picture * 3 for picture in found]).split(" | ")[4] == alone
    assert benchmark.row("x", [[0.5, 1.0]]).split(" | ")[4] == "0.750 [-]"
    assert benchmark.row("x", []) == "| x | 0 | 0 | - | - | - |"


def things(*pairs):
    return [Thing(noun, colour, (0, 0, 0), 0, 0, 8, False) for colour, noun in pairs]


def test_what_is_asked_for(benchmark):
    two = things(("red", "car"), ("blue", "dog"))
    assert benchmark.asked(two, "phrase") == benchmark.asked(two, "tag") == ["a red car", "a blue dog"]
    assert benchmark.asked(two, "exchanged") == ["a blue car", "a red dog"]
    every = ["phrase", "noun", "tag", "exchanged"]
    assert benchmark.lends_itself(two, every)
    for alike in (things(("red", "car"), ("blue", "car")), things(("red", "car"), ("red", "dog")), two[:1]):
        assert benchmark.lends_itself(alike, ["phrase"]) and not benchmark.lends_itself(alike, every)
    assert not benchmark.lends_itself(things(("red", "car"), ("red", "car")), ["phrase"])


def test_objects_by_the_colour_they_were_drawn_in(benchmark):
    here = np.ones((4, 4), bool)
    pictures = [
        benchmark.Picture(None, (), [here, None, here], [True, True, False]),
        benchmark.Picture(None, (), [None, here], [False, False]),
    ]
    found = [[0.9, 0.1], [None]]  # none for those whose place is unknown
    assert benchmark.split(pictures, found, True) == [[0.9], []]
    assert benchmark.split(pictures, found, False) == [[0.1], [None]]


ODDS = {
    "car": [3, 3, 3, -9, -9],
    "dog": [-9, 9, 3, 3, -9],
    "a red car": [-1, 2, -4, 5, 5],
    "a blue dog": [5, 1, -3, -9, 5],
    "cup": [-9] * 5,
    "a red cup": [9] * 5,
}


class Told:
    """A segmenter whose log-odds are told: a row of five pixels for each text."""

    options = SimpleNamespace(threshold=0.5, min_area=0.0)

    def logits(self, image, texts):
        return torch.tensor([[ODDS[text]] for text in texts], dtype=torch.float32)

    def probabilities(self, image, texts):
        return self.logits(image, texts).sigmoid()


def test_by_tag_the_noun_claims_and_the_phrase_decides(benchmark):
    car, dog, cup, again = benchmark.ByTag(Told())(None, ["a red car", "a blue dog", "a red cup", "a red car"])
    assert car[0].tolist() == [[True, True, False, False, False]]  # the second pixel is more of a dog, less a blue one
    assert dog[0].tolist() == [[False, False, True, True, False]]
    assert cup is None and again[0] is car[0]
    assert car[1] == pytest.approx(1 / (1 + np.exp(-3)))
    assert benchmark.ByTag(Told())(None, []) == []


def test_by_noun_the_last_words_are_asked_for(benchmark):
    assert benchmark.ByNoun(lambda image, texts: texts)(None, ["a red car", "two blue dogs"]) == ["car", "dogs"]


def test_a_fitted_drawing_is_where_it_was_drawn(script):
    fitting = script("fitting")
    rng = np.random.default_rng(5)
    for noun in NOUNS[::4]:
        thing = Thing(noun, "red", COLOURS["red"], 9, 15, 33, bool(rng.random() < 0.5))
        rendering = render(Scene((thing,), background="grass"))
        blurred = Image.fromarray(rendering.image).resize((48, 48)).resize((64, 64))  # as a model draws: not quite
        x, y = thing.centre
        found = fitting.fit(np.asarray(blurred), noun, x + 3, y - 2)
        overlap = (found.mask & rendering.masks[0]).sum() / (found.mask | rendering.masks[0]).sum()
        assert overlap > 0.85, (noun, overlap)
        assert found.explained > 0.3


def test_no_drawing_fits_where_there_is_no_room(script):
    assert script("fitting").fit(np.zeros((8, 8, 3), np.uint8), "car", 4, 4) is None


def test_the_drawing_explains_nothing_of_another_object(script):
    fitting = script("fitting")
    rendering = render(Scene((Thing("banana", "yellow", COLOURS["yellow"], 12, 12, 36, False),)))
    other = fitting.fit(rendering.image, "elephant", 30, 30)
    own = fitting.fit(rendering.image, "banana", 30, 30)
    assert own.explained > other.explained + 0.3


def test_the_fit_finds_the_worlds_objects(benchmark):
    pictures = benchmark.renderings(5, ["fit"])
    found = benchmark.overlaps(benchmark.ByFit(None), pictures)
    assert pictures and min(value for picture in found for value in picture) > 0.75
