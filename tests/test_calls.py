"""Plugins get copies, and what they return is checked: nothing wrong gets any further."""

import numpy as np
import pytest
from PIL import Image

import realignkit
from realignkit import contracts
from realignkit.errors import PluginError
from realignkit.realigner import Realigner
from realignkit.types import Layout, Likelihood, LocalCaption, Tag

PROMPT = "a red book and a yellow pen"


def with_parts(realigner, **parts):
    made = {"tagger": realigner.tagger, "segmenter": realigner.segmenter, "scorers": realigner.scorers} | parts
    return Realigner(realigner.generator, **made, registry=realigner.registry, sampling=realigner.sampling)


class Painter(contracts.Tagger):
    def __call__(self, images):
        for image in images:
            image.paste("red", (0, 0, 16, 16))
        return [(Tag("book", 1.0),) for _ in images]


class PaintingSegmenter(contracts.Segmenter):
    def __init__(self):
        super().__init__()
        self.memory = np.zeros((32, 32), bool)

    def __call__(self, image, phrases):
        image.paste("red", (0, 0, 16, 16))
        self.memory[:8] = True
        return [(self.memory, 1.0) for _ in phrases]


def test_plugins_that_paint_on_images_change_their_copy_only(realigner):
    clean = realigner(PROMPT, 7)
    painted = with_parts(realigner, tagger=Painter(), segmenter=PaintingSegmenter())(PROMPT, 7)
    assert np.array_equal(np.asarray(painted.coarse), np.asarray(clean.coarse))
    image = Image.new("RGB", (32, 32))
    with_parts(realigner, tagger=Painter()).tag([image])
    assert image.getextrema() == ((0, 0),) * 3


def test_a_segmenters_memory_is_not_the_layouts(realigner):
    segmenter = PaintingSegmenter()
    captions = [LocalCaption("book", "a red book", Likelihood.CERTAIN)]
    layout, _ = with_parts(realigner, segmenter=segmenter).segment(Image.new("RGB", (32, 32)), captions)
    segmenter.memory[:] = False
    assert layout.segments[0].area == 0.25


def test_hooks_get_copies(registry, realigner):
    clean = realigner(PROMPT, 7)

    class Vandal:
        @realignkit.hookimpl
        def before_refine(self, layout):
            for segment in layout:
                segment.mask[:] = False

        @realignkit.hookimpl
        def after_realign(self, realignment):
            realignment.refined.paste("red", (0, 0, 32, 32))
            realignment.settings.clear()
            for segment in realignment.layout:
                segment.mask[:] = False

    registry.register(Vandal(), "vandal")
    assert realigner(PROMPT, 7).layout == clean.layout
    assert realigner(PROMPT, 7) == clean


@pytest.mark.parametrize("confidence", [float("nan"), float("inf"), -0.1, 1.1, "0.5", None])
def test_a_taggers_confidence_is_a_share(realigner, confidence):
    class Unsure(contracts.Tagger):
        def __call__(self, images):
            return [(Tag("book", confidence),) for _ in images]

    with pytest.raises(PluginError, match=r"tagger 'Unsure' .*confidence must be in \[0, 1\]"):
        with_parts(realigner, tagger=Unsure()).tag([Image.new("RGB", (32, 32))])


def test_numpys_numbers_are_welcome_and_become_pythons(realigner):
    class Sure(contracts.Tagger):
        def __call__(self, images):
            return [(Tag("book", np.float32(0.5)),) for _ in images]

    ((tag,),) = with_parts(realigner, tagger=Sure()).tag([Image.new("RGB", (32, 32))])
    assert type(tag.confidence) is float and tag.confidence == 0.5


def test_a_hooks_layout_is_checked_throughout(registry, realigner):
    class Careless:
        @realignkit.hookimpl
        def before_refine(self, layout):
            segments = layout.segments
            return Layout(tuple(realignkit.Segment(s.caption, s.mask, confidence=2.0) for s in segments))

    registry.register(Careless(), "careless")
    with pytest.raises(PluginError, match=r"'careless' .*confidence must be in \[0, 1\]"):
        realigner(PROMPT, 7)
