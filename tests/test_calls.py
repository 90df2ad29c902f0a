"""Plugins get copies, and what they return is checked: nothing wrong gets any further."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image

import realignkit
from realignkit import Realigner, calls, contracts
from realignkit.errors import PluginError
from realignkit.named import Named
from realignkit.registry import Registry
from realignkit.types import Layout, Likelihood, LocalCaption, Tag
from tests import tiny

PROMPT = "a red book and a yellow pen"


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
    painted = realigner.with_(tagger=Painter(), segmenter=PaintingSegmenter())(PROMPT, 7)
    assert np.array_equal(np.asarray(painted.coarse), np.asarray(clean.coarse))
    image = Image.new("RGB", (32, 32))
    realigner.with_(tagger=Painter()).tag([image])
    assert image.getextrema() == ((0, 0),) * 3


def test_a_segmenters_memory_is_not_the_layouts(realigner):
    segmenter = PaintingSegmenter()
    captions = [LocalCaption("book", "a red book", Likelihood.CERTAIN)]
    layout, _ = realigner.with_(segmenter=segmenter).segment(Image.new("RGB", (32, 32)), captions)
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
        realigner.with_(tagger=Unsure()).tag([Image.new("RGB", (32, 32))])


def test_numpys_numbers_are_welcome_and_become_pythons(realigner):
    class Sure(contracts.Tagger):
        def __call__(self, images):
            return [(Tag("book", np.float32(0.5)),) for _ in images]

    ((tag,),) = realigner.with_(tagger=Sure()).tag([Image.new("RGB", (32, 32))])
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


# --- plugins that fail ------------------------------------------------------------------------------------------------


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
        return tuple(tiny.certain(name) for name in self.change([tag.name for tag in tags]))


class Talking(contracts.Scorer):
    """Finds everything certain, and says how much that was."""

    def __call__(self, prompt, tags):
        return tuple(tiny.certain(tag.name) for tag in tags)

    def notes(self, prompt, captions):
        return (f"{len(captions)} judged for '{prompt}'",)


def test_a_note_that_is_a_text_is_one_note(realigner):
    class Brief(Talking):
        def notes(self, prompt, captions):
            return "all of it"

    assert realigner.with_(scorers=Brief()).score(PROMPT, [Tag("book")]).notes == ("all of it",)


@pytest.mark.parametrize("concurrency", ["x", None, float("inf")])
def test_a_scorer_says_in_numbers_how_much_it_takes_at_once(realigner, concurrency):
    scorer = Talking()
    scorer.concurrency = concurrency
    with pytest.raises(PluginError, match=r"^scorer 'Talking' broke its contract: its concurrency is .*, no whole"):
        realigner.with_(scorers=scorer)(PROMPT, 7)


@pytest.mark.parametrize("family", ["unet", None])
def test_a_generator_without_a_pipeline_is_named(family):
    class Empty:
        attention_family = family

        def pipeline(self):
            return None

    with pytest.raises(PluginError, match="generator 'Empty' broke its contract: its pipeline cannot be called"):
        Realigner(Empty()).generate([PROMPT], [7])


def test_a_reward_that_works_in_place_changes_its_copy_only():
    class Eraser(contracts.Reward):
        def __call__(self, images, prompts):
            return images.mul_(0).sum((1, 2, 3))

    images = torch.ones(2, 3, 4, 4)
    calls.rewards_of(Named("reward", "eraser", Eraser()), images, [PROMPT, PROMPT])
    assert (images == 1).all()
    seen = images.clone().requires_grad_()
    same = Named("reward", "same", lambda tensor, prompts: tensor.sum((1, 2, 3)) * (tensor is seen))
    assert calls.rewards_of(same, seen, [PROMPT, PROMPT], gradient=True).tolist() == [48, 48]


def test_complex_rewards_are_none():
    reward = Named("reward", "waves", lambda images, prompts: torch.ones(len(prompts), dtype=torch.complex64))
    with pytest.raises(PluginError, match="reward 'waves' broke its contract: its rewards are complex numbers"):
        calls.rewards_of(reward, torch.ones(2, 3, 4, 4), [PROMPT, PROMPT])


def test_what_a_scorer_says_reaches_the_notes(realigner):
    realigner = realigner.with_(scorers=[("raising", Raising()), ("talking", Talking())])
    result = realigner(PROMPT, 7)
    assert f"{len(result.tags)} judged for '{PROMPT}'" in result.notes
    assert realigner.score(PROMPT, result.tags).notes == (f"{len(result.tags)} judged for '{PROMPT}'",)


def test_scorers_that_break_the_contract_hand_over_and_it_is_recorded(realigner):
    tags = (Tag("book"), Tag("pen"))
    scorers = [
        ("raises", Raising(api_key="sk-123")),
        ("forgets", Answering(lambda names: names[:-1])),
        ("invents", Answering(lambda names: [*names, "cat"])),
        ("repeats", Answering(lambda names: [names[0], *names])),
        ("shuffles", Answering(lambda names: names[::-1])),
        ("good", Answering(lambda names: names)),
        ("unused", Raising()),
    ]
    answer = realigner.with_(scorers=scorers).score(PROMPT, tags)
    assert answer.scorer == "good"
    assert answer.captions == (tiny.certain("book"), tiny.certain("pen"))
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

    scorers = [("chatty", Chatty()), ("good", Answering(lambda names: names))]
    answer = realigner.with_(scorers=scorers).score(PROMPT, [Tag("book")])
    assert "certainly!" in answer.failures["chatty"]


def test_all_scorers_failing_names_each_reason(realigner):
    failing = realigner.with_(scorers=[("first", Raising()), ("second", Answering(lambda _: []))])
    with pytest.raises(PluginError, match=r"first: TimeoutError.*second: .*leaves out"):
        failing.score(PROMPT, [Tag("book")])


def test_fallback_is_noted_in_the_result(realigner):
    result = realigner.with_(scorers=[("first", Raising()), ("second", tiny.WordyScorer())])(PROMPT, 7)
    assert result.plugins["scorer"] == "second"
    assert any("'first' did not answer: TimeoutError" in note for note in result.notes)


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

    wrong = realigner.with_(segmenter=Wrong())
    with pytest.raises(PluginError, match=f"segmenter 'Wrong' .*{problem}"):
        wrong.segment(Image.new("RGB", (32, 32)), [tiny.certain("book")])


def test_empty_mask_counts_as_not_found(realigner):
    class Nothing(contracts.Segmenter):
        def __call__(self, image: Any, phrases: Sequence[str]) -> Any:
            return [(np.zeros((32, 32), bool), 0.9) for _ in phrases]

    blind = realigner.with_(segmenter=Nothing())
    layout, notes = blind.segment(Image.new("RGB", (32, 32)), [tiny.certain("book")])
    assert len(layout) == 0
    assert "no mask for 'book'" in notes[0]


@pytest.mark.parametrize(
    ("returned", "stops"),
    [(None, False), (False, False), (True, True), (np.True_, True), ("no", None), (np.ones(2), None)],
)
def test_a_hook_ends_a_run_with_a_truth_value(returned: Any, stops: bool | None):
    class Plugin:
        @realignkit.hookimpl
        def after_train_step(self, state: Any) -> Any:
            return returned

    registry, state = Registry(discover=False), cast(Any, None)
    registry.register(Plugin(), "odd")
    if stops is None:
        with pytest.raises(
            PluginError, match=r"after_train_step of plugin 'odd' broke .*must return True to end the run"
        ):
            calls.after_train_step(registry, state)
    else:
        assert calls.after_train_step(registry, state) is stops


def test_tagger_failures_are_named(realigner):
    class Given(contracts.Tagger):
        def __init__(self, tag: Any) -> None:
            self.tag = tag

        def __call__(self, images: Sequence[Any]) -> list[tuple[Tag, ...]]:
            return [self.tag(image) for image in images]

    def fail(image: Any) -> Any:
        raise ZeroDivisionError("oops")

    image = Image.new("RGB", (32, 32))
    with pytest.raises(PluginError, match="tagger 'Given' failed: ZeroDivisionError: oops"):
        realigner.with_(tagger=Given(fail)).tag([image])
    with pytest.raises(PluginError, match="no tag"):
        realigner.with_(tagger=Given(lambda _: ("book",))).tag([image])
