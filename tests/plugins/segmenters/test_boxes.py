"""Box overlap and suppression against pixel counting and a plain loop."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from realignkit_plugins.segmenters.boxes import box_iou, from_centres, nms

SIDE = 20


def boxes(count: int, seed: int) -> torch.Tensor:
    """Whole-number boxes in a grid of SIDE cells, of which pixels can be counted."""
    corners = np.sort(np.random.default_rng(seed).integers(0, SIDE, (count, 2, 2)), axis=1)
    return torch.tensor(corners.transpose(0, 1, 2).reshape(count, 4), dtype=torch.float32)


def pixels(box: torch.Tensor) -> np.ndarray:
    mask = np.zeros((SIDE, SIDE), dtype=bool)
    left, top, right, bottom = (int(side) for side in box)
    mask[top:bottom, left:right] = True
    return mask


def test_overlap_is_that_of_the_pixels():
    first, second = boxes(15, 0), boxes(12, 1)
    got = box_iou(first, second)
    for i, one in enumerate(first):
        for j, other in enumerate(second):
            a, b = pixels(one), pixels(other)
            want = (a & b).sum() / (a | b).sum() if (a | b).any() else 0.0
            assert float(got[i, j]) == pytest.approx(want, abs=1e-6)


@pytest.mark.parametrize("threshold", [0.0, 0.2, 0.5, 1.0])
def test_suppression_by_a_plain_loop(threshold: float):
    candidates = boxes(40, 2)
    scores = torch.rand(40, generator=torch.Generator().manual_seed(0)).mul(20).round() / 20  # with ties
    overlap = box_iou(candidates, candidates)
    kept: list[int] = []
    for i in sorted(range(40), key=lambda i: (-float(scores[i]), i)):
        if all(overlap[i, j] <= threshold for j in kept):
            kept.append(i)
    assert nms(candidates, scores, threshold).tolist() == kept


def test_nothing_to_suppress():
    assert nms(torch.zeros(0, 4), torch.zeros(0), 0.5).tolist() == []


def test_centres_to_corners():
    centres = torch.tensor([[0.5, 0.5, 0.5, 1.0], [0.0, 1.0, 0.4, 0.2]])
    # The second is half outside the picture.
    want = torch.tensor([[10.0, 0, 30, 20], [0, 18, 8, 20]])
    torch.testing.assert_close(from_centres(centres, 40, 20), want)
