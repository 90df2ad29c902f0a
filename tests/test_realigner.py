from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

import realignkit
from realignkit import contracts
from realignkit.attention.config import ModulationConfig
from realignkit.errors import ModelError, OptionError, PluginError, PromptError
from realignkit.realigner import STEPS, Realigner
from realignkit.resolve import LAST_SCORER
from realignkit.types import Layout, Likelihood, LocalCaption, Segment, Tag
from tests import tiny

PROMPT = "a red book and a yellow pen"


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image, dtype=np.int16)


def certain(name: str) -> LocalCaption:
    return LocalCaption(name, name, Likelihood.CERTAIN)


# --- the straight line ----------------------------------------------------------------------------------------------


def test_coarse_image_is_what_the_pipeline_draws_from_the_seed(realigner):
    expected = tiny.shared_pipeline()(
        PROMPT, num_inference_steps=4, generator=torch.Generator().manual_seed(7), output_type="pil"
    ).images[0]
    assert abs(pixels(realigner(PROMPT, 7).coarse) - pixels(expected)).max() <= 1  # rounding to 8 bits


def test_calling_equals_the_steps_one_by_one(realigner):
    whole = realigner(PROMPT, 7)
    (coarse,) = realigner.generate([PROMPT], [7])
    (tags,) = realigner.tag([coarse])
    answer = realigner.score(PROMPT, tags)
    layout, notes = realigner.segment(coarse, answer.captions)
    refined = realigner.refine([PROMPT], [layout], [7])
    assert (pixels(whole.coarse) == pixels(coarse)).all()
    assert (whole.tags, whole.captions, whole.notes) == (tags, answer.captions, notes + refined.notes[0])
    assert [s.caption for s in whole.layout] == [s.caption for s in layout]
    assert (pixels(whole.refined) == pixels(refined.images[0])).all()
    assert whole.conditioning == refined.conditioning[0]


def test_refining_changes_the_image_through_the_layout_only(make_realigner):
    refined = make_realigner()(PROMPT, 7)
    assert abs(pixels(refined.refined) - pixels(refined.coarse)).max() > 5
    off = {"cross_weight": 0, "self_weight": 0, "isolate_phrases": False, "append_missing": False}
    unchanged = make_realigner(modulation=off)(PROMPT, 7)
    assert abs(pixels(unchanged.refined) - pixels(unchanged.coarse)).max() <= 1


def test_result_records_who_what_and_how_long(realigner):
    result = realigner(PROMPT, 7)
    assert result.plugins == {
        "generator": "tiny",
        "tagger": "quadrants",
        "scorer": "wordy",
        "segmenter": "quadrants",
    }
    assert set(result.timings) == set(STEPS) - {"select", "verify"}
    assert all(seconds >= 0 for seconds in result.timings.values())
    assert result.versions["realignkit"] == realignkit.__version__
    assert result.versions["torch"] == torch.__version__.split("+")[0] or result.versions["torch"] == torch.__version__
    assert [tag.name for tag in result.tags] == [caption.tag for caption in result.captions]


@pytest.mark.parametrize("everything", [False, True])
def test_progress_counts_every_step_that_is_done_to_its_end(make_realigner, everything):
    more = {"candidates": 2, "select_by": "darkness", "modulation": {"verify": True}} if everything else {}
    seen: dict[str, list[tuple[int, int]]] = {}
    make_realigner(**more)(
        [PROMPT, "a red book"], [1, 2], progress=lambda step, n, of: seen.setdefault(step, []).append((n, of))
    )
    assert tuple(seen) == (STEPS if everything else tuple(step for step in STEPS if step not in ("select", "verify")))
    assert seen["generate"] == [(n, 4) for n in range(1, 5)]
    for counts in seen.values():
        assert counts == sorted(counts)
        assert counts[-1][0] == counts[-1][1]


# --- batches --------------------------------------------------------------------------------------------------------


def test_results_do_not_depend_on_the_batch(make_realigner):
    prompts, seeds = [PROMPT, "a red book", "a yellow pen on the desk"], [1, 2, 3]
    together = make_realigner(batch_size=3)(prompts, seeds)
    by_two = make_realigner(batch_size=2)(prompts, seeds)
    for prompt, seed, one, two in zip(prompts, seeds, together, by_two, strict=True):
        alone = make_realigner()(prompt, seed)
        for other in (one, two):
            assert (other.prompt, other.seed, other.conditioning) == (prompt, seed, alone.conditioning)
            assert [tag.name for tag in other.tags] == [tag.name for tag in alone.tags]
            # Sums in other orders: a rounding step of the 8-bit image, no more.
            assert abs(pixels(other.coarse) - pixels(alone.coarse)).max() <= 1
            assert abs(pixels(other.refined) - pixels(alone.refined)).max() <= 2


def test_reusable_and_deterministic(realigner):
    first = realigner(PROMPT, 7)
    other = realigner("a red book", 8)
    again = realigner(PROMPT, 7)
    assert (pixels(first.refined) == pixels(again.refined)).all()
    assert (pixels(first.refined) != pixels(other.refined)).any()


def test_one_prompt_with_many_seeds(realigner):
    results = realigner(PROMPT, [1, 2])
    assert [(r.prompt, r.seed) for r in results] == [(PROMPT, 1), (PROMPT, 2)]
    assert (pixels(results[0].coarse) != pixels(results[1].coarse)).any()


@pytest.mark.parametrize("arguments", [(["a", "b"], [1, 2, 3]), (["a"], [-1]), ("a", True), ("a", ["1"])])
def test_prompts_and_seeds_that_do_not_go_together(realigner, arguments):
    with pytest.raises(OptionError, match="seed"):
        realigner(*arguments)


# --- images given by the user ---------------------------------------------------------------------------------------


def test_given_image_is_used_instead_of_a_generated_one(realigner):
    given = Image.new("RGB", (32, 32), "grey")
    ImageDraw.Draw(given).rectangle((0, 0, 15, 15), fill="white")
    result = realigner(PROMPT, 7, coarse=given)
    assert (pixels(result.coarse) == pixels(given)).all()
    assert not result.notes
    assert "generate" not in result.timings
    assert result.settings["coarse"] == "given"
    book = next(segment for segment in result.layout if segment.caption.tag == "book")
    assert book.mask[:16, :16].all()  # the white corner
    assert book.area == 0.25


def test_given_image_of_other_size_and_mode_is_converted_with_notes(realigner):
    given = Image.new("RGBA", (100, 60), (255, 0, 0, 0))  # red, but fully transparent
    result = realigner(PROMPT, 7, coarse=given)
    assert result.coarse.size == (32, 32)
    assert result.coarse.mode == "RGB"
    assert (pixels(result.coarse) == 255).all()
    assert ["RGBA" in note or "100 x 60" in note for note in result.notes] == [True, True]


def test_some_images_given(realigner):
    given = Image.new("RGB", (32, 32), "white")
    first, second = realigner([PROMPT, PROMPT], 7, coarse=[None, given])
    assert (pixels(first.coarse) == pixels(realigner(PROMPT, 7).coarse)).all()
    assert (pixels(second.coarse) == 255).all()


# --- nothing to modulate --------------------------------------------------------------------------------------------


def kept(result: Any, why: str) -> bool:
    return result.refined is result.coarse and result.conditioning == result.prompt and why in result.notes[-1]


def test_no_tag(make_realigner):
    result = make_realigner(options={"tagger": {"threshold": 1.0}})(PROMPT, 7)
    assert not result.tags
    assert kept(result, "no object was recognised")


def test_no_mask(make_realigner):
    blind = {"segmenter": {"blind_to": ["book", "pen", "desk"]}}
    result = make_realigner(options=blind)(PROMPT, 7)
    assert len(result.tags) == 4
    assert sorted(note.split("'")[1] for note in result.notes[:-1]) == ["desk", "red book", "yellow pen"]
    assert kept(result, "no mask was found")


def test_one_mask_missing_goes_on_without_it(make_realigner):
    result = make_realigner(options={"segmenter": {"blind_to": ["pen"]}})(PROMPT, 7)
    assert {segment.caption.tag for segment in result.layout} == {"book", "desk"}
    assert len(result.notes) == 1
    assert "no mask for 'yellow pen'" in result.notes[0]
    assert result.refined is not result.coarse


def test_everything_unlikely(realigner):
    given = Image.new("RGB", (32, 32), "white")
    only_sign = replace_tagger(realigner, lambda image: (Tag("sign"), Tag("sign", 0.5)))
    result = only_sign(PROMPT, 7, coarse=given)
    assert result.tags == (Tag("sign"),)  # the second is the same
    assert kept(result, "belongs to the prompt")


def test_unlikely_objects_are_segmented_only_on_demand(make_realigner):
    image = Image.new("RGB", (32, 32), "white")
    captions = [certain("book"), LocalCaption("sign", "sign", Likelihood.UNLIKELY)]

    def found(**arguments: Any) -> list[str]:
        layout, _ = make_realigner(**arguments).segment(image, captions)
        return [segment.caption.tag for segment in layout]

    assert found() == ["book"]
    assert found(segment_unlikely=True) == ["book", "sign"]
    assert found(modulation={"suppress_unlikely": True}) == ["book", "sign"]


def replace_tagger(realigner: Realigner, tag: Any) -> Realigner:
    class Given(contracts.Tagger):
        def __call__(self, images: Sequence[Any]) -> list[tuple[Tag, ...]]:
            return [tag(image) for image in images]

    return Realigner(realigner.generator, Given(), realigner.scorers, realigner.segmenter, registry=realigner.registry)


# --- bad input ------------------------------------------------------------------------------------------------------


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


def test_nan_in_the_model(make_realigner):
    with pytest.raises(ModelError, match="NaN"):
        make_realigner("tiny-broken")(PROMPT, 7)


def test_model_that_cannot_be_modulated_is_refused_without_loading(make_realigner):
    realigner = make_realigner("tiny-transformer")
    with pytest.raises(ModelError, match="cannot be re-weighted"):
        realigner(PROMPT, 7)
    with pytest.raises(ModelError, match="cannot be re-weighted"):
        realigner.refine([PROMPT], [Layout()], [7])


def test_a_pipeline_without_its_network_draws_nothing(make_realigner):
    pipeline = tiny.build_pipeline()
    realigner = make_realigner(pipeline, tagger="quadrants", scorer="wordy", segmenter="quadrants")
    pipeline.unet = None
    for call in (realigner.check_model, lambda: realigner(PROMPT, 7), lambda: realigner.generate([PROMPT], [7])):
        with pytest.raises(ModelError, match="has no unet: load it with all of its parts") as caught:
            call()
        assert "coarse" not in str(caught.value)
    with pytest.raises(ModelError, match="has no unet"):
        make_realigner(pipeline)


@pytest.mark.parametrize("kind", ["tagger", "segmenter", "select_by"])
def test_weights_that_cannot_be_had_are_missed_before_anything_is_drawn(make_realigner, kind):
    class Far(contracts.Plugin):
        def out_of_reach(self) -> str:
            return "its checkpoint is away. Fetch it."

        def __call__(self, *args: Any) -> Any:
            raise AssertionError("was asked")

    realigner = make_realigner(
        candidates=2, **{"select_by": lambda images, prompts: images.mean((1, 2, 3)), kind: Far()}
    )
    called = {"select_by": "reward"}.get(kind, kind)
    told = (
        f"{called} 'Far' cannot work: its checkpoint is away. Fetch it. Another {called} is chosen with {kind}= "
        f"(--{kind.replace('_', '-')}); 'realignkit plugins --kind {called}'."
    )
    for call in (realigner.check_reach, lambda: realigner(PROMPT, 7, progress=lambda *at: pytest.fail("has begun"))):
        with pytest.raises(ModelError) as caught:
            call()
        assert str(caught.value) == told
    assert len(realigner.generate([PROMPT], [7])) == 1


@pytest.mark.parametrize("kind", ["model", "tagger", "scorer", "segmenter"])
def test_unknown_names_suggest_known_ones(make_realigner, kind):
    wrong = {"model": "tinny", "tagger": "quadrant", "scorer": "word", "segmenter": "quadrant"}[kind]
    right = {"model": "tiny", "tagger": "quadrants", "scorer": "wordy", "segmenter": "quadrants"}[kind]
    with pytest.raises(PluginError, match=f"Did you mean '{right}'"):
        make_realigner(**{kind: wrong})


def test_unknown_options_suggest_known_ones(make_realigner):
    with pytest.raises(OptionError, match="threshold"):
        make_realigner(options={"tagger": {"treshold": 0.5}})
    with pytest.raises(OptionError, match="share"):
        make_realigner(modulation={"shares": 0.5})
    with pytest.raises(OptionError, match="num_inference_steps"):
        make_realigner(sampling={"steps": 5})
    with pytest.raises(OptionError, match="kind"):
        make_realigner(options={"taggers": {}})


def test_plugin_that_is_not_installed(make_realigner):
    with pytest.raises(PluginError, match="pip install 'distant-thing>=1'"):
        make_realigner(scorer="distant")


# --- plugins that fail ----------------------------------------------------------------------------------------------


class Raising(contracts.Scorer):
    class Options(contracts.Options):
        api_key: str = ""

    def __call__(self, prompt: str, tags: Sequence[Tag]) -> tuple[LocalCaption, ...]:
        raise TimeoutError(f"no answer with key {self.options.api_key}")


class Answering(contracts.Scorer):
    """Gives the tags' names through a function, each of them certain."""

    def __init__(self, change: Any) -> None:
        self.change = change

    def __call__(self, prompt: str, tags: Sequence[Tag]) -> tuple[Any, ...]:
        return tuple(certain(name) for name in self.change([tag.name for tag in tags]))


class Talking(contracts.Scorer):
    """Finds everything certain, and says how much that was."""

    def __call__(self, prompt, tags):
        return tuple(certain(tag.name) for tag in tags)

    def notes(self, prompt, captions):
        return (f"{len(captions)} judged for '{prompt}'",)


def chain(realigner: Realigner, *scorers: tuple[str, contracts.Scorer]) -> Realigner:
    return Realigner(realigner.generator, realigner.tagger, scorers, realigner.segmenter, registry=realigner.registry)


def test_what_a_scorer_says_reaches_the_notes(realigner):
    realigner = chain(realigner, ("raising", Raising()), ("talking", Talking()))
    result = realigner(PROMPT, 7)
    assert f"{len(result.tags)} judged for '{PROMPT}'" in result.notes
    assert realigner.score(PROMPT, result.tags).notes == (f"{len(result.tags)} judged for '{PROMPT}'",)


def test_scorers_that_break_the_contract_hand_over_and_it_is_recorded(realigner):
    tags = (Tag("book"), Tag("pen"))
    answer = chain(
        realigner,
        ("raises", Raising(api_key="sk-123")),
        ("forgets", Answering(lambda names: names[:-1])),
        ("invents", Answering(lambda names: [*names, "cat"])),
        ("repeats", Answering(lambda names: [names[0], *names])),
        ("shuffles", Answering(lambda names: names[::-1])),
        ("good", Answering(lambda names: names)),
        ("unused", Raising()),
    ).score(PROMPT, tags)
    assert answer.scorer == "good"
    assert answer.captions == (certain("book"), certain("pen"))
    assert list(answer.failures) == ["raises", "forgets", "invents", "repeats", "shuffles"]
    assert "TimeoutError" in answer.failures["raises"]
    assert "sk-123" not in answer.failures["raises"]
    assert "leaves out 'pen'" in answer.failures["forgets"]
    assert "invents 'cat'" in answer.failures["invents"]
    assert "repeats 'book'" in answer.failures["repeats"]
    assert "order" in answer.failures["shuffles"]


def test_answers_of_other_types_hand_over(realigner):
    class Chatty(contracts.Scorer):
        def __call__(self, prompt: str, tags: Sequence[Tag]) -> Any:
            return ["certainly!" for _ in tags]

    answer = chain(realigner, ("chatty", Chatty()), ("good", Answering(lambda n: n))).score(PROMPT, [Tag("book")])
    assert "certainly!" in answer.failures["chatty"]


def test_all_scorers_failing_names_each_reason(realigner):
    with pytest.raises(PluginError, match=r"first: TimeoutError.*second: .*leaves out"):
        chain(realigner, ("first", Raising()), ("second", Answering(lambda _: []))).score(PROMPT, [Tag("book")])


def test_fallback_is_noted_in_the_result(realigner):
    result = chain(realigner, ("first", Raising()), ("second", tiny.WordyScorer()))(PROMPT, 7)
    assert result.plugins["scorer"] == "second"
    assert any("'first' did not answer: TimeoutError" in note for note in result.notes)


def test_chain_from_names_ends_with_the_scorer_that_always_answers(registry, make_realigner):
    class More:
        @realignkit.hookimpl
        def register_scorers(self, register: Any) -> None:
            register("raising", Raising, "raises")
            register(LAST_SCORER, tiny.WordyScorer, "always answers")

    assert [name for name, _ in make_realigner().scorers] == ["wordy"]
    registry.register(More(), "more")
    assert [name for name, _ in make_realigner().scorers] == ["wordy", LAST_SCORER]
    explicit = make_realigner(scorer=f"raising, {LAST_SCORER},wordy", options={"scorer": {"api_key": "k"}})
    assert [name for name, _ in explicit.scorers] == ["raising", LAST_SCORER, "wordy"]
    assert [scorer.options.api_key for _, scorer in explicit.scorers] == ["k", "k", "k"]
    one = make_realigner(scorer="raising", options={"scorer": {"raising.api_key": "k"}})
    assert [scorer.options.api_key for _, scorer in one.scorers] == ["k", ""]


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        ([], "0 answers for 1"),
        ([(np.ones((4, 4), bool), 1.0)], r"must be bool \(32, 32\)"),
        ([(np.ones((32, 32)), 1.0)], "float64"),
        ([(np.ones((32, 32), bool), float("nan"))], r"confidence must be in \[0, 1\]"),
        ([np.ones((32, 32), bool)], r"no \(mask, confidence\)"),
    ],
)
def test_segmenter_that_breaks_the_contract_is_named(realigner, answer, problem):
    class Wrong(contracts.Segmenter):
        def __call__(self, image: Any, phrases: Sequence[str]) -> Any:
            return answer

    wrong = Realigner(realigner.generator, realigner.tagger, realigner.scorers, Wrong(), registry=realigner.registry)
    with pytest.raises(PluginError, match=f"segmenter 'Wrong' .*{problem}"):
        wrong.segment(Image.new("RGB", (32, 32)), [certain("book")])


def test_empty_mask_counts_as_not_found(realigner):
    class Nothing(contracts.Segmenter):
        def __call__(self, image: Any, phrases: Sequence[str]) -> Any:
            return [(np.zeros((32, 32), bool), 0.9) for _ in phrases]

    blind = Realigner(realigner.generator, realigner.tagger, realigner.scorers, Nothing(), registry=realigner.registry)
    layout, notes = blind.segment(Image.new("RGB", (32, 32)), [certain("book")])
    assert len(layout) == 0
    assert "no mask for 'book'" in notes[0]


def test_tagger_failures_are_named(realigner):
    def fail(image: Any) -> Any:
        raise ZeroDivisionError("oops")

    image = Image.new("RGB", (32, 32))
    with pytest.raises(PluginError, match="tagger 'Given' failed: ZeroDivisionError: oops"):
        replace_tagger(realigner, fail).tag([image])
    with pytest.raises(PluginError, match="no tag"):
        replace_tagger(realigner, lambda _: ("book",)).tag([image])


# --- lifecycle hooks ------------------------------------------------------------------------------------------------


class Keep:
    """Keeps the segments that a test selects, and remembers what it was shown."""

    def __init__(self, *names: str) -> None:
        self.names, self.seen = names, list[list[str]]()

    @realignkit.hookimpl
    def before_refine(self, layout: Layout) -> Layout | None:
        self.seen.append([segment.caption.tag for segment in layout])
        return Layout(tuple(segment for segment in layout if segment.caption.tag in self.names))


class Returning:
    def __init__(self, result: Any) -> None:
        self.result = result

    @realignkit.hookimpl
    def before_refine(self, prompt: str, layout: Layout) -> Any:
        return self.result(prompt, layout) if callable(self.result) else self.result


def test_layouts_pass_through_the_plugins_one_after_the_other(registry, realigner):
    later, looks, first = Keep("book"), Returning(None), Keep("book", "desk")
    for name, plugin in (("later", later), ("looks", looks), ("first", first)):  # last registered is called first
        registry.register(plugin, name)
    result = realigner(PROMPT, 7)
    assert sorted(first.seen[0]) == ["book", "desk", "pen"]
    assert sorted(later.seen[0]) == ["book", "desk"]
    assert [segment.caption.tag for segment in result.layout] == ["book"]


def test_plugin_that_takes_every_mask_away(registry, realigner):
    registry.register(Keep("nothing"), "emptier")
    assert kept(realigner(PROMPT, 7), "before_refine has left no mask")


def test_a_compiled_network_is_realigned_as_it_was(make_realigner):
    """All the way, from its size to its verdict; only the drawing of the coarse image is compiled."""
    own, other = make_realigner(), make_realigner()
    pipeline = other.generator.pipeline()
    pipeline.unet = torch.compile(pipeline.unet, backend="eager")
    try:
        results = [realigner(PROMPT, 7) for realigner in (own, other)]
    finally:
        pipeline.unet = pipeline.unet._orig_mod
    assert results[0].notes == results[1].notes
    assert np.abs(pixels(results[0].refined).astype(int) - pixels(results[1].refined)).max() <= 1


def test_what_is_not_modulated_is_noted(make_realigner):
    result = make_realigner(modulation={"share": 0.0})(PROMPT, 7)
    assert any("modulation.share is 0" in note for note in result.notes)


def test_plugin_can_bring_its_own_layout(registry, make_realigner):
    mask = np.zeros((32, 32), bool)
    mask[:, :10] = True
    registry.register(Returning(lambda prompt, layout: Layout((Segment(certain("book"), mask),))), "boxes")
    result = make_realigner(options={"tagger": {"threshold": 1.0}})(PROMPT, 7)  # no tags of its own
    assert result.layout.segments[0].area == pytest.approx(10 / 32)
    assert result.refined is not result.coarse
    assert not result.notes


@pytest.mark.parametrize(
    ("returned", "problem"),
    [
        ("layout", "a str is no Layout"),
        (Layout((Segment(certain("book"), np.ones((5, 5), bool)),)), r"bool \(32, 32\)"),
        (lambda prompt, layout: 1 / 0, "ZeroDivisionError"),
    ],
)
def test_before_refine_gone_wrong_names_the_plugin(registry, realigner, returned, problem):
    registry.register(Returning(returned), "culprit")
    with pytest.raises(PluginError, match=f"'culprit' .*{problem}"):
        realigner(PROMPT, 7)


def test_after_realign_sees_each_result(registry, realigner):
    class Looks:
        seen: list[Any]

        @realignkit.hookimpl
        def after_realign(self, realignment: Any) -> None:
            self.seen.append(realignment)

    looks = Looks()
    looks.seen = []
    registry.register(looks, "looks")
    results = realigner([PROMPT, "a red book"], 7)
    assert looks.seen == results


def test_after_realign_gone_wrong_names_the_plugin(registry, realigner):
    class Fails:
        @realignkit.hookimpl
        def after_realign(self) -> None:
            raise OSError("disk on fire")

    registry.register(Fails(), "culprit")
    with pytest.raises(PluginError, match="after_realign of plugin 'culprit' failed: OSError: disk on fire"):
        realigner(PROMPT, 7)


# --- settings -------------------------------------------------------------------------------------------------------


def test_models_defaults_lie_below_the_users_settings(make_realigner):
    plain = make_realigner()
    assert plain.modulation == ModulationConfig(share=0.5, cross_weight=2.0)
    assert plain.sampling.num_inference_steps == 4
    changed = make_realigner(modulation={"share": 0.9, "power": 3}, sampling={"guidance_scale": 2})
    assert changed.modulation == ModulationConfig(share=0.9, cross_weight=2.0, power=3)
    assert (changed.sampling.num_inference_steps, changed.sampling.guidance_scale) == (4, 2)
    whole = ModulationConfig(power=1)
    assert make_realigner(modulation=whole).modulation is whole


def test_settings_hold_every_effective_option_and_no_secret(make_realigner):
    options = {"scorer": {"api_key": "sk-secret"}, "tagger": {"threshold": 0.1}}
    settings = make_realigner(options=options)(PROMPT, 7).settings
    assert settings["tagger"] == {"threshold": 0.1}
    assert settings["segmenter"] == {"blind_to": []}
    assert settings["scorer"] == {"wordy": {"api_key": "***", "max_tokens": 7}}
    assert settings["modulation"] == ModulationConfig(share=0.5, cross_weight=2.0).model_dump(mode="json")
    assert settings["sampling"]["num_inference_steps"] == 4
    assert "sk-secret" not in repr(settings)


def test_plugins_may_be_given_ready_made(make_realigner):
    tagger = tiny.QuadrantTagger(threshold=0.2)
    realigner = make_realigner(tagger=tagger)
    assert realigner.tagger is tagger
    assert realigner.settings["tagger"] == {"threshold": 0.2}
    assert realigner.names["tagger"] == "QuadrantTagger"
    with pytest.raises(OptionError, match="already made"):
        make_realigner(tagger=tagger, options={"tagger": {"threshold": 0.3}})


def test_changed_setting_changes_the_result(make_realigner):
    weak, strong = (make_realigner(modulation={"cross_weight": w})(PROMPT, 7) for w in (0.1, 9.0))
    assert (pixels(weak.coarse) == pixels(strong.coarse)).all()
    assert (pixels(weak.refined) != pixels(strong.refined)).any()


def test_strength_starts_from_the_coarse_image(make_realigner):
    white = Image.new("RGB", (32, 32), "white")
    ImageDraw.Draw(white).rectangle((0, 0, 15, 15), fill="grey")
    realigner = make_realigner(modulation={"strength": 0.5})
    from_white = realigner(PROMPT, 7, coarse=white)
    from_own = realigner(PROMPT, 7, coarse=replace(from_white, coarse=white.rotate(180)).coarse)
    assert (pixels(from_white.refined) != pixels(from_own.refined)).any()


def test_refine_takes_an_image_per_prompt_or_none_at_all(realigner):
    with pytest.raises(OptionError, match="one image per prompt, or none at all"):
        realigner.refine([PROMPT] * 2, [Layout()] * 2, [1, 2], [Image.new("RGB", (32, 32)), None])
    assert len(realigner.refine([PROMPT] * 2, [Layout()] * 2, [1, 2], [None, None]).images) == 2


# --- who only draws, and changed copies -----------------------------------------------------------------------------


@pytest.mark.parametrize("drawing", [lambda: Realigner(tiny.TinyGenerator()), lambda: Realigner.drawing("tiny")])
def test_a_generator_alone_can_draw(registry, realigner, monkeypatch, drawing):
    monkeypatch.setattr("realignkit.realigner.default_registry", lambda: registry)
    alone = drawing().with_(sampling=realigner.sampling)
    assert (pixels(alone.generate([PROMPT], [7])[0]) == pixels(realigner.generate([PROMPT], [7])[0])).all()
    assert set(alone.names) == {"generator"} and alone.settings["scorer"] == {}
    assert (alone.tagger, alone.scorers, alone.segmenter) == (None, (), None)
    image = Image.new("RGB", (32, 32))
    calls: dict[str, Any] = {
        "tagger=": lambda: alone.tag([image]),
        "scorers=": lambda: alone.score(PROMPT, [Tag("book")]),
        "segmenter=": lambda: alone.segment(image, [certain("book")]),
    }
    for missing, call in calls.items():
        with pytest.raises(OptionError, match=f"Give {missing}"):
            call()
    begun: list[Any] = []
    with pytest.raises(OptionError, match="made without a tagger"):
        alone(PROMPT, 7, progress=lambda *args: begun.append(args))
    assert not begun


def test_a_changed_copy_leaves_the_realigner_as_it_is(realigner):
    before = realigner.settings
    changed = realigner.with_(modulation={"share": 0.2}, sampling={"num_inference_steps": 3}, batch_size=1)
    assert realigner.settings == before
    assert (changed.modulation.share, changed.sampling.num_inference_steps, changed.batch_size) == (0.2, 3, 1)
    assert changed.modulation.cross_weight == realigner.modulation.cross_weight
    assert changed.with_(modulation=realigner.modulation, sampling=realigner.sampling).settings == before
    assert changed.parts.generator is realigner.parts.generator
    other = realigner.with_(generator=tiny.TinyGenerator())
    assert (other.names["generator"], realigner.names["generator"]) == ("TinyGenerator", "tiny")
    with pytest.raises(OptionError, match="share"):
        realigner.with_(modulation={"share": 2})
    with pytest.raises(TypeError, match="nonsense"):
        realigner.with_(nonsense=1)
    for name in ("generator", "tagger", "segmenter", "scorers", "select_by", "names"):
        with pytest.raises(AttributeError, match=rf"'s {name} cannot be set: realigner\.with_\({name}=…\) "):
            setattr(realigner, name, None)
    with pytest.raises(AttributeError, match=r"settings cannot be set: realigner\.with_\(…\) makes a changed copy\.$"):
        realigner.settings = {}


# --- verification ---------------------------------------------------------------------------------------------------


class Forgetful(contracts.Tagger):
    """Sees a book and a pen in the pictures it was shown first, and ``left`` in any other."""

    def __init__(self, left: Sequence[str], first: int) -> None:
        super().__init__()
        self.left, self.first, self.shown = left, first, 0

    def __call__(self, images: Sequence[Image.Image]) -> list[tuple[Tag, ...]]:
        names = ["book", "pen", "sign"] if self.shown < self.first else self.left
        self.shown += len(images)
        return [tuple(Tag(name) for name in names) for _ in images]


@pytest.mark.parametrize(
    ("left", "accepted"),
    [(["pen", "book"], True), (["pen", "book", "banana"], True), (["book"], False), ([], False), (["sign"], False)],
)
def test_verification_accepts_what_still_shows_every_certain_object(make_realigner, left, accepted):
    result = make_realigner(modulation={"verify": True}, tagger=Forgetful(left, 1))(PROMPT, 7)
    assert result.accepted is accepted
    assert result.image is (result.refined if accepted else result.coarse)
    assert result.refined is not result.coarse  # drawn, and kept to be looked at, either way
    lost = {"book", "pen"} - set(left)
    notes = [note for note in result.notes if "has lost" in note]
    assert all(f"'{name}'" in notes[0] for name in lost) if lost else not notes
    assert "verify" in result.timings


def test_without_verification_the_refined_image_stands(make_realigner):
    result = make_realigner(tagger=Forgetful([], 1))(PROMPT, 7)
    assert result.accepted and result.image is result.refined and "verify" not in result.timings


def test_verification_judges_each_image_of_a_batch_by_its_own_prompt(make_realigner):
    results = make_realigner(modulation={"verify": True}, tagger=Forgetful(["book"], 2))([PROMPT, "a red book"], [1, 2])
    assert [result.accepted for result in results] == [False, True]  # only the first one's prompt names the pen


def test_a_rejection_survives_saving(make_realigner, tmp_path):
    result = make_realigner(modulation={"verify": True}, tagger=Forgetful([], 1))(PROMPT, 7)
    saved = realignkit.Realignment.load(result.save(tmp_path))
    assert not saved.accepted
    assert (pixels(saved.image) == pixels(result.coarse)).all()
    assert (pixels(saved.refined) == pixels(result.refined)).all()
