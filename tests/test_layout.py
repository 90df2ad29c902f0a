from __future__ import annotations

import numpy as np
import pytest

from realignkit.layout import Layout, Likelihood, LocalCaption, Segment


def test_scores_are_those_of_equation_6():
    assert [Likelihood(name).score for name in ("certain", "possible", "unlikely")] == [2.0, 0.5, 0.0]
    assert LocalCaption("book", "a red book", Likelihood.CERTAIN).score == 2.0


def test_area_is_the_share_of_the_image():
    mask = np.zeros((4, 5), bool)
    mask[:2, :3] = True
    assert Segment(LocalCaption("book", "book", Likelihood.POSSIBLE), mask).area == pytest.approx(6 / 20)


def test_layout_refuses_masks_of_different_shapes():
    caption = LocalCaption("book", "book", Likelihood.CERTAIN)
    one, other = Segment(caption, np.ones((4, 4), bool)), Segment(caption, np.ones((4, 5), bool))
    with pytest.raises(ValueError, match="one shape"):
        Layout((one, other))
    with pytest.raises(ValueError, match="one shape"):
        Layout((Segment(caption, np.ones((1, 4, 4), bool)),))
    layout = Layout((one, one))
    assert len(layout) == 2
    assert list(layout) == [one, one]
    assert len(Layout()) == 0
