"""Masks at attention resolution."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from realignkit.attention.modulation import region_matrix
from realignkit.attention.regions import Regions, layer_size, region_maps, regions_of, resize_masks, smaller_wins
from realignkit.errors import ModelError
from realignkit.pipelines.phrases import condition
from realignkit.types import Layout, Likelihood, LocalCaption, Segment
from tests.small_pipelines import with_tokenizers


def box(top: int, left: int, bottom: int, right: int, size: tuple[int, int] = (64, 64)) -> torch.Tensor:
    mask = torch.zeros(size, dtype=torch.bool)
    mask[top:bottom, left:right] = True
    return mask


@pytest.mark.parametrize(
    ("tokens", "latent", "size"),
    [(4096, (64, 64), (64, 64)), (64, (64, 64), (8, 8)), (24, (32, 48), (4, 6)), (35, (19, 27), (5, 7))],
)
def test_layer_size(tokens, latent, size):
    assert layer_size(tokens, latent) == size


def test_layer_size_that_does_not_fit():
    with pytest.raises(ModelError, match="no halving"):
        layer_size(100, (64, 64))


def test_smaller_mask_wins():
    big, small = box(0, 0, 64, 64), box(10, 10, 20, 20)
    out = smaller_wins(torch.stack([big, small]))
    assert torch.equal(out[1], small)
    assert torch.equal(out[0], big & ~small)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), objects=st.integers(1, 4), side=st.sampled_from([2, 4, 8, 16]))
@pytest.mark.parametrize("how", ["nearest", "area"])
def test_smaller_gives_one_object_per_cell(how, seed, objects, side):
    generator = torch.Generator().manual_seed(seed)
    masks = []
    for _ in range(objects):
        top, left, height, width = torch.randint(1, 40, (4,), generator=generator).tolist()
        masks.append(box(top, left, top + height, left + width))
    out = resize_masks(torch.stack(masks), (side, side), (16, 16), mask_resize=how)
    assert out.shape == (objects, side, side)
    assert out.sum(0).max() <= 1


def test_nearest_takes_the_top_left_pixel_as_densediffusion_does():
    mask = torch.rand(1, 64, 64) < 0.5
    out = resize_masks(mask, (8, 8), (16, 16))
    assert torch.equal(out[0], mask[0, ::8, ::8])


def test_area_keeps_small_objects():
    speck, block = box(33, 41, 36, 44), box(0, 0, 30, 30)
    masks = torch.stack([speck, block])
    assert not resize_masks(masks, (8, 8), (16, 16))[0].any()
    out = resize_masks(masks, (8, 8), (16, 16), mask_resize="area")
    assert out[0].nonzero().tolist() == [[4, 5]]
    # 30 pixels are 3.75 cells: the fourth row and column are covered by 3/4.
    assert torch.equal(out[1], box(0, 0, 4, 4, (8, 8)))


def test_area_does_not_rob_an_object_of_its_only_cell():
    masks = torch.stack([box(0, 0, 7, 7), box(6, 6, 9, 9), box(40, 40, 40, 40)])
    out = resize_masks(masks, (8, 8), (16, 16), mask_resize="area")
    assert out[0].any() and out[1].any()
    assert not out[2].any()  # an empty mask stays empty


def test_area_union_keeps_overlaps():
    masks = torch.stack([box(0, 0, 64, 64), box(0, 0, 32, 32)])
    out = resize_masks(masks, (4, 4), (16, 16), overlap="union", mask_resize="area")
    assert out[0].all() and torch.equal(out[1], box(0, 0, 2, 2, (4, 4)))


def test_maps_of_a_batch_are_those_of_its_images():
    tokens = torch.zeros(6, 2, dtype=torch.bool)
    tokens[1:3, 0], tokens[4, 1] = True, True
    two = Regions(tokens, torch.stack([box(0, 0, 32, 32), box(40, 0, 64, 64)]), torch.tensor([2.0, 0.0]))
    none = Regions.none(6)
    one = Regions(tokens[:, :1], box(0, 0, 64, 10)[None], torch.tensor([0.5]))
    maps = region_maps([two, none, one], (8, 8), (16, 16))
    assert maps.cells.shape == (3, 64, 2)
    for i, item in enumerate([two, none, one]):
        alone = region_maps([item], (8, 8), (16, 16))
        assert torch.equal(maps.score[i], alone.score[0])
        assert torch.equal(maps.area[i], alone.area[0])
        own = region_matrix(maps.cells[i], maps.tokens[i])
        assert torch.equal(own, region_matrix(alone.cells[0], alone.tokens[0]))
    inside = maps.cells[0].any(-1)
    assert maps.score[0][maps.cells[0, :, 0]].unique().tolist() == [2.0]
    assert maps.score[0][maps.cells[0, :, 1]].unique().tolist() == [0.0]
    assert maps.score[0][~inside].unique().tolist() == [1.0]
    assert maps.score[1].unique().tolist() == [0.0]  # nothing to modulate: a = 0 everywhere
    assert not one.suppresses and two.suppresses and two.lifts and not none.lifts


def test_regions_that_do_not_fit_together():
    with pytest.raises(ValueError, match="2 objects"):
        Regions(torch.zeros(5, 1).bool(), torch.zeros(2, 4, 4).bool(), torch.ones(2))


def test_regions_of_a_conditioning(word_tokenizer):
    layout = Layout(
        tuple(
            Segment(LocalCaption(caption[2:], caption, likelihood), np.ones((8, 8), dtype=bool))
            for caption, likelihood in (("a cat", Likelihood.POSSIBLE), ("a dog", Likelihood.UNLIKELY))
        )
    )
    pipeline = with_tokenizers(word_tokenizer)
    out = regions_of(pipeline, condition(pipeline, "a red cat and a cat", layout))
    assert out.tokens.shape == (16, 2)
    assert out.tokens[:, 0].nonzero()[:, 0].tolist() == [5, 6] and not out.tokens[:, 1].any()
    assert out.scores.tolist() == [0.5, 0.0]
    assert out.padding.nonzero()[:, 0].tolist() == list(range(8, 16))  # BOS, six words, EOS are 0-7
