"""An image on its way: the best of several coarse ones, nothing to modulate, and whether it is accepted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from realignkit import contracts
from realignkit.calls import rate
from realignkit.errors import ModelError, OptionError
from realignkit.named import Named
from realignkit.realigner.draft import Draft, best_of_each, candidate_seeds, generate
from realignkit.realignment import Realignment
from realignkit.types import Likelihood, LocalCaption, Tag
from tests import tiny
from tests.refl.rewards import Darkness

PROMPTS = ["a red book and a yellow pen", "a yellow pen on the desk"]


def pixels(image):
    return np.asarray(image, dtype=int)


# --- best of several --------------------------------------------------------------------------------------------------


def test_seeds_begin_with_the_given_one_and_are_all_different():
    assert candidate_seeds(7, 1) == [7]
    many = [seed for start in range(50) for seed in candidate_seeds(start, 4)]
    assert len(set(many)) == 200
    assert all(0 <= seed < 2**63 for seed in many)
    assert candidate_seeds(7, 4)[:2] == candidate_seeds(7, 2)


def test_the_rewards_best_goes_on_and_is_refined_from_its_own_noise(make_realigner):
    plain = make_realigner()
    chooser = make_realigner(candidates=3, select_by=Darkness(), batch_size=4)
    results = chooser(PROMPTS, [7, 8])
    for prompt, seed, result in zip(PROMPTS, (7, 8), results, strict=True):
        seeds = candidate_seeds(seed, 3)
        alone = plain(prompt, seeds)
        darkness = rate(Named("reward", "darkness", Darkness()), [r.coarse for r in alone], [prompt] * 3)
        best = darkness.index(max(darkness))
        assert abs(pixels(result.coarse) - pixels(alone[best].coarse)).max() <= 1
        assert abs(pixels(result.refined) - pixels(alone[best].refined)).max() <= 2
        assert result.seed == seed
        (note,) = [note for note in result.notes if "candidate" in note]
        assert note.startswith(f"candidate {best + 1} of 3 was kept (seed {seeds[best]})")
        assert result.timings["select"] > 0
        assert result.plugins["reward"] == "Darkness"
        assert result.settings["candidates"] == 3


def test_one_candidate_changes_nothing(make_realigner):
    plain, one = make_realigner()(PROMPTS[0], 7), make_realigner(candidates=1, select_by=Darkness())(PROMPTS[0], 7)
    assert (pixels(plain.refined) == pixels(one.refined)).all()
    assert plain.settings == one.settings
    assert set(plain.timings) == set(one.timings)


def test_given_images_are_not_chosen_among(make_realigner):
    image = make_realigner()(PROMPTS[0], 7).coarse
    result = make_realigner(candidates=2, select_by=Darkness())(PROMPTS[0], 7, coarse=image)
    assert (pixels(result.coarse) == pixels(image)).all()
    assert [note for note in result.notes if "candidate" in note] == [
        "no candidates were drawn: the coarse image was given"
    ]


def test_mistakes(make_realigner):
    with pytest.raises(OptionError, match="give select_by"):
        make_realigner(candidates=2)
    with pytest.raises(OptionError, match="at least 1"):
        make_realigner(candidates=0)

    class Broken(Darkness):
        def __call__(self, images, prompts):
            return super().__call__(images, prompts) * float("inf")

    with pytest.raises(ModelError, match="'Broken' computed NaN or infinity"):
        make_realigner(candidates=2, select_by=Broken())(PROMPTS[0], 7)


def test_command_line(cli, tmp_path, make_realigner):
    arguments = ["run", PROMPTS[0], "--model", "tiny", "--seed", 7, "--scorer", "wordy", "--out", tmp_path / "out"]
    result = cli(*arguments, "--candidates", 3, "--select-by", "darkness")
    assert result.exit_code == 0, result.output + result.stderr
    saved = Realignment.load(tmp_path / "out")
    expected = make_realigner(candidates=3, select_by="darkness")(PROMPTS[0], 7)
    assert (pixels(saved.refined) == pixels(expected.refined)).all()
    assert "candidate" in result.output
    for wrong in (["--candidates", 3], ["--select-by", "darkness"]):
        assert cli(*arguments, *wrong).exit_code == 2


def test_a_reward_may_rank_by_something_finer_than_it_reports():
    class Coarse(Darkness):
        def reported(self, images, prompts):
            return torch.zeros(len(images))

        def ranked(self, images, prompts):
            return -torch.tensor([float(pixels(image).mean()) for image in images])

    images = [Image.new("RGB", (4, 4), (shade,) * 3) for shade in (90, 20, 200, 30, 80, 10)]
    coarse = Named("reward", "coarse", Coarse())
    chosen = best_of_each(images, ["a", "b"], list(range(6)), coarse, batch_size=4)
    assert [choice.index for choice in chosen] == [1, 2]
    assert chosen[0].rewards == (-90.0, -20.0, -200.0)
    assert rate(coarse, images, ["a"] * 6) == [0.0] * 6


def test_the_report_says_what_choosing_cost(make_realigner, tmp_path):
    import dataclasses
    import re

    from realignkit.report import write_report

    def row(realignment):
        page = write_report(realignment, tmp_path).read_text()
        match = re.search(r'id="candidates">(.*?)</tr>', page)
        return page, None if match is None else re.sub(r"<.*?>", " ", match[1]).split()

    chosen = make_realigner(candidates=4, select_by=Darkness())(PROMPTS[0], 7)
    timed = dataclasses.replace(chosen, timings={"generate": 8.0, "select": 0.5, "refine": 3.0})
    page, words = row(timed)
    assert words == ["of", "which", "for", "4", "candidates", "6.50", "s"]  # three of the four images, and the looks
    assert "The best of 4, by Darkness." in page
    assert row(make_realigner()(PROMPTS[0], 7))[1] is None
    given = make_realigner(candidates=4, select_by=Darkness())(PROMPTS[0], 7, coarse=chosen.coarse)
    assert row(given)[1] is None


def test_candidates_are_drawn_in_batches(make_realigner):
    """Two prompts of three candidates at batch size 4: passes of 4 and 2 pictures, not six of one."""
    realigner, sizes = make_realigner(candidates=3, select_by=Darkness(), batch_size=4), []
    decoder = realigner.generator.pipeline().vae.decoder
    hook = decoder.register_forward_hook(lambda _, given, __: sizes.append(len(given[0])))
    try:
        drawn = [Draft(prompt, seed) for prompt, seed in zip(PROMPTS, (7, 8), strict=True)]
        generate(realigner, drawn, lambda *_: None)
    finally:
        hook.remove()
    assert all(draft.coarse.size == (32, 32) for draft in drawn)
    assert sizes == [4, 2]


# --- nothing to modulate ----------------------------------------------------------------------------------------------


def kept(result: Any, why: str) -> bool:
    return result.refined is result.coarse and result.conditioning == result.prompt and why in result.notes[-1]


def test_no_tag(make_realigner):
    result = make_realigner(options={"tagger": {"threshold": 1.0}})(PROMPTS[0], 7)
    assert not result.tags
    assert kept(result, "no object was recognised")


def test_no_mask(make_realigner):
    blind = {"segmenter": {"blind_to": ["book", "pen", "desk"]}}
    result = make_realigner(options=blind)(PROMPTS[0], 7)
    assert len(result.tags) == 4
    assert sorted(note.split("'")[1] for note in result.notes[:-1]) == ["desk", "red book", "yellow pen"]
    assert kept(result, "no mask was found")


def test_one_mask_missing_goes_on_without_it(make_realigner):
    result = make_realigner(options={"segmenter": {"blind_to": ["pen"]}})(PROMPTS[0], 7)
    assert {segment.caption.tag for segment in result.layout} == {"book", "desk"}
    assert len(result.notes) == 1
    assert "no mask for 'yellow pen'" in result.notes[0]
    assert result.refined is not result.coarse


def test_everything_unlikely(realigner):
    given = Image.new("RGB", (32, 32), "white")
    only_sign = realigner.with_(tagger=lambda images: [(Tag("sign"), Tag("sign", 0.5)) for _ in images])
    result = only_sign(PROMPTS[0], 7, coarse=given)
    assert result.tags == (Tag("sign"),)  # the second is the same
    assert kept(result, "belongs to the prompt")


def test_unlikely_objects_are_segmented_only_on_demand(make_realigner):
    image = Image.new("RGB", (32, 32), "white")
    captions = [tiny.certain("book"), LocalCaption("sign", "sign", Likelihood.UNLIKELY)]

    def segmented(**arguments: Any) -> list[str]:
        layout, _ = make_realigner(**arguments).segment(image, captions)
        return [segment.caption.tag for segment in layout]

    assert segmented() == ["book"]
    assert segmented(segment_unlikely=True) == ["book", "sign"]
    assert segmented(modulation={"suppress_unlikely": True}) == ["book", "sign"]


# --- verification -----------------------------------------------------------------------------------------------------


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
    result = make_realigner(modulation={"verify": True}, tagger=Forgetful(left, 1))(PROMPTS[0], 7)
    assert result.accepted is accepted
    assert result.image is (result.refined if accepted else result.coarse)
    assert result.refined is not result.coarse  # drawn, and kept to be looked at, either way
    lost = {"book", "pen"} - set(left)
    notes = [note for note in result.notes if "has lost" in note]
    assert all(f"'{name}'" in notes[0] for name in lost) if lost else not notes
    assert "verify" in result.timings


def test_without_verification_the_refined_image_stands(make_realigner):
    result = make_realigner(tagger=Forgetful([], 1))(PROMPTS[0], 7)
    assert result.accepted and result.image is result.refined and "verify" not in result.timings


def test_verification_judges_each_image_of_a_batch_by_its_own_prompt(make_realigner):
    results = make_realigner(modulation={"verify": True}, tagger=Forgetful(["book"], 2))(
        [PROMPTS[0], "a red book"], [1, 2]
    )
    assert [result.accepted for result in results] == [False, True]  # only the first one's prompt names the pen


def test_a_rejection_survives_saving(make_realigner, tmp_path):
    result = make_realigner(modulation={"verify": True}, tagger=Forgetful([], 1))(PROMPTS[0], 7)
    saved = Realignment.load(result.save(tmp_path))
    assert not saved.accepted
    assert (pixels(saved.image) == pixels(result.coarse)).all()
    assert (pixels(saved.refined) == pixels(result.refined)).all()
