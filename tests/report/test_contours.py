from __future__ import annotations

import itertools
import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from realignkit.report.contours import contours, dashes

masks = st.tuples(st.integers(1, 9), st.integers(1, 9)).flatmap(lambda shape: arrays(bool, shape))


def fill_even_odd(polygons, shape):
    """Scan-line filling of pixel centres: a second implementation, going the other way."""
    filled = np.zeros(shape, dtype=int)
    for polygon in polygons:
        for (x0, y0), (x1, y1) in zip(polygon, [*polygon[1:], polygon[0]], strict=True):
            if x0 == x1:  # every vertical side flips the pixels to its right
                filled[min(y0, y1) : max(y0, y1), x0:] += 1
    return filled % 2 == 1


@given(masks)
@settings(max_examples=150, deadline=None)
def test_filling_the_contours_gives_the_mask_back(mask):
    assert np.array_equal(fill_even_odd(contours(mask), mask.shape), mask)


@given(masks)
@settings(max_examples=50, deadline=None)
def test_contours_run_along_the_boundary_and_nowhere_else(mask):
    sides = np.abs(np.diff(np.pad(mask, 1).astype(int), axis=0)).sum()
    sides += np.abs(np.diff(np.pad(mask, 1).astype(int), axis=1)).sum()
    length = sum(math.dist(a, b) for p in contours(mask) for a, b in zip(p, [*p[1:], p[0]], strict=True))
    assert length == sides


def test_straight_runs_are_one_edge():
    assert [sorted(p) for p in contours(np.ones((4, 6), dtype=bool))] == [[(0, 0), (0, 4), (6, 0), (6, 4)]]


def test_dashes_cover_their_share_of_the_line_and_stay_on_it():
    square = [(0, 0), (100, 0), (100, 100), (0, 100)]
    pieces = list(dashes(square, 6, 4))
    lengths = [sum(math.dist(a, b) for a, b in itertools.pairwise(p)) for p in pieces]
    assert len(pieces) == 40
    assert all(math.isclose(length, 6) for length in lengths)
    for x, y in (point for piece in pieces for point in piece):
        assert any(math.isclose(v, edge, abs_tol=1e-9) for v in (x, y) for edge in (0, 100))


def test_a_dash_goes_round_the_corner():
    first, *_ = dashes([(0, 0), (4, 0), (4, 4), (0, 4)], 6, 2)
    assert first == ((0, 0), (4, 0), (4, 2))
