from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from realignkit.report.overlay import LEGIBLE_WIDTH, PALETTE, Rectangle, contact_sheet, enlarge, overlay, place_label
from realignkit.types import Layout, Likelihood, LocalCaption, Segment


def segment(mask, likelihood=Likelihood.CERTAIN, caption="a cup"):
    return Segment(LocalCaption("cup", caption, likelihood), mask)


def noise(width, height):
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def test_small_images_are_enlarged_until_labels_can_be_read():
    for width in (64, 96, 511):
        assert overlay(noise(width, 64), Layout()).width >= LEGIBLE_WIDTH
    assert overlay(noise(768, 64), Layout()).size == (768, 64)
    assert overlay(noise(64, 48), Layout(), scale=3).size == (192, 144)


def test_large_images_are_enlarged_smoothly_and_small_ones_keep_their_pixels():
    for side, smooth in ((128, False), (256, True)):
        halves = Image.new("L", (side, side))
        halves.paste(200, (side // 2, 0, side, side))
        between = set(np.unique(np.asarray(enlarge(halves, 2)))) - {0, 200}
        assert bool(between) == smooth


def test_an_empty_layout_leaves_every_pixel():
    image = noise(64, 64)
    assert np.array_equal(np.asarray(overlay(image, Layout(), scale=8)), np.asarray(image).repeat(8, 0).repeat(8, 1))


def test_the_mask_is_tinted_and_the_rest_is_not():
    image = noise(64, 64)
    mask = np.zeros((64, 64), dtype=bool)
    mask[40:60, 10:50] = True
    before, after = np.asarray(enlarge(image, 8)), np.asarray(overlay(image, Layout((segment(mask),)), scale=8))
    changed = (before != after).any(axis=2)
    inside = np.zeros_like(changed)
    inside[41 * 8 : 59 * 8, 11 * 8 : 49 * 8] = True
    assert changed[inside].mean() > 0.99
    # Outside there may only be the outline and the label, which sits on the mask's top edge.
    away = np.ones_like(changed)
    away[40 * 8 - 48 : 60 * 8 + 8, 10 * 8 - 8 : 50 * 8 + 8] = False
    assert not changed[away].any()


def test_the_smaller_of_two_overlapping_masks_shows():
    big = np.ones((64, 64), dtype=bool)
    small = np.zeros((64, 64), dtype=bool)
    small[30:60, 5:20] = True
    grey = Image.new("RGB", (64, 64), (128, 128, 128))
    pixel = (12 * 8, 56 * 8)
    both = [overlay(grey, Layout(order), 8).getpixel(pixel) for order in ((segment(big), segment(small)),)]
    alone = overlay(grey, Layout((segment(big),)), 8).getpixel(pixel)
    assert both[0] != alone
    # The last colour laid on is the strongest: nearer to the small mask's (second) than to the big one's (first).
    distance = [np.abs(np.subtract(both[0], tuple(bytes.fromhex(c[1:])))).sum() for c in PALETTE[:2]]
    assert distance[1] < distance[0]


def test_likelihoods_differ_in_line_and_in_words_not_only_in_colour():
    mask = np.zeros((64, 64), dtype=bool)
    mask[30:60, 5:60] = True
    pictures = [
        np.asarray(overlay(noise(64, 64), Layout((segment(mask, likelihood),)), 8)) for likelihood in Likelihood
    ]
    # Below the label, the outline's left side (x = 5) is drawn over a different share of its length.
    plain = np.asarray(enlarge(noise(64, 64), 8))
    drawn = [(p[36 * 8 : 58 * 8, 5 * 8 - 2] != plain[36 * 8 : 58 * 8, 5 * 8 - 2]).any(axis=1).mean() for p in pictures]
    certain, possible, unlikely = drawn
    assert certain == 1.0
    assert unlikely < possible < 0.95
    label = slice(30 * 8 - 40, 30 * 8 - 4)
    assert all((pictures[i][label] != pictures[j][label]).any() for i, j in ((0, 1), (0, 2), (1, 2)))


def test_masks_of_another_size_are_stretched_over_the_image():
    coarse_mask = np.zeros((4, 4), dtype=bool)
    coarse_mask[2:, 2:] = True
    fine_mask = coarse_mask.repeat(16, 0).repeat(16, 1)
    image = noise(64, 64)
    results = [np.asarray(overlay(image, Layout((segment(m),)), 8))[300:500, 300:500] for m in (coarse_mask, fine_mask)]
    assert np.array_equal(*results)


def test_labels_without_room_go_below_the_picture():
    mask = np.ones((64, 64), dtype=bool)
    few, many = (Layout(tuple(segment(mask, caption=f"cup {i}") for i in range(n))) for n in (3, 60))
    assert overlay(noise(64, 64), few, 8).size == (512, 512)
    crowded = overlay(noise(64, 64), many, 8)
    assert crowded.width == 512
    assert crowded.height > 700


@pytest.mark.parametrize("caption", ["x" * 500, "", "two\nlines", "日本語 <b>"])
def test_odd_captions_are_drawn_inside_the_picture(caption):
    picture = overlay(noise(64, 64), Layout((segment(np.ones((64, 64), dtype=bool), caption=caption),)), 8)
    assert picture.size == (512, 512)


def test_an_empty_mask_still_gets_its_label():
    empty = Layout((segment(np.zeros((64, 64), dtype=bool)),))
    image = noise(64, 64)
    assert np.asarray(overlay(image, empty, 8) != enlarge(image, 8)).any()


boxes = st.builds(
    lambda x, y, w, h: Rectangle(x, y, x + w, y + h),
    st.integers(0, 20), st.integers(0, 20), st.integers(1, 12), st.integers(1, 12),
)  # fmt: skip


@given(st.integers(1, 12), st.integers(1, 12), st.integers(-5, 30), st.integers(-5, 30), st.lists(boxes, max_size=6))
@settings(max_examples=200, deadline=None)
def test_a_label_takes_the_nearest_free_place(width, height, x, y, taken):
    bounds = (24, 20)

    def cost(box):
        return ((box.left + box.right) / 2 - x) ** 2 + ((box.top + box.bottom) / 2 - y) ** 2

    every_place = [
        Rectangle(left, top, left + width, top + height)
        for left in range(bounds[0] - width + 1)
        for top in range(bounds[1] - height + 1)
    ]
    free = [box for box in every_place if not any(box.overlaps(other) for other in taken)]
    place = place_label((width, height), (x, y), bounds, taken)
    if not free:
        assert place is None
    else:
        assert place in free
        # Wishes are rounded to whole pixels, which may cost up to one pixel in each direction.
        assert cost(place) ** 0.5 <= min(map(cost, free)) ** 0.5 + 1


def test_boxes_that_touch_do_not_overlap():
    assert Rectangle(0, 0, 2, 2).overlaps(Rectangle(1, 1, 3, 3))
    assert not Rectangle(0, 0, 2, 2).overlaps(Rectangle(2, 0, 4, 2))


def test_a_contact_sheet_shows_both_images_of_every_row(realignment):
    other = dataclasses.replace(realignment, prompt="a blue cup " * 12, refined=realignment.coarse)
    sheet = np.asarray(contact_sheet([realignment, other], cell=128))
    windows = np.lib.stride_tricks.sliding_window_view(sheet[..., 0], (128, 128))[::1, ::1]

    def places(image):
        wanted = np.asarray(enlarge(image, 2))[..., 0]
        rows, columns = np.nonzero(windows[:, :, 0, 0] == wanted[0, 0])
        return {
            (int(r), int(c)) for r, c in zip(rows, columns, strict=True)
            if windows[r, c, -1, -1] == wanted[-1, -1] and np.array_equal(windows[r, c], wanted)
        }  # fmt: skip

    coarse, refined = places(realignment.coarse), places(realignment.refined)
    assert len(coarse) == 3  # two coarse images and the second row's refined one
    assert len(refined) == 1
    assert {r for r, _ in refined} <= {r for r, _ in coarse}


def test_a_contact_sheet_of_nothing_says_so():
    with pytest.raises(ValueError, match="at least one"):
        contact_sheet([])
