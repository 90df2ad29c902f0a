"""Objects as a person changes them."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from realignkit.errors import OptionError
from realignkit.types import Layout, Likelihood, LocalCaption, Segment
from realignkit.ui.objects import added, changed, differences, layout_of, mask_of, objects_of

BOOK = LocalCaption("book", "a red book", Likelihood.CERTAIN)
PEN = LocalCaption("pen", "a pen", Likelihood.UNLIKELY)


@pytest.fixture
def objects():
    mask = np.zeros((4, 6), dtype=bool)
    mask[:2] = True
    return objects_of((BOOK, PEN), Layout((Segment(BOOK, mask, 0.7),)), (6, 4))


def test_what_was_not_found_has_an_empty_mask(objects):
    assert [item.caption.tag for item in objects] == ["book", "pen"]
    assert objects[1].mask.shape == (4, 6) and not objects[1].mask.any()


def test_unlikely_and_unplaced_objects_do_not_act(objects):
    everywhere = np.ones((4, 6), dtype=bool)
    painted = (objects[0], changed(objects[1], mask=everywhere))
    assert [item.caption.tag for item in layout_of(objects)] == ["book"]
    assert [item.caption.tag for item in layout_of(painted)] == ["book"]
    assert [item.caption.tag for item in layout_of(painted, with_unlikely=True)] == ["book", "pen"]


def test_each_change_is_told_and_nothing_else_changes(objects):
    other = (changed(objects[0], caption=" a blue book ", likelihood="possible"), objects[1])
    assert other[0].caption == LocalCaption("book", "a blue book", Likelihood.POSSIBLE)
    assert other[0].mask is objects[0].mask
    assert differences(objects, objects) == ()
    assert differences(objects, other) == ("'a red book' is called 'a blue book' and is possible, not certain",)
    painted = (changed(objects[0], mask=~objects[0].mask), *added(objects[1:], "a cup", (6, 4)))
    assert differences(objects, painted) == (
        "'a red book' has another mask (50% of the picture, not 50%)",
        "'a cup' was added (certain)",
    )
    assert differences(objects, objects[1:]) == ("'a red book' was deleted",)


def test_a_second_of_a_kind_has_a_tag_of_its_own(objects):
    twice = added(added(objects, "book", (6, 4)), "book", (6, 4))
    assert [item.caption.tag for item in twice] == ["book", "pen", "book 2", "book 3"]
    assert {item.caption.caption for item in twice[2:]} == {"book"}


def test_bad_values_are_refused_in_words(objects):
    with pytest.raises(OptionError, match="the local caption is empty"):
        changed(objects[0], caption="  ")
    with pytest.raises(OptionError, match="a likelihood is certain, possible, unlikely, not 'sure'"):
        changed(objects[0], likelihood="sure")
    with pytest.raises(OptionError, match=r"a mask is bool \(4, 6\)"):
        changed(objects[0], mask=np.zeros((6, 4), dtype=bool))
    with pytest.raises(OptionError, match="the local caption is empty"):
        added(objects, "", (6, 4))


def test_a_mask_is_what_is_bright_and_opaque():
    picture = Image.new("RGBA", (4, 2), (255, 255, 255, 0))
    picture.paste((255, 255, 255, 255), (0, 0, 2, 2))
    picture.putpixel((0, 0), (20, 20, 20, 255))
    assert mask_of(picture, (4, 2)).tolist() == [[False, True, False, False], [True, True, False, False]]
    assert mask_of(picture, (8, 4)).shape == (4, 8)
