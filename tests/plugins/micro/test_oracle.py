"""The oracle's language, and its judgement on pictures whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from realignkit.errors import ImageError
from realignkit_plugins.micro.oracle import Detection, Oracle, expected, fully_right, in_vocabulary, share_right
from realignkit_plugins.micro.world import caption, render, scene


def test_expected_counts_objects() -> None:
    assert expected("a red book and a yellow pen") == (("book", "red", 1), ("pen", "yellow", 1))
    assert expected("two brown sheep and an orange cup on a desk") == (("sheep", "brown", 2), ("cup", "orange", 1))
    assert expected("Three green benches") == (("bench", "green", 3),)
    with pytest.raises(ValueError, match="no object"):
        expected("a photo of nothing")


@pytest.mark.parametrize(
    ("prompt", "inside"),
    [
        ("a red car and a white sheep", True),
        ("A red car, a blue dog and a green cup", True),
        ("a red car and a metallic sphere", False),
        ("a red car on a blue desk", False),
        ("A red apple and yellow bananas", False),
        ("", False),
    ],
)
def test_vocabulary(prompt: str, inside: bool) -> None:
    assert in_vocabulary(prompt) is inside


def test_fully_right_wants_every_object_in_its_colour_as_often_as_said() -> None:
    red_book, yellow_pen = (Detection(noun, colour, 0.9, 0, 0) for noun, colour in (("book", "red"), ("pen", "yellow")))
    prompt = "a red book and a yellow pen"
    assert fully_right(prompt, [red_book, yellow_pen, red_book])
    assert not fully_right(prompt, [red_book])
    assert share_right(prompt, [red_book]) == 0.5
    assert not fully_right("two red books", [red_book])
    assert not fully_right(prompt, [Detection("book", "yellow", 0.9, 0, 0), Detection("pen", "red", 0.9, 0, 0)])


def test_the_embedded_oracle_reads_renderings_and_is_not_fooled_by_swapped_colours() -> None:
    oracle, rng = Oracle.load(), np.random.default_rng(0)
    drawn = [scene(909, index, "all") for index in range(150)]
    found = oracle.detect([Image.fromarray(render(s).image) for s in drawn])
    right = [fully_right(caption(s, rng), d) for s, d in zip(drawn, found, strict=True)]
    assert np.mean(right) > 0.9
    swapped = [
        fully_right(f"a {s.things[1].colour} {s.things[0].noun} and a {s.things[0].colour} {s.things[1].noun}", d)
        for s, d in zip(drawn, found, strict=True)
        if len(s.things) == 2 and s.things[0].colour != s.things[1].colour and s.things[0].noun != s.things[1].noun
    ]
    assert len(swapped) > 20
    assert np.mean(swapped) < 0.05


def test_a_larger_picture_is_judged_as_its_average_over_squares() -> None:
    oracle = Oracle.load()
    small = [Image.fromarray(render(scene(909, index, "all")).image) for index in range(8)]
    large = [image.resize((256, 256), Image.Resampling.NEAREST) for image in small]
    assert oracle.detect(large) == oracle.detect(small)
    assert (oracle.features([*large[:2], *small[2:]]) == oracle.features(small)).all()
    wide = [image.resize((96, 64)) for image in small]
    assert oracle.features(wide).shape == (8, 64)


@pytest.mark.parametrize("size", [(90, 40), (100, 100), (130, 64)])
def test_a_picture_of_another_shape_is_refused_in_words(size: tuple[int, int]) -> None:
    oracle = Oracle.load()
    for looks in (oracle.detect, oracle.features):
        with pytest.raises(ImageError, match=rf"^a picture of {size[0]} x {size[1]} pixels is none of the embedded"):
            looks([Image.new("RGB", size)])
