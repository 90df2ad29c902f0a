from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

import realignkit
from realignkit import contracts
from realignkit.attention.config import ModulationConfig
from realignkit.errors import ModelError, OptionError, PluginError
from realignkit.realigner import STEPS, Realigner
from realignkit.types import Layout, Tag
from tests import tiny

PROMPT = "a red book and a yellow pen"


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image, dtype=np.int16)


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


# --- models that are refused ------------------------------------------------------------------------------------------


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
    message = (
        f"{called} 'Far' cannot work: its checkpoint is away. Fetch it. Another {called} is chosen with {kind}= "
        f"(--{kind.replace('_', '-')}); 'realignkit plugins --kind {called}'."
    )
    for call in (realigner.check_reach, lambda: realigner(PROMPT, 7, progress=lambda *at: pytest.fail("has begun"))):
        with pytest.raises(ModelError) as caught:
            call()
        assert str(caught.value) == message
    assert len(realigner.generate([PROMPT], [7])) == 1


def test_a_compiled_network_is_realigned_as_it_was(make_realigner):
    """All the way, from its size to its verdict; only the drawing of the coarse image is compiled."""
    plain, compiled = make_realigner(), make_realigner()
    pipeline = compiled.generator.pipeline()
    pipeline.unet = torch.compile(pipeline.unet, backend="eager")
    try:
        results = [realigner(PROMPT, 7) for realigner in (plain, compiled)]
    finally:
        pipeline.unet = pipeline.unet._orig_mod
    assert results[0].notes == results[1].notes
    assert np.abs(pixels(results[0].refined).astype(int) - pixels(results[1].refined)).max() <= 1


def test_what_is_not_modulated_is_noted(make_realigner):
    result = make_realigner(modulation={"share": 0.0})(PROMPT, 7)
    assert any("modulation.share is 0" in note for note in result.notes)


# --- settings -------------------------------------------------------------------------------------------------------


def test_settings_hold_every_effective_option_and_no_secret(make_realigner):
    options = {"scorer": {"api_key": "sk-secret"}, "tagger": {"threshold": 0.1}}
    settings = make_realigner(options=options)(PROMPT, 7).settings
    assert settings["tagger"] == {"threshold": 0.1}
    assert settings["segmenter"] == {"blind_to": []}
    assert settings["scorer"] == {"wordy": {"api_key": "***", "max_tokens": 7}}
    assert settings["modulation"] == ModulationConfig(share=0.5, cross_weight=2.0).model_dump(mode="json")
    assert settings["sampling"]["num_inference_steps"] == 4
    assert "sk-secret" not in repr(settings)


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
        "segmenter=": lambda: alone.segment(image, [tiny.certain("book")]),
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
    mistakes = {
        "nonsense": "no argument 'nonsense'",
        "model": r"'model' is called generator here: realigner\.with_\(generator=…\)",
        "scorer": r"'scorer' is called scorers here: realigner\.with_\(scorers=…\)",
        "share": r"a modulation option: realigner\.with_\(modulation=\{'share': …\}\)",
    }
    for name, problem in mistakes.items():
        with pytest.raises(TypeError, match=problem):
            realigner.with_(**{name: 1})
    for name in ("generator", "tagger", "segmenter", "scorers", "select_by", "names"):
        with pytest.raises(AttributeError, match=rf"'s {name} cannot be set: realigner\.with_\({name}=…\) "):
            setattr(realigner, name, None)
    with pytest.raises(AttributeError, match=r"settings cannot be set: realigner\.with_\(…\) makes a changed copy\.$"):
        realigner.settings = {}


def test_a_name_is_for_a_plugin_that_is_handed_in_without_one(realigner):
    with pytest.raises(OptionError, match="names has 'x' for a tagger, but none is handed in that has no name yet"):
        realigner.with_(names={"tagger": "x"})
    renamed = realigner.with_(tagger=realigner.tagger, scorers=tiny.WordyScorer(), names={"tagger": "x", "scorer": "y"})
    assert renamed.names == {**realigner.names, "tagger": "x"}
    assert [name for name, _ in renamed.scorers] == ["y"]


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("batch_size", 0, "batch_size must be at least 1"),
        ("candidates", 3, "3 candidates need a reward that chooses among them: give select_by"),
        ("heat_maps", "book", "heat_maps come in a list"),
        ("threads", 0, "threads must be"),
        ("segment_unlikely", "x", "segment_unlikely must be"),
        ("modulation", {"share": 2}, "share"),
        ("sampling", 3, "sampling takes a dict"),
        ("registry", 3, "registry takes a Registry"),
    ],
)
def test_an_option_that_is_set_is_checked(realigner, name, value, problem):
    before = getattr(realigner, name)
    with pytest.raises(OptionError, match=problem):
        setattr(realigner, name, value)
    assert getattr(realigner, name) == before


def test_an_option_that_is_set_is_brought_into_form(realigner):
    realigner.modulation = {"suppress_unlikely": True}
    assert realigner.modulation == ModulationConfig(suppress_unlikely=True) and realigner.segment_unlikely
    realigner.heat_maps, realigner.threads = [" book "], 1
    assert (realigner.heat_maps, realigner.threads) == (("book",), 1)


@pytest.mark.parametrize("name", ["refine_defaults", "sampling_defaults"])
def test_what_a_generator_says_suits_it_is_a_mapping(registry, name):
    generator = tiny.TinyGenerator()
    setattr(generator, name, None)
    assert Realigner.from_pretrained(generator, registry=registry).modulation is not None
    setattr(generator, name, 3)
    with pytest.raises(PluginError, match=f"'TinyGenerator' broke its contract: its {name} is no mapping but 3"):
        Realigner.from_pretrained(generator, registry=registry)


def test_what_the_tagger_misses_is_lost(realigner):
    seeing = realigner.with_(tagger=lambda images: [(Tag("book"),) for _ in images])
    captions = [tiny.certain("book"), tiny.certain("pen")]
    assert seeing.lost([captions, captions[:1]], [Image.new("RGB", (32, 32))] * 2) == [("pen",), ()]
