"""Several coarse images per prompt, of which a reward keeps one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from realignkit.calls import rate
from realignkit.draft import Draft, best_of_each, candidate_seeds, generate
from realignkit.errors import ModelError, OptionError
from realignkit.named import Named
from realignkit.realignment import Realignment
from tests.refl.rewards import Darkness

PROMPTS = ["a red book and a yellow pen", "a yellow pen on the desk"]


def pixels(image):
    return np.asarray(image, dtype=int)


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
        found = re.search(r'id="candidates">(.*?)</tr>', page)
        return page, None if found is None else re.sub(r"<.*?>", " ", found[1]).split()

    chosen = make_realigner(candidates=4, select_by=Darkness())(PROMPTS[0], 7)
    timed = dataclasses.replace(chosen, timings={"generate": 8.0, "select": 0.5, "refine": 3.0})
    page, found = row(timed)
    assert found == ["of", "which", "for", "4", "candidates", "6.50", "s"]  # three of the four images, and the looks
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
