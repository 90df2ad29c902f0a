"""Boxes of detected objects: overlap, and non-maximum suppression without torchvision.

Boxes are float (n, 4): left, top, right, bottom, in one unit.
"""

from __future__ import annotations

import torch
from torch import Tensor


def box_iou(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union of every pair: (n, 4) and (m, 4) to float (n, m) in [0, 1]; 0 where both are empty."""
    corner = torch.maximum(first[:, None, :2], second[None, :, :2])
    other = torch.minimum(first[:, None, 2:], second[None, :, 2:])
    common = (other - corner).clamp_min(0).prod(-1)
    union = _area(first)[:, None] + _area(second)[None] - common
    return torch.where(union > 0, common / union.clamp_min(torch.finfo(union.dtype).tiny), torch.zeros_like(union))


def nms(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """Greedy non-maximum suppression.

    Args:
        boxes: (n, 4).
        scores: (n,).
        threshold: a box goes when it overlaps a better one that stays by more than this.

    Returns:
        int64 (m,): indices of the boxes that stay, best first; of equal scores the earlier box comes first.
    """
    overlap = box_iou(boxes, boxes) > threshold
    gone = torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
    kept = []
    for i in scores.argsort(descending=True, stable=True).tolist():
        if not gone[i]:
            kept.append(i)
            gone |= overlap[i]
    return torch.tensor(kept, dtype=torch.int64, device=boxes.device)


def from_centres(boxes: Tensor, width: int, height: int) -> Tensor:
    """(centre x, centre y, width, height) relative to the image, to corners in pixels, cut off at its borders."""
    centre, extent = boxes[:, :2], boxes[:, 2:]
    corners = torch.cat([centre - extent / 2, centre + extent / 2], dim=1).clamp(0, 1)
    return corners * corners.new_tensor([width, height, width, height])


def _area(boxes: Tensor) -> Tensor:
    return (boxes[:, 2:] - boxes[:, :2]).clamp_min(0).prod(-1)
