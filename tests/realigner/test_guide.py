"""Reward-guided sampling of a realigner: what it does to pictures, what is refused, and what goes on record."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from realignkit.contracts import Reward
from realignkit.errors import ModelError, OptionError, PluginError
from realignkit.evaluation import run_many
from realignkit.named import Named
from realignkit.realigner import Realigner
from realignkit.realigner.guide import gradient
from realignkit.realignment import Realignment
from realignkit.report.html import command_line, write_report
from tests import tiny
from tests.refl.rewards import Blind, Colour, Noisy

PROMPT, OTHER = "a red book and a yellow pen", "a yellow pen on the desk"


def colour_of(image, prompt):
    """The training reward, of a picture."""
    pixels = torch.tensor(np.asarray(image), dtype=torch.float32).permute(2, 0, 1)[None] / 255
    return float(Colour()(pixels, [prompt]))


def same(one, other):
    return (np.asarray(one) == np.asarray(other)).all()


def test_both_stages_are_guided_and_seeds_decide_alone(make_realigner):
    plain = make_realigner()(PROMPT, 7)
    guided = make_realigner(guide_by="colour", guide_share=1.0, guide_strength=0.5)
    result = guided(PROMPT, 7)
    assert colour_of(result.coarse, PROMPT) > colour_of(plain.coarse, PROMPT)
    assert colour_of(result.refined, PROMPT) > colour_of(plain.refined, PROMPT)
    assert not same(result.coarse, result.refined)
    again = guided(PROMPT, 7)
    assert same(result.refined, again.refined)
    assert same(guided.generate([PROMPT], [7])[0], result.coarse)
    refined = guided.refine([PROMPT], [result.layout], [7])
    assert same(refined.images[0], result.refined)
    off = guided.with_(guide_by=None)(PROMPT, 7)
    assert same(off.refined, plain.refined) and same(off.coarse, plain.coarse)
    assert off.settings == plain.settings and off.notes == plain.notes


def test_a_batch_is_guided_picture_by_picture(make_realigner):
    options = {"guide_by": "colour", "guide_strength": 0.5}
    together = make_realigner(batch_size=2, **options)([PROMPT, OTHER], [1, 2])
    for result, prompt, seed in zip(together, (PROMPT, OTHER), (1, 2), strict=True):
        alone = make_realigner(**options)(prompt, seed)
        assert np.abs(np.asarray(result.refined, dtype=int) - np.asarray(alone.refined, dtype=int)).max() <= 2


def test_what_it_was_guided_by_and_what_that_took_is_on_record(make_realigner, tmp_path):
    result = make_realigner(guide_by="colour", guide_share=0.5)(PROMPT, 7)
    assert result.settings["guide_by"] == {"colour": {}}
    assert (result.settings["guide_strength"], result.settings["guide_share"]) == (0.1, 0.5)
    assert result.settings["guide_margin"] is None
    (note,) = [note for note in result.notes if "guided" in note]
    assert "guided by colour in 4 of 8 passes of the network" in note  # two steps of four, in both stages
    assert result.timings["guide"] > 0
    result.save(tmp_path / "run")
    assert Realignment.load(tmp_path / "run").settings == result.settings
    page = write_report(result, tmp_path).read_text()
    assert re.search(r'id="guidance">With guidance by colour, drawing took \d+\.\d times as long', page)
    words = command_line(result, every_setting=True)
    assert "--guide-by colour" in words and "realigner.guide_share=0.5" in words
    plain = make_realigner()(PROMPT, 7)
    assert not {"guide_by", "guide_strength", "guide_share"} & plain.settings.keys()
    assert "guide" not in plain.timings
    assert 'id="guidance"' not in write_report(plain, tmp_path / "plain").read_text()


def test_it_goes_with_candidates_and_heat_maps(make_realigner):
    realigner = make_realigner(
        guide_by="colour", guide_strength=0.5, candidates=3, select_by="darkness", batch_size=2, heat_maps=["red"]
    )
    result = realigner(PROMPT, 7)
    assert not same(result.coarse, make_realigner(candidates=3, select_by="darkness")(PROMPT, 7).coarse)
    (first,) = make_realigner(guide_by="colour", guide_strength=0.5).generate([PROMPT], [7])
    assert colour_of(first, PROMPT) > colour_of(make_realigner().generate([PROMPT], [7])[0], PROMPT)
    assert result.heat_maps[0].refined is not None
    assert realigner.names == {**make_realigner().names, "reward": "darkness"}


def test_many_prompts_resume(make_realigner, tmp_path):
    realigner = make_realigner(guide_by="colour")
    first = run_many(realigner, [PROMPT, OTHER], tmp_path, [1])
    assert (first.made, len(first.failures)) == (2, 0)
    again = run_many(realigner, [PROMPT, OTHER], tmp_path, [1])
    assert (again.made, again.skipped) == (0, 2)


def test_a_reward_that_draws_always_draws_the_same(make_realigner):
    realigner = make_realigner(guide_by="noisy")
    state = torch.random.get_rng_state()
    one = realigner(PROMPT, 7)
    assert torch.equal(state, torch.random.get_rng_state())
    torch.manual_seed(99)
    assert same(one.refined, realigner(PROMPT, 7).refined)


def test_pictures_that_reach_the_margin_are_left_alone():
    images = torch.rand((2, 3, 8, 8))
    images[0] = torch.tensor([1.0, 0.0, 0.0]).view(3, 1, 1)

    moved = gradient(Named("reward", "colour", Colour()), 0.99, images, ["red", "red"])
    assert not moved[0].any()
    expected = images[1].mean((1, 2)) - torch.tensor([1.0, 0.0, 0.0])
    assert torch.allclose(moved[1], (-2 / 64 * expected).view(3, 1, 1).expand(3, 8, 8))


def test_a_margin_that_all_pictures_reach_guides_nothing(make_realigner):
    plain, idle = make_realigner()(PROMPT, 7), make_realigner(guide_by="colour", guide_margin=-100)(PROMPT, 7)
    assert np.abs(np.asarray(idle.refined, dtype=int) - np.asarray(plain.refined, dtype=int)).max() <= 1


def test_rewards_without_a_gradient_are_refused(make_realigner):
    with pytest.raises(OptionError, match=r"reward 'blind' has no gradient, which guide_by .* select_by"):
        make_realigner(guide_by="blind")
    with pytest.raises(OptionError, match="reward 'Blind' has no gradient"):
        make_realigner().with_(guide_by=Blind())

    class Detached(Blind):
        differentiable = True

    with pytest.raises(PluginError, match="no gradient"):
        make_realigner(guide_by=Detached()).generate([PROMPT], [1])

    class Elsewhere(Reward):
        def __call__(self, images, prompts):
            return torch.zeros(len(prompts), requires_grad=True) * 1

    with pytest.raises(PluginError, match="do not lead back to the images"):
        make_realigner(guide_by=Elsewhere()).generate([PROMPT], [1])

    class Steep(Reward):
        def __call__(self, images, prompts):
            return (images * 0).sqrt().sum((1, 2, 3))

    with pytest.raises(ModelError, match="gradient of reward 'Steep' is NaN or infinite"):
        make_realigner(guide_by=Steep()).generate([PROMPT], [1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"guide_strength": 0}, "guide_strength"),
        ({"guide_share": 1.5}, "guide_share"),
        ({"guide_share": 0.0}, "guide_share"),
        ({"guide_by": "nobody"}, "nobody"),
        ({"guide_by": "colour", "options": {"reward": {"size": 1}}}, r"no option 'reward\.size'"),
        ({"options": {"reward": {"size": 1}}}, "select_by or guide_by"),
    ],
)
def test_bad_options_are_refused(make_realigner, options, message):
    with pytest.raises((OptionError, PluginError), match=message):
        make_realigner(**options)


def test_one_reward_may_choose_and_guide(make_realigner):
    both = make_realigner(candidates=2, select_by="colour", guide_by="colour")
    assert both.select_by is both.guide_by


def test_models_that_cannot_be_guided_are_refused():
    pipeline = tiny.build_pipeline()
    pipeline.scheduler.register_to_config(prediction_type="flow_prediction")
    realigner = Realigner(pipeline, guide_by=Colour())
    with pytest.raises(ModelError, match="cannot be guided by a reward: a DDIMScheduler does not say where"):
        realigner.generate([PROMPT], [1])
    from accelerate import cpu_offload_with_hook

    pipeline = tiny.build_pipeline()
    cpu_offload_with_hook(pipeline.vae, execution_device="cpu")
    with pytest.raises(ModelError, match="offloaded"):
        Realigner(pipeline, guide_by=Colour()).generate([PROMPT], [1])


def test_the_command_line_guides(cli, tmp_path, make_realigner):
    arguments = ["run", PROMPT, "--model", "tiny", "--seed", 7, "--guide-by", "colour", "--set", "guide_strength=0.4"]
    assert cli(*arguments, "--out", tmp_path / "made").exit_code == 0
    made = Realignment.load(tmp_path / "made")
    expected = make_realigner(guide_by="colour", guide_strength=0.4)(PROMPT, 7)
    assert same(made.refined, expected.refined)
    assert made.settings["guide_strength"] == 0.4
    refused = cli("run", PROMPT, "--model", "tiny", "--guide-by", "blind", "--out", tmp_path / "refused")
    assert refused.exit_code != 0
    assert "has no gradient" in refused.output
    idle = cli("run", PROMPT, "--model", "tiny", "--set", "guide_strength=0.4", "--out", tmp_path / "idle")
    assert idle.exit_code == 2
    assert "guide_strength has no effect where no reward guides" in " ".join(idle.stderr.replace("│", " ").split())
    assert not (tmp_path / "refused" / "refined.png").exists()


def test_noise_of_a_reward_is_no_noise_of_sampling(make_realigner):
    assert same(
        make_realigner(guide_by=Noisy()).generate([PROMPT], [7])[0],
        make_realigner(guide_by=Noisy()).generate([PROMPT], [7])[0],
    )
