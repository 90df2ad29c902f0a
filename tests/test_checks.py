"""Plugins get copies, and what they return is checked, as is what users hand in: nothing wrong gets any further."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import realignkit
from realignkit import contracts
from realignkit.errors import OptionError, PluginError, PromptError
from realignkit.realigner import Realigner
from realignkit.types import Layout, Likelihood, LocalCaption, Segment, Tag

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


# --- what users hand in -----------------------------------------------------------------------------------------------

BOOK = LocalCaption("book", "a red book", Likelihood.CERTAIN)


def segment(mask, confidence=1.0, caption=BOOK):
    return Layout((Segment(caption, mask, confidence),))


@pytest.mark.parametrize(
    "layout, problem",
    [
        (segment(np.ones((10, 7), bool)), r"bool \(32, 32\), got bool \(10, 7\)"),
        (segment(np.full((32, 32), 0.5)), "got float64"),
        (segment(np.ones((32, 32), np.uint8)), "got uint8"),
        (segment([[True] * 32] * 32), "got a list"),
        (segment(np.ones((32, 32), bool), confidence=float("nan")), "confidence must be"),
        (segment(np.ones((32, 32), bool), caption=replace(BOOK, caption=" ")), "is empty"),
        (segment(np.ones((32, 32), bool), caption=replace(BOOK, likelihood="certain-ish")), "no Likelihood"),
        (segment(np.ones((32, 32), bool), caption="a red book"), "no local caption"),
        ("layout", "a str is no Layout"),
    ],
)
def test_refine_checks_what_it_is_given(realigner, layout, problem):
    with pytest.raises(OptionError, match=problem):
        realigner.refine([PROMPT], [layout], [7])


def test_refine_wants_lists_and_one_layout_per_prompt(realigner):
    layout = segment(np.ones((32, 32), bool))
    with pytest.raises(OptionError, match="list of layouts"):
        realigner.refine([PROMPT], layout, [7])
    with pytest.raises(OptionError, match="as many layouts, got 2"):
        realigner.refine([PROMPT], [layout, layout], [7])


@pytest.mark.parametrize(
    "tag", [Tag("book", float("nan")), Tag("book", 1.5), Tag("book", True), Tag(" ", 1.0), Tag(3, 1.0), "book"]
)
def test_score_checks_its_tags(realigner, tag):
    with pytest.raises(OptionError, match=r"tag|confidence"):
        realigner.score(PROMPT, [tag])
    with pytest.raises(OptionError, match="tags come in a list"):
        realigner.score(PROMPT, tag if isinstance(tag, Tag) else None)


def test_segment_checks_its_captions_and_image(realigner):
    image = Image.new("RGB", (32, 32))
    for caption in ("book", LocalCaption("book", "", Likelihood.CERTAIN), LocalCaption("book", "a book", "certain?")):
        with pytest.raises(OptionError, match=r"caption|likelihood"):
            realigner.segment(image, [caption])
    with pytest.raises(OptionError, match="not bytes"):
        realigner.segment(b"no", [BOOK])


def test_deep_pictures_are_seen_as_they_are(realigner):
    deep = Image.fromarray(np.tile(np.linspace(0, 65535, 32).astype(np.uint16), (32, 1)))
    plain = Image.fromarray(np.tile(np.linspace(0, 255, 32).round().astype(np.uint8), (32, 1)))
    assert realigner.tag([deep]) == realigner.tag([plain])
    coarse = np.asarray(realigner(PROMPT, 7, coarse=deep).coarse).astype(int)
    assert np.abs(coarse[..., 0] - np.asarray(plain).astype(int)).max() <= 1


def test_coarse_images_may_be_files_and_arrays(realigner, tmp_path):
    pixels = np.full((32, 32, 3), 200, np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    for coarse in (pixels, tmp_path / "a.png", str(tmp_path / "a.png"), [pixels], np.stack([pixels])):
        result = realigner([PROMPT], 7, coarse=coarse)[0]
        assert np.array_equal(np.asarray(result.coarse), pixels)
    with pytest.raises(OptionError, match=r"nowhere\.png.*no such file"):
        realigner(PROMPT, 7, coarse="nowhere.png")
    with pytest.raises(OptionError, match="uint8 of shape"):
        realigner(PROMPT, 7, coarse=pixels / 255)


def test_seeds_may_be_numpys(realigner):
    one = realigner(PROMPT, np.int64(7))
    assert type(one.seed) is int and one == realigner(PROMPT, 7)
    assert [result.seed for result in realigner(PROMPT, np.arange(2))] == [0, 1]
    for wrong in ("43", 1.5, np.float64(1), -1, np.bool_(True)):
        with pytest.raises(OptionError, match="a seed is a whole number"):
            realigner(PROMPT, wrong)


@pytest.mark.parametrize("prompt", [3, b"a red book", [PROMPT, None]])
def test_a_prompt_is_text(realigner, prompt):
    with pytest.raises((PromptError, OptionError), match="prompt"):
        realigner(prompt, 7)


def test_arguments_that_belong_elsewhere_say_where(realigner, make_realigner):
    with pytest.raises(TypeError, match=r"'candidates' .*Realigner\.from_pretrained\(candidates=…\)"):
        realigner(PROMPT, 7, candidates=2)
    with pytest.raises(TypeError, match=r"from_pretrained\(sampling=\{'num_inference_steps': …\}\)"):
        realigner(PROMPT, 7, num_inference_steps=2)
    with pytest.raises(TypeError, match=r"from_pretrained\(modulation=\{'share': …\}\)"):
        make_realigner(share=0.5)
    with pytest.raises(TypeError, match="no argument 'cosrse'; did you mean coarse"):
        realigner(PROMPT, 7, cosrse=None)
