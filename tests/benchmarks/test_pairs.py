"""The rewards of careless pairs: the area under the ROC, and the command."""

from __future__ import annotations

import numpy as np
import pytest


@pytest.fixture(scope="module")
def pairs(script):
    """The script as a module."""
    return script("pairs")


def test_smoke(smoke):
    printed = smoke("pairs")
    assert "24 pairs, seed 9200" in printed
    assert printed.count("\n| ") == 10


def test_area_is_the_share_of_pairs_in_order(pairs):
    rewards = np.array([0.3, 0.1, 0.3, 0.7, 0.2, 0.2])
    right = np.array([True, False, False, True, True, False])
    wins = [(a > b) + 0.5 * (a == b) for a in rewards[right] for b in rewards[~right]]
    assert pairs.area(rewards, right) == pytest.approx(sum(wins) / len(wins))


def test_truth_is_whether_care_changes_the_caption(pairs):
    images, captions, right = pairs.draw(200, 5)
    assert len(images) == len(captions) == len(right) == 200
    # A tenth leaves one out, 3 % each lack or mistake a colour, 35 % swap, where the two differ and no rule forbids it.
    assert 0.49 < right.mean() < 0.8
    assert pairs.draw(200, 5)[1] == captions
