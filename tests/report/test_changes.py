"""What changed, in one sentence."""

from __future__ import annotations

import dataclasses

import pytest
from PIL import Image

from realignkit.report.changes import changed_share, what_changed
from realignkit.types import Layout


def test_the_share_counts_pixels_that_differ_to_be_seen():
    before = Image.new("RGB", (10, 10), (100, 100, 100))
    after = before.copy()
    after.paste((100, 100, 120), (0, 0, 10, 5))  # hardly
    after.paste((100, 160, 100), (0, 5, 10, 8))
    assert changed_share(before, after) == pytest.approx(0.3)
    assert changed_share(before, before) == 0


def test_the_sentence_names_objects_and_the_share(realignment):
    assert what_changed(realignment) == (
        "Drawn again from the same noise with “a red book” and “a yellow pen” in place: "
        "5% of the picture looks different."
    )


def test_the_sentence_where_nothing_acts_or_counts(realignment):
    nothing = dataclasses.replace(realignment, layout=Layout(), refined=realignment.coarse)
    assert what_changed(nothing).startswith("Nothing was changed")
    assert "not accepted" in what_changed(dataclasses.replace(realignment, accepted=False))
    same = dataclasses.replace(realignment, refined=realignment.coarse)
    assert "next to nothing looks different" in what_changed(same)
