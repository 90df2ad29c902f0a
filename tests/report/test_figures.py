from __future__ import annotations

import base64
import io
import sys
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from realignkit.errors import OptionError
from realignkit.evaluation.pictures import Picture
from realignkit.report.figures import Grid, compare, steps, write_figure

HOSTILE = "$\\frac{1}{0}$ a_b^c <script>&amp; 猫 " + "long " * 30 + "\x07\u202eend"
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def picture(tmp_path):
    """Makes a picture in a file, of one colour."""

    def make(prompt, seed=1, colour="red", size=(16, 16), index=1):
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.png"
        Image.new("RGB", size, colour).save(path)
        return Picture(path.stem, prompt, seed, path, index)

    return make


def colours(grid):
    return [[cell.getpixel((0, 0)) for cell in row] for row in grid.cells]


RED, BLUE, LIME = (255, 0, 0), (0, 0, 255), (0, 255, 0)


def test_a_row_for_each_prompt_and_seed_and_a_column_for_each_system(picture):
    base = [picture("a cat"), picture("a dog"), picture("a cat", seed=2)]
    ours = [picture("a cat", 2, "lime"), picture("a dog", 1, "blue"), picture("a cat", 1, "blue")]
    grid = compare({"base": base, "ours": ours})
    assert grid.columns == ("base", "ours")
    assert grid.rows == ("a cat\n(seed 1)", "a dog\n(seed 1)", "a cat\n(seed 2)")
    assert colours(grid) == [[RED, BLUE], [RED, BLUE], [RED, LIME]]
    assert grid.notes == ()


def test_what_is_left_out_is_said(picture):
    base = [picture("a cat"), picture("a dog"), picture("a pen")]
    ours = [picture("a cat"), picture("a dog"), picture("a cup")]
    grid = compare({"base": base, "ours": ours}, most=1)
    assert grid.rows == ("a cat\n(seed 1)",)
    assert grid.notes == (
        "left out: 'a pen' (seed 1): no picture in 'ours'",
        "left out: 'a cup' (seed 1): no picture in 'base'",
        "left out: 1 more that all have; --rows shows more",
    )


def test_prompts_are_chosen_in_the_order_that_is_asked_for(picture):
    system = {"base": [picture("a cat"), picture("a dog"), picture("a pen")]}
    assert compare(system, ["a pen", "a cat"]).rows == ("a pen\n(seed 1)", "a cat\n(seed 1)")
    with pytest.raises(OptionError, match="no system has a picture of 'a cup'"):
        compare(system, ["a cup"])


def test_without_seeds_pictures_are_matched_by_their_order(picture):
    known = [picture("a cat", 7), picture("a cat", 8, "blue")]
    unknown = [picture("a cat", None, "lime"), picture("a cat", None)]
    grid = compare({"base": known, "ours": unknown})
    assert grid.rows == ("a cat", "a cat\n(no. 2)")
    assert colours(grid) == [[RED, LIME], [BLUE, RED]]


def test_nothing_in_common_is_refused(picture):
    with pytest.raises(OptionError, match="'base' and 'ours' have no prompt and seed in common"):
        compare({"base": [picture("a cat")], "ours": [picture("a dog")]})
    with pytest.raises(OptionError, match="at least one system"):
        compare({})


def test_the_steps_are_figure_nine(realignment):
    grid = steps([realignment, replace(realignment, accepted=False, tags=())])
    assert grid.columns == ("coarse image", "tags and captions", "layout", "refined image")
    assert grid.rows[0] == "a red book and a yellow pen\n(seed 42)" and grid.rows[1].endswith("not accepted)")
    coarse, found, layout, refined = grid.cells[0]
    assert (coarse, refined) == (realignment.coarse, realignment.refined)
    assert found == (
        "book: a red book (certain)",
        "pen: a yellow pen (certain)",
        "desk: a desk (possible)",
        "banana: a banana (unlikely)",
    )
    assert layout.size != coarse.size
    assert grid.cells[1][1] == ("no tag",)
    with pytest.raises(OptionError, match="at least one realignment"):
        steps([])


def noise(size):
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


def test_all_three_formats_are_written_and_are_the_same_again(tmp_path):
    grid = Grid(("one", "two"), ("a cat",), ((noise((20, 30)), noise((30, 20))),))
    for name in ("first", "again"):
        assert write_figure(grid, [tmp_path / f"{name}.{kind}" for kind in ("png", "svg", "pdf")], "title") == []
    for kind, start in (("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")):
        content = (tmp_path / f"first.{kind}").read_bytes()
        assert content.startswith(start) and content == (tmp_path / f"again.{kind}").read_bytes()


def test_labels_are_the_texts_that_were_given(tmp_path):
    grid = Grid(("$base$", "ours & theirs"), (HOSTILE,), ((noise((8, 8)), ("book: $x^2$ <b>",)),))
    notes = write_figure(grid, [tmp_path / "figure.svg", tmp_path / "figure.pdf"], HOSTILE)
    texts = [element.text for element in ElementTree.parse(tmp_path / "figure.svg").iter(f"{SVG}text")]
    drawn = " ".join(texts)
    for part in ("$base$", "ours & theirs", "$\\frac{1}{0}$", "a_b^c", "<script>&amp;", "猫", "book: $x^2$ <b>"):
        assert part in drawn
    assert drawn.count("long") == 30 and "\ufffd\ufffdend" in drawn
    assert all("猫" in note and "SVG" in note for note in notes)  # where no font here has it
    assert write_figure(grid, [tmp_path / "figure.svg"], "title") == []


def test_long_labels_make_their_row_higher_rather_than_shorter(tmp_path):
    def height(label):
        write_figure(Grid(("base",), (label,), ((noise((8, 8)),),)), [tmp_path / "figure.png"], "title")
        return Image.open(tmp_path / "figure.png").height

    assert height("a cat " * 5) == height("a cat")
    assert height("a cat " * 200) > 2 * height("a cat")


def test_small_pictures_keep_hard_edges_and_large_ones_their_pixels(tmp_path):
    checks = Image.fromarray(np.tile(np.array([[0, 255], [255, 0]], dtype=np.uint8), (4, 4)))
    write_figure(Grid(("base",), ("a cat",), ((checks,),)), [tmp_path / "figure.png"], "title")
    part = np.asarray(Image.open(tmp_path / "figure.png").convert("L"))
    picture = part[-300:-20, -280:-20]
    assert np.isin(picture, (0, 255)).mean() > 0.99
    write_figure(Grid(("base",), ("a cat",), ((noise((900, 900)),),)), [tmp_path / "large.png"], "title")
    assert Image.open(tmp_path / "large.png").width > 900


def test_vector_formats_hold_every_pixel(tmp_path):
    large = noise((500, 400))
    write_figure(Grid(("base",), ("a cat",), ((large,),)), [tmp_path / "figure.svg"], "title")
    (image,) = ElementTree.parse(tmp_path / "figure.svg").iter(f"{SVG}image")
    data = next(value for name, value in image.attrib.items() if name.endswith("href")).partition(",")[2]
    embedded = Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")
    assert embedded.size == large.size and (np.asarray(embedded) == np.asarray(large)).all()


def test_names_without_a_format_and_a_missing_matplotlib_are_refused(tmp_path, monkeypatch):
    grid = Grid(("base",), ("a cat",), ((noise((8, 8)),),))
    with pytest.raises(OptionError, match=r"'figure\.jpg' says no format"):
        write_figure(grid, ["figure.jpg"], "title")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(OptionError, match=r"realignkit\[plots\]"):
        write_figure(grid, [tmp_path / "figure.png"], "title")
