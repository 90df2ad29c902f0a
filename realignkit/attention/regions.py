"""An image's objects as an attention layer sees them: which tokens name each, and which cells it fills.

:class:`Regions` is resolution-free; :class:`RegionMaps` is a batch of them at one attention layer's size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from realignkit.attention.config import MaskResize, Overlap
from realignkit.attention.modulation import area_fraction, likelihood_scores
from realignkit.errors import ModelError
from realignkit.pipelines import encoding
from realignkit.pipelines.phrases import Conditioning


@dataclass(frozen=True, eq=False)
class Regions:
    """The ``n`` objects of one image.

    Attributes:
        tokens: bool (K, n): token k of the conditioning text belongs to object i's phrase.
        masks: bool (n, H, W), any size.
        scores: float (n,): ``s_i`` of eq. 6.
        padding: bool (K,): tokens behind the text's end token, which ``mask_padding`` hides; None: none.
    """

    tokens: Tensor
    masks: Tensor
    scores: Tensor
    padding: Tensor | None = None

    def __post_init__(self) -> None:
        objects = self.scores.shape[0]
        if self.masks.ndim != 3 or self.tokens.ndim != 2 or {self.masks.shape[0], self.tokens.shape[1]} != {objects}:
            raise ValueError(
                f"regions of {objects} objects need tokens (K, {objects}) and masks ({objects}, H, W), "
                f"got {tuple(self.tokens.shape)} and {tuple(self.masks.shape)}"
            )

    @classmethod
    def none(cls, tokens: int) -> Regions:
        """No object at all: attention stays as it is. ``tokens``: the text's padded length K."""
        return cls(torch.zeros(tokens, 0).bool(), torch.zeros(0, 1, 1).bool(), torch.zeros(0))

    @cached_property
    def lifts(self) -> bool:
        """Whether eq. 7 changes anything: with every score 0 (or no object) it does not."""
        return bool((self.scores > 0).any())

    @cached_property
    def suppresses(self) -> bool:
        """Whether an unlikely object is named by the text, so that ``suppress_unlikely`` has something to do."""
        return bool((self.tokens.any(0) & (self.scores <= 0)).any())


def regions_of(pipeline: Any, conditioning: Conditioning, length: int | None = None) -> Regions:
    """The regions of an image whose text has been chosen: the pipeline's tokens, the layout's masks.

    Args:
        pipeline: whose tokenizers.
        conditioning: the image's text and segments.
        length: how many text tokens the network sees; None: what the encoders make.
    """
    length = length or encoding.padded_length(pipeline)
    if not conditioning.segments:
        return Regions.none(length)
    tokens = torch.zeros(length, len(conditioning.segments), dtype=torch.bool)
    for i, spans in enumerate(conditioning.places):
        for span in spans:
            tokens[span, i] = True
    padding = torch.ones(length, dtype=torch.bool)
    for reader in encoding.readers(pipeline):
        padding[encoding.stretch(reader, conditioning.text)] = False
    masks = torch.stack([torch.from_numpy(segment.mask.copy()) for segment in conditioning.segments])
    scores = torch.tensor([segment.caption.score for segment in conditioning.segments])
    return Regions(tokens, masks.bool(), scores, padding)


@dataclass(frozen=True, eq=False)
class RegionMaps:
    """A batch of regions at one attention resolution, N = h * w cells row by row; absent objects are all zero.

    Attributes:
        cells: ``P_q``, bool (batch, N, n). tokens: phrase membership, bool (batch, K, n).
        score: ``S`` of eq. 9, float (batch, N); 0 for images that are not to be modulated.
        area: area fraction of each cell's object, float (batch, N).
        scores: ``s_i``, float (batch, n); 0 for images that are not to be modulated.
        suppressed: bool (batch, n), objects of score 0. padding: bool (batch, K).
        rows: int (m,), cells that lie in an object of any image of the batch.
        disjoint: whether every cell lies in at most one object.
    """

    cells: Tensor
    tokens: Tensor
    score: Tensor
    area: Tensor
    scores: Tensor
    suppressed: Tensor
    padding: Tensor
    rows: Tensor
    disjoint: bool


def region_maps(
    regions: Sequence[Regions],
    size: tuple[int, int],
    latent: tuple[int, int],
    *,
    overlap: Overlap = "smaller",
    mask_resize: MaskResize = "nearest",
    outside_score: float = 1.0,
    device: torch.device | str = "cpu",
) -> RegionMaps:
    """Rasterise a batch of regions.

    Args:
        regions: one per image; all with the same number of tokens.
        size: (h, w) of the attention layer.
        latent: (h, w) of the latents; ``nearest`` goes through it, as DenseDiffusion does.
        overlap: see :class:`~realignkit.attention.config.ModulationConfig`, as for ``mask_resize``.
        device: where the maps are wanted.
    """
    most = max(1, *(len(item.scores) for item in regions))
    cells, tokens, scores, suppressed, padding = [], [], [], [], []
    for item in regions:
        resized = resize_masks(item.masks, size, latent, overlap=overlap, mask_resize=mask_resize)
        missing = most - resized.shape[0]
        cells.append(F.pad(resized.flatten(1), (0, 0, 0, missing)).T)
        tokens.append(F.pad(item.tokens, (0, missing)))
        scores.append(F.pad(item.scores.float(), (0, missing)))
        suppressed.append(F.pad(item.scores <= 0, (0, missing)))
        hidden = item.padding
        padding.append(torch.zeros(item.tokens.shape[0], dtype=torch.bool) if hidden is None else hidden)
    member = torch.stack(cells)
    lifts = torch.tensor([item.lifts for item in regions])[:, None]
    score = likelihood_scores(member, torch.stack(scores), outside_score) * lifts

    return RegionMaps(
        cells=member.to(device),
        tokens=torch.stack(tokens).to(device),
        score=score.to(device),
        area=area_fraction(member).to(device),
        scores=(torch.stack(scores) * lifts).to(device),
        suppressed=torch.stack(suppressed).to(device),
        padding=torch.stack(padding).to(device),
        rows=member.any(-1).any(0).nonzero()[:, 0].to(device),
        disjoint=bool((member.sum(-1) <= 1).all()),
    )


def resize_masks(
    masks: Tensor,
    size: tuple[int, int],
    latent: tuple[int, int],
    *,
    overlap: Overlap = "smaller",
    mask_resize: MaskResize = "nearest",
) -> Tensor:
    """Masks (n, H, W) to bool (n, h, w) by the rules of ``overlap`` and ``mask_resize``.

    ``area``: a cell belongs to the object that covers most of it, if that is at least half; an object that would
    get no cell gets the one that it covers best.
    """
    if masks.shape[0] == 0:
        return torch.zeros(0, *size, dtype=torch.bool)
    masks = masks.bool().cpu()
    exclusive = overlap == "smaller"
    if exclusive:
        masks = smaller_wins(masks)
    if mask_resize == "nearest":
        at_latent = F.interpolate(masks[None].float(), latent, mode="nearest")
        return F.interpolate(at_latent, size, mode="nearest")[0] > 0.5
    cover = F.interpolate(masks[None].float(), size, mode="area")[0]
    owned = cover >= 0.5
    if exclusive:
        owned &= F.one_hot(cover.argmax(0), len(masks)).permute(2, 0, 1).bool()
    for i in masks.sum((1, 2)).argsort().tolist():
        if owned[i].any() or not masks[i].any():
            continue
        # Not the only cell of another object, if that can be helped.
        last = (owned & (owned.sum((1, 2), keepdim=True) == 1)).any(0) if exclusive else torch.zeros_like(owned[0])
        free = cover[i].masked_fill(last, 0.0)
        best = int((free if free.any() else cover[i]).argmax())
        if exclusive:
            owned.view(len(masks), -1)[:, best] = False
        owned[i].view(-1)[best] = True
    return owned


def smaller_wins(masks: Tensor) -> Tensor:
    """Make masks (n, H, W) disjoint: a pixel of several keeps the smallest (the first, of equals)."""
    areas = masks.sum((1, 2))
    free = torch.ones_like(masks[0])
    out = torch.zeros_like(masks)
    for i in areas.argsort(stable=True).tolist():
        out[i] = masks[i] & free
        free &= ~masks[i]
    return out


def layer_size(tokens: int, latent: tuple[int, int]) -> tuple[int, int]:
    """(h, w) of an attention layer with h * w tokens in a U-Net whose latents are ``latent``.

    Raises:
        ModelError: no halving of the latents (rounded up, as stride-2 convolutions do) has that many cells.
    """
    height, width = latent
    while height * width > tokens and (height, width) != (1, 1):
        height, width = -(-height // 2), -(-width // 2)
    if height * width != tokens:
        raise ModelError(
            f"an attention layer has {tokens} tokens, which is no halving of the {latent[0]} x {latent[1]} latents. "
            "Use a U-Net that halves its resolution, or switch self- and cross-attention modulation off."
        )
    return height, width
