"""How results show themselves: in a notebook, at the prompt, and held against each other."""

import io

import numpy as np
import pytest
from PIL import Image

from realignkit.types import Layout, Likelihood, LocalCaption, Realignment, Segment, Tag

EVIL = "<script>alert('x')</script>"


def made(**changed):
    mask = np.zeros((8, 8), bool)
    mask[:4] = True
    caption = LocalCaption(EVIL, f"a red {EVIL}", Likelihood.CERTAIN)
    parts = {
        "prompt": EVIL,
        "seed": 3,
        "coarse": Image.new("RGB", (8, 8), "red"),
        "tags": (Tag(EVIL, 0.5),),
        "captions": (caption,),
        "layout": Layout((Segment(caption, mask, 0.5),)),
        "refined": Image.new("RGB", (8, 8), "blue"),
        "conditioning": EVIL,
        "plugins": {"tagger": "x"},
        "notes": (EVIL,),
        "timings": {"tag": 0.5},
        "settings": {},
        "versions": {},
    }
    return Realignment(**{**parts, **changed})


def test_html_is_whole_and_escaped():
    html = made()._repr_html_()
    assert EVIL not in html and "&lt;script&gt;" in html
    assert html.count("data:image/png;base64,") == 2


def test_png_shows_both_pictures():
    image = Image.open(io.BytesIO(made()._repr_png_()))
    assert image.getpixel((0, 0)) == (255, 0, 0)
    assert image.getpixel((image.width - 1, 0)) == (0, 0, 255)


def test_repr_is_short():
    assert len(repr(made(prompt="a red cup"))) < 120
    assert len(repr(made(prompt="a " * 5000))) < 250
    assert "\n" not in repr(made().layout.segments[0])


def test_a_reloaded_realignment_equals_what_was_saved(tmp_path):
    one = made()
    again = Realignment.load(one.save(tmp_path / "a"))
    assert again == one and hash(again) == hash(one)
    assert again.layout == one.layout and again.layout.segments[0] == one.layout.segments[0]
    assert one != "text"


@pytest.mark.parametrize(
    "changed",
    [
        {"seed": 4},
        {"refined": Image.new("RGB", (8, 8), "green")},
        {"refined": Image.new("RGB", (9, 8), "blue")},
        {"layout": Layout()},
        {"notes": ()},
        {"accepted": False},
    ],
)
def test_what_differs_is_not_equal(changed):
    assert made() != made(**changed)
    other = np.ones((8, 8), bool)
    assert made().layout != Layout((Segment(made().captions[0], other, 0.5),))
