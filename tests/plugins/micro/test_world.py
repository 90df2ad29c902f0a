"""The procedural world: what it draws is what it says it drew."""

from __future__ import annotations

import numpy as np
import pytest

from realignkit_plugins.micro.oracle import expected
from realignkit_plugins.micro.world import (
    COLOURS,
    EXTRA_NOUNS,
    NOUNS,
    Noise,
    Scene,
    caption,
    held_out,
    phrase,
    render,
    scene,
)
from realignkit_plugins.micro.world.drawing import Shade, paint
from realignkit_plugins.micro.world.sprites import sprite
from realignkit_plugins.micro.world.vocabulary import DRAWINGS


def test_same_seed_same_scene_same_pixels() -> None:
    first, again = (render(scene(3, 17)) for _ in range(2))
    assert np.array_equal(first.image, again.image)
    assert np.array_equal(first.masks, again.masks)
    assert not np.array_equal(first.image, render(scene(3, 18)).image)


@pytest.mark.parametrize("noun", NOUNS)
def test_a_sprite_coloured_afterwards_is_the_drawing_painted_in_that_colour(noun: str) -> None:
    """Pixels are affine in the colour: the multiply-add must agree with painting outright."""
    colour, size = (205, 38, 42), 32
    pixels = sprite(noun, size, False)
    outright = np.asarray(paint(DRAWINGS[noun], size, colour), np.float32)
    rows, columns = (np.flatnonzero((outright[..., 3] > 250).any(axis)) for axis in (1, 0))
    # Compare where the drawing itself is opaque; the outline is around it. Cropping shifts by where ink starts.
    rgb = pixels.coloured(colour)
    best = min(
        float(np.abs(window - inside).mean())
        for top in range(rgb.shape[0] - np.ptp(rows))
        for left in range(rgb.shape[1] - np.ptp(columns))
        for window in [rgb[top : top + np.ptp(rows) + 1, left : left + np.ptp(columns) + 1]]
        for inside in [_opaque(outright, rows, columns, window)]
        if window.shape[:2] == (np.ptp(rows) + 1, np.ptp(columns) + 1)
    )
    assert best < 6.0


def _opaque(image: np.ndarray, rows: np.ndarray, columns: np.ndarray, window: np.ndarray) -> np.ndarray:
    box = image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    if box.shape[:2] != window.shape[:2]:
        return window + 255
    return np.where(box[..., 3:] > 250, box[..., :3], window)


def test_masks_are_disjoint_and_lie_where_the_object_changed_the_picture() -> None:
    for index in range(40):
        drawn = scene(5, index)
        rendering = render(drawn)
        assert len(rendering.masks) == len(drawn.things) + len(drawn.extras)
        assert rendering.masks.sum(0).max() <= 1
        for thing, mask in zip(drawn.things, rendering.masks, strict=False):
            left, top, right, bottom = thing.box
            outside = mask.copy()
            outside[top:bottom, left:right] = False
            assert not outside.any()
            assert mask.any()


def test_an_object_has_mostly_its_own_colour() -> None:
    """Per object, the typical pixel is nearer to its own colour word than to most others."""
    names, table = tuple(COLOURS), np.array(list(COLOURS.values()), float)
    hits = []
    for index in range(150):
        drawn = scene(6, index)
        rendering = render(drawn)
        for thing, mask in zip(drawn.things, rendering.masks, strict=False):
            pixels = rendering.image[mask].astype(float)
            votes = np.bincount(np.linalg.norm(pixels[:, None] - table, axis=2).argmin(1), minlength=len(names))
            hits.append(names[votes.argmax()] == thing.colour)
    assert np.mean(hits) > 0.75


def test_splits_keep_held_out_pairs_apart() -> None:
    for index in range(300):
        assert not any(held_out(t.colour or "", t.noun) for t in scene(1, index, "train").things)
        assert any(held_out(t.colour or "", t.noun) for t in scene(1, index, "held_out").things)
    share = np.mean([held_out(colour, noun) for colour in COLOURS for noun in NOUNS])
    assert 0.05 < share < 0.15


def test_captions_name_every_object_and_relations_are_true() -> None:
    rng = np.random.default_rng(0)
    relations = 0
    for index in range(400):
        drawn = scene(2, index)
        text = caption(drawn, rng)
        for thing in drawn.things:
            assert phrase(thing).split(" ", 1)[1] in text or f"{thing.colour} {thing.noun}" in text
        if "to the left of" in text:
            assert drawn.things[0].centre[0] < drawn.things[1].centre[0]
        if "above" in text:
            assert drawn.things[0].centre[1] < drawn.things[1].centre[1]
        relations += "left" in text or "above" in text or "below" in text or "right" in text
        assert not any(f" {extra}" in text for extra in EXTRA_NOUNS)
    assert relations > 10


def _named(text: str) -> set[tuple[str, str]]:
    return {(noun, colour) for noun, colour, _ in expected(text)}


@pytest.mark.parametrize("kind", ["omit", "uncolour", "recolour", "swap"])
def test_noise_is_the_share_of_careless_captions(kind: str) -> None:
    rng = np.random.default_rng(0)
    drawn = [scene(4, index) for index in range(1500)]
    drawn = [s for s in drawn if len({t.colour for t in s.things}) > 1]  # where all four kinds can happen
    told = [caption(s, rng, Noise(**{kind: 0.3})) for s in drawn]
    wrong = [not all(f"{t.colour} {t.noun}" in text for t in s.things) for s, text in zip(drawn, told, strict=True)]
    # A wrong colour, or a swap of two things of one colour, may happen to be right: hence a little below 0.3.
    assert 0.2 < np.mean(wrong) < 0.34


def test_a_swap_exchanges_two_colours_and_nothing_else() -> None:
    rng = np.random.default_rng(1)
    pair = [s for s in (scene(5, index) for index in range(400)) if len(s.things) == 2]
    pair = [s for s in pair if len({t.noun for t in s.things}) == 2]
    for s in pair:
        first, second = s.things
        told, swapped = (
            {(t.noun, t.colour) for t in s.things},
            {(first.noun, second.colour), (second.noun, first.colour)},
        )
        never = any(held_out(colour, noun) for noun, colour in swapped)
        assert _named(caption(s, rng, Noise(swap=1.0))) == (told if never else swapped)
        assert _named(caption(s, rng)) == told


def test_an_omission_leaves_the_others_alone() -> None:
    rng = np.random.default_rng(2)
    for s in (scene(6, index) for index in range(300)):
        kinds = {(t.noun, t.colour) for t in s.things}
        named = _named(caption(s, rng, Noise(omit=1.0)))
        assert named <= kinds
        if len(kinds) == len(s.things) > 1:
            assert len(named) == len(kinds) - 1


def test_the_backdrop_is_what_no_object_covers_below_the_horizon() -> None:
    for index in range(200):
        drawn = scene(7, index)
        seen = render(drawn)
        if drawn.background is None:
            assert not seen.backdrop.any()
            continue
        assert not (seen.backdrop & seen.masks.any(0)).any()
        # The same row, other picture: what the backdrop covers is painted by the background alone.
        alone = render(Scene((), (), drawn.background, drawn.variant)).image
        assert np.array_equal(seen.image[_inner(seen.backdrop)], alone[_inner(seen.backdrop)])
        rows = np.flatnonzero(seen.backdrop.any(1))
        assert rows[-1] == 63 and (rows[0] < 4) == (drawn.background in ("sky", "room"))


def _inner(mask: np.ndarray) -> np.ndarray:
    """Pixels whose neighbours are in the mask too: away from the soft edges of objects."""
    padded = np.pad(mask, 2, constant_values=True)
    return np.logical_and.reduce([padded[2 + y :, 2 + x :][:64, :64] for y in (-2, 0, 2) for x in (-2, 0, 2)]) & mask


def test_shades_are_lighter_and_darker() -> None:
    assert Shade(-0.5).on((100, 200, 50)) == (50, 100, 25)
    assert Shade(0.5).on((100, 200, 50)) == (178, 228, 152)


@pytest.mark.parametrize("index", range(6))
def test_a_scene_has_four_times_the_pixels_and_is_the_same(index: int) -> None:
    drawn = scene(4, index)
    coarse, fine = render(drawn), render(drawn, 4)
    assert fine.image.shape == (256, 256, 3)
    reduced = fine.image.reshape(64, 4, 64, 4, 3).mean((1, 3))
    assert np.square(reduced - coarse.image).mean() < 40  # 32 dB
    assert fine.masks.shape == (len(coarse.masks), 256, 256)
    assert (fine.masks[:, 1::4, 1::4] != coarse.masks).mean() < 0.01
    assert (fine.backdrop[1::4, 1::4] != coarse.backdrop).mean() < 0.02
    # Sharper, not only larger: half the change between neighbours would be what enlarging gives.
    assert (
        np.abs(np.diff(fine.image.astype(int), axis=1)).max()
        > 0.9 * np.abs(np.diff(coarse.image.astype(int), axis=1)).max()
    )
