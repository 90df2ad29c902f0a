"""Arguments of the wrong kind, at every door of the Python interface: one typed sentence, never a bare Python error."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from realignkit import Layout, ModulationConfig, Realigner, Realignment, Registry, Reward
from realignkit.attention import generate, refine
from realignkit.attention.dense import dense_diffusion, dense_layout
from realignkit.errors import OptionError, PluginError, PromptError, RealignKitError
from realignkit.refl import Judge
from realignkit.resolve import make_reward, parse_weights
from realignkit.types import Likelihood, LocalCaption, Segment, Tag
from tests import tiny

PROMPT = "a red book and a yellow pen"
ONE_STEP = {"num_inference_steps": 1}

MAKING = {
    "model": (3, None, ["tiny"], b"tiny", tiny.TinyGenerator, object()),
    "tagger": (3, [], {}, tiny.QuadrantTagger),
    "scorer": (3, [], ["lexical"]),
    "segmenter": (3, {}),
    "modulation": (3, "x", [1], [("share", 0.2)], {3: 4}),
    "sampling": (3, "x", [1]),
    "options": (3, "x", {3: {}}, {"tagger": 3}, {"scorer": "x"}, {"tagger": {3: 4}}, {"reward": 3}),
    "registry": (3, "x"),
    "batch_size": ("a", "2", 0, -1, 1.5, True, None, [1]),
    "candidates": ("2", 0, 1.5, True, None),
    "segment_unlikely": ("x", 3, []),
    "select_by": (3, [], {"clip": 1}),
}


def one_sentence(error: RealignKitError) -> None:
    assert isinstance(error, OptionError | PluginError | PromptError)
    assert "\n" not in str(error) and str(error).endswith(".")


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in MAKING.items() for value in values])
def test_making_a_realigner(make_realigner, registry, name, value):
    given = {"model": "tiny", "registry": registry, name: value}
    with pytest.raises(OptionError) as caught:
        Realigner.from_pretrained(given.pop("model"), **given)
    one_sentence(caught.value)


PARTS = {
    "generator": (3, None, "tiny", [], tiny.TinyGenerator, object()),
    "tagger": (3, "quadrants", [3], tiny.QuadrantTagger),
    "scorers": (3, "lexical", [], [3], [("a", 3)], [("a",)], [(3, tiny.WordyScorer())], tiny.WordyScorer),
    "segmenter": (3, "quadrants", object()),
    "modulation": (3, "x", {"share": "x"}),
    "sampling": (3, "x", {"height": "x"}),
    "registry": (3,),
    "batch_size": ("a", 0),
    "candidates": ("2",),
    "select_by": (3,),
    "names": (3, "x", ["a"], {"tagger": 3}, {"tagger": " "}, {"taggers": "x"}, {"reward": "x"}),
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in PARTS.items() for value in values])
def test_making_a_realigner_of_parts(name, value):
    parts = {
        "generator": tiny.TinyGenerator(),
        "tagger": tiny.QuadrantTagger(),
        "scorers": tiny.WordyScorer(),
        "segmenter": tiny.QuadrantSegmenter(),
    }
    with pytest.raises(OptionError) as caught:
        Realigner(**{**parts, name: value})
    one_sentence(caught.value)


def test_what_a_message_says_is_true_of_what_was_asked(realigner):
    with pytest.raises(OptionError, match=r"^generator takes a plugin, or a pipeline of diffusers, not 3\.$"):
        Realigner(3)
    with pytest.raises(OptionError, match=r"^prompts come in a list, or alone: a text\. This is None\.$"):
        realigner(None)
    with pytest.raises(OptionError, match=r"^coarse images come in a list, or alone: a picture, a path or an array\."):
        realigner(PROMPT, coarse=3)
    with pytest.raises(OptionError, match=r"^modulation takes a dict of names .* and its key 1 is no name\.$"):
        realigner.with_(modulation={1: 2})


def test_numbers_of_numpy_and_mappings_are_welcome(make_realigner):
    made = make_realigner(batch_size=np.int64(3), candidates=np.int32(1), segment_unlikely=np.True_)
    assert (made.batch_size, made.candidates, made.segment_unlikely) == (3, 1, True)
    assert type(made.batch_size) is int and type(made.segment_unlikely) is bool
    assert make_realigner(batch_size=8.0).batch_size == 8
    parts = (tiny.TinyGenerator(), tiny.QuadrantTagger(), tiny.WordyScorer(), tiny.QuadrantSegmenter())
    assert Realigner(*parts, modulation={"share": 0.2}).modulation.share == 0.2


CALLS = {
    "a seed": lambda r: r(PROMPT, "x"),
    "no seed": lambda r: r(PROMPT, None),
    "a fraction": lambda r: r(PROMPT, 1.5),
    "a prompt": lambda r: r(3),
    "no prompt": lambda r: r(None),
    "bytes": lambda r: r(b"a red book"),
    "prompts": lambda r: r([3]),
    "a picture": lambda r: r(PROMPT, coarse=3),
    "pictures": lambda r: r([PROMPT], coarse=[3]),
    "progress": lambda r: r(PROMPT, progress=3),
    "seeds of generate": lambda r: r.generate([PROMPT], ["x"]),
    "prompts of generate": lambda r: r.generate(3, [1]),
    "progress of generate": lambda r: r.generate([PROMPT], [1], progress="x"),
    "progress of refine": lambda r: r.refine([PROMPT], [Layout()], [1], progress=3),
    "images of tag": lambda r: r.tag(3),
    "prompt of score": lambda r: r.score(3, []),
    "tags of score": lambda r: r.score(PROMPT, "book"),
    "captions of segment": lambda r: r.segment(np.zeros((32, 32, 3), np.uint8), 3),
    "layouts of refine": lambda r: r.refine([PROMPT], 3, [1]),
    "prompt of check_prompt": lambda r: r.check_prompt(3),
    "prompts of check_heat_maps": lambda r: r.check_heat_maps(3),
    "a prompt of check_heat_maps": lambda r: r.check_heat_maps([3]),
    "captions of wanted": lambda r: r.wanted(3),
    "a caption of wanted": lambda r: r.wanted(["book"]),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_calling_a_realigner(realigner, call):
    with pytest.raises(RealignKitError) as caught:
        call(realigner)
    one_sentence(caught.value)


def drawn(prompts=(PROMPT,), seeds=(1,), **sampling):
    return generate(tiny.shared_pipeline(), prompts, seeds, **{**ONE_STEP, **sampling})


def redrawn(layouts=None, config=None, **more):
    layouts = [Layout()] if layouts is None else layouts
    return refine(tiny.shared_pipeline(), [PROMPT], layouts, [1], config, **{**ONE_STEP, **more})


FUNCTIONS = {
    "prompts": lambda: drawn(3),
    "a prompt": lambda: drawn([3]),
    "a text for prompts": lambda: drawn(PROMPT),
    "seeds": lambda: drawn(seeds=3),
    "a seed": lambda: drawn(seeds=["x"]),
    "a large seed": lambda: drawn(seeds=[2**64]),
    "steps": lambda: drawn(num_inference_steps="x"),
    "half a step": lambda: drawn(num_inference_steps=2.5),
    "guidance": lambda: drawn(guidance_scale="x"),
    "infinite guidance": lambda: drawn(guidance_scale=float("inf")),
    "height": lambda: drawn(height="x"),
    "negative prompt": lambda: drawn(negative_prompt=3),
    "layouts": lambda: redrawn(3),
    "a layout": lambda: redrawn([3]),
    "modulation": lambda: redrawn(config=3),
    "a value of modulation": lambda: redrawn(config={"share": 3}),
    "coarse images": lambda: redrawn(config={"strength": 0.9}, coarse=3),
    "regions": lambda: dense_layout(3, (32, 32)),
    "a phrase": lambda: dense_layout({3: (0, 0, 1, 1)}, (32, 32)),
    "a box": lambda: dense_layout({"a": 3}, (32, 32)),
    "a side": lambda: dense_layout({"a": ("x", 0, 1, 1)}, (32, 32)),
    "a size": lambda: dense_layout({"a": (0, 0, 1, 1)}, 3),
    "sizes": lambda: dense_layout({"a": (0, 0, 1, 1)}, (3,)),
    "DenseDiffusion's options": lambda: dense_diffusion(tiny.shared_pipeline(), [], [], [], 3),
    "a folder": lambda: Realignment.load(3),
    "a reward": lambda: parse_weights(3),
    "a reward to make": lambda: make_reward(Registry(discover=False), 3),
    "a registry of rewards": lambda: make_reward(3, "micro"),
    "a registry alone": lambda: make_reward(3),
    "no name of a reward": lambda: make_reward(Registry(discover=False)),
    "no registry of rewards": lambda: make_reward(None, "micro"),
    "options of a reward": lambda: make_reward(Registry(discover=False), "micro", 3),
    "a value of modulation by hand": lambda: ModulationConfig(share=3),
    "an unknown name by hand": lambda: ModulationConfig(shares=0.3),
    "a judge": lambda: Judge(3, "three"),
    "the class of a judge": lambda: Judge(Reward, "class"),
}


@pytest.mark.parametrize("call", FUNCTIONS.values(), ids=FUNCTIONS)
def test_functions(call):
    with pytest.raises(RealignKitError) as caught:
        call()
    one_sentence(caught.value)


@pytest.mark.parametrize("name", [3, None, ["tiny"]])
def test_names_in_the_registry(registry, name):
    with pytest.raises(PluginError, match="a generator's name is text"):
        registry.create("generator", name)


@pytest.mark.parametrize("address", ["http://a.org/b.png", "HTTPS://a.org/b.png", "s3://a/b.png", "file:///tmp/b.png"])
def test_addresses_are_not_fetched(realigner, address):
    for value in (address, Path(address)):
        with pytest.raises(OptionError, match=r"is an address, and nothing is fetched here\. Download it"):
            realigner(PROMPT, coarse=value)


# --- what is in them -------------------------------------------------------------------------------------------------

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


@pytest.mark.parametrize("prompt", ["", "  \n "])
def test_empty_prompt(realigner, prompt):
    with pytest.raises(PromptError, match="empty"):
        realigner(prompt)


@pytest.mark.parametrize("prompt", ["a red \ud83d book", "a \udcff pen"])
def test_half_a_character_is_refused_before_any_work(realigner, prompt):
    calls: list[Any] = []
    with pytest.raises(PromptError, match=r"broken character \(\\ud"):
        realigner([PROMPT, prompt], 1, progress=lambda *args: calls.append(args))
    assert not calls
    with pytest.raises(PromptError) as caught:
        realigner.generate([prompt], [1])
    str(caught.value).encode()  # any terminal can show it
    with pytest.raises(PromptError, match="broken character"):
        realigner.score(prompt, [])


def test_prompt_over_the_limit_is_refused_before_any_work(realigner):
    fitting = " ".join(["book"] * (tiny.MAX_TOKENS - 2))  # start and end token
    realigner.check_prompt(fitting)
    calls: list[Any] = []
    with pytest.raises(PromptError, match=str(tiny.MAX_TOKENS)):
        realigner([PROMPT, fitting + " pen"], 1, progress=lambda *args: calls.append(args))
    assert not calls


@pytest.mark.parametrize("arguments", [(["a", "b"], [1, 2, 3]), (["a"], [-1]), ("a", True), ("a", ["1"])])
def test_prompts_and_seeds_that_do_not_go_together(realigner, arguments):
    with pytest.raises(OptionError, match="seed"):
        realigner(*arguments)


def test_refine_takes_an_image_per_prompt_or_none_at_all(realigner):
    with pytest.raises(OptionError, match="one image per prompt, or none at all"):
        realigner.refine([PROMPT] * 2, [Layout()] * 2, [1, 2], [Image.new("RGB", (32, 32)), None])
    assert len(realigner.refine([PROMPT] * 2, [Layout()] * 2, [1, 2], [None, None]).images) == 2
