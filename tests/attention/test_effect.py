"""Nothing is left unmodulated without a note that says why; and no note where all is well."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from realignkit.attention.config import ModulationConfig
from realignkit.attention.sampler import generate, refine
from realignkit.types import Layout, Likelihood, LocalCaption, Segment
from tests.attention.test_sampler import FAST, distance, layout

PROMPT = "a red book and a dog"
UNLIKELY = Likelihood.UNLIKELY


def segment(caption: str, box: tuple[int, int, int, int], likelihood: Likelihood = Likelihood.CERTAIN) -> Segment:
    """A mask of 16 x 16, inside from left, top to right, bottom."""
    left, top, right, bottom = box
    mask = np.zeros((16, 16), dtype=bool)
    mask[top:bottom, left:right] = True
    return Segment(LocalCaption(caption.split()[-1], caption, likelihood), mask)


def notes(pipeline, found: Layout, strength: float | None = None, **options) -> str:
    config = ModulationConfig(isolate_phrases=False, strength=strength, **options)
    coarse = [Image.new("RGB", (16, 16), "grey")]
    return "; ".join(refine(pipeline, [PROMPT], [found], [0], config, coarse=coarse, **FAST).notes[0])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"cross_weight": 0.0},
        {"self_weight": 0.0},
        {"strength": 0.5, "power": 1.0},
        {"size_term": "similarity"},
        {"clamp": True},
    ],
)
def test_no_note_where_all_is_modulated(pipeline, options):
    assert notes(pipeline, layout("a dog", "red book"), **options) == ""


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"share": 0.0}, "modulation.share is 0"),
        ({"cross_weight": 0.0, "self_weight": 0.0}, "modulation.cross_weight and modulation.self_weight are 0"),
        ({"power": 50.0, "strength": 0.5, "time_scale": "train"}, "lambda_t is at most"),
        ({"append_missing": False}, "no segment of its layout"),
    ],
)
def test_nothing_is_modulated(pipeline, options, why):
    """Each of them draws the very picture that no modulation draws."""
    found = layout("a cat") if "append_missing" in options else layout("a dog", "red book")
    assert f"attention was not modulated: {why}" in notes(pipeline, found, **options)
    if "strength" not in options:
        config = ModulationConfig(isolate_phrases=False, **options)
        refined = refine(pipeline, [PROMPT], [found], [0], config, **FAST).images[0]
        assert distance(refined, generate(pipeline, [PROMPT], [0], **FAST)[0]) == 0


def test_every_object_is_unlikely(pipeline):
    found = layout("a dog", likelihood=UNLIKELY)
    assert "no segment of its layout" in notes(pipeline, found)
    assert notes(pipeline, found, suppress_unlikely=True) == ""
    assert "no segment of its layout" in notes(pipeline, layout("a zebra", likelihood=UNLIKELY), suppress_unlikely=True)
    assert "cross_weight" in notes(pipeline, found, suppress_unlikely=True, cross_weight=0.0)


def test_a_mask_of_which_no_cell_is_left(pipeline):
    """Latents of 8 x 8 are sampled at every other pixel from the first; a pixel between is lost."""
    speck, dog = segment("red book", (5, 5, 6, 6)), segment("a dog", (8, 0, 16, 16))
    one = notes(pipeline, Layout((speck, dog)))
    assert "'red book' is not modulated: no cell of attention is left" in one and "any object" not in one
    assert "not modulated in any object" in notes(pipeline, Layout((speck,)))
    assert notes(pipeline, Layout((speck, dog)), mask_resize="area") == ""


def test_a_mask_that_smaller_ones_cover(pipeline):
    left, right = segment("a dog", (0, 0, 8, 16)), segment("red book", (8, 0, 16, 16))
    both = segment("a red book and a dog", (0, 0, 16, 16))
    found = notes(pipeline, Layout((left, right, both)))
    assert found == (
        "'a red book and a dog' is not modulated: smaller masks cover all of its own; "
        "modulation.overlap=union gives it what they share"
    )


def test_a_mask_of_the_whole_image(pipeline):
    whole = Layout((segment("a dog", (0, 0, 16, 16)),))
    assert "size_term=area pushes the less" in notes(pipeline, whole)
    assert notes(pipeline, whole, size_term="none") == ""


def test_each_image_of_a_batch_has_its_own(pipeline):
    config = ModulationConfig(share=1.0)
    found = [layout("a dog"), layout("a dog", likelihood=UNLIKELY), layout("a dog")]
    result = refine(pipeline, [PROMPT] * 3, found, [0, 1, 2], config, **FAST)
    assert [len(item) for item in result.notes] == [0, 1, 0]
