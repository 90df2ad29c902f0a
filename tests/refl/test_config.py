from __future__ import annotations

import pytest

from realignkit.contracts import parse_options
from realignkit.errors import OptionError
from realignkit.refl import PRESETS, ReFLConfig, preset
from realignkit.refl.algorithms import ALGORITHMS, RAFTOptions, ReFLOptions


def make(**options: object) -> ReFLConfig:
    return parse_options(ReFLConfig, options, owner="training")


def test_presets_have_the_published_schedules():
    paper, imagereward = preset("paper"), preset("imagereward")
    assert (paper.refl.num_inference_steps, paper.refl.late_steps[0], paper.reward_weight) == (50, 30, 1e-3)
    assert paper.accumulation(8) * paper.batch_size * 8 == 128
    assert (imagereward.refl.num_inference_steps, imagereward.refl.late_steps) == (40, (30, 39))
    assert all(preset(name).denoising_weight == 1 for name in PRESETS)  # L_pre stays on
    assert preset("final").refl.rated_image == "final"
    assert all(
        preset(name).refl.rated_image == "jump" for name in ("paper", "imagereward", "fast")
    )  # eq. 5 as published
    assert preset("paper", seed=7).seed == 7
    pairs = preset("pairs", reward_weighted={"temperature": 0.02})
    assert (pairs.algorithm, pairs.reward_weighted.pair_sampling) == ("reward_weighted", "weighted")
    assert pairs.reward_weighted.temperature == 0.02  # beside what the preset says
    with pytest.raises(OptionError, match="paper"):
        preset("papr")


def test_a_preset_goes_with_every_algorithm_that_draws():
    assert preset("fast").raft == RAFTOptions(solver="dpmpp", num_inference_steps=20, gradients_per_rollout=3)
    raft = preset("fast", algorithm="raft", raft={"candidates": 8})
    assert (raft.raft.solver, raft.raft.candidates) == ("dpmpp", 8)
    assert preset("fast", refl=ReFLOptions(margin=0.5)).refl.solver == "dpmpp"
    assert preset("paper", algorithm="reward_weighted").iterations == 1000


def test_each_algorithm_has_its_group_of_options():
    assert list(ALGORITHMS) == [name for name in ReFLConfig.model_fields if name in ALGORITHMS]
    for name, algorithm in ALGORITHMS.items():
        assert ReFLConfig().options_of(name) == algorithm.Options()


def test_late_steps_are_the_last_part_unless_said():
    assert ReFLOptions(num_inference_steps=50).late_steps == (30, 49)
    assert ReFLOptions(num_inference_steps=10, gradient_steps=(2, 5)).late_steps == (2, 5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"refl": {"num_inference_steps": 10, "gradient_steps": (5, 10)}}, "below num_inference_steps=10"),
        ({"refl": {"gradient_steps": (9, 5)}}, "rising"),
        ({"refl": {"gradient_steps": (30, 31), "gradients_per_rollout": 3}}, "do not fit"),
        ({"reward_weight": -1}, "not negative"),
        ({"reward_weight": "much"}, "reward_weight"),
        ({"reward_weight": 0, "denoising_weight": 0}, "nothing to learn"),
        ({"reward_weight": "auto", "denoising_weight": 0}, "compares"),
        ({"reward_weight": "auto", "denoising_weight": 0, "refl": {"kl_weight": 1.0}}, "compares"),
        ({"algorithm": "dpo"}, "must be auto, refl, raft, reward_weighted, not 'dpo'"),
        ({"algorithm": "raft", "refl": {"kl_weight": 1}}, "refl has options, but algorithm=raft is trained"),
        ({"reward_weighted": {"margin": 0.5}}, "set algorithm=reward_weighted, or leave them out"),
        ({"raft": {"margin": 0.5}}, "raft.margin"),
        ({"optimizer": {"betas": (0.9, 1.0)}}, "betas"),
        ({"lora_ranks": 3}, "lora_ranks"),
    ],
)
def test_contradictions_are_refused(options, message):
    with pytest.raises(OptionError, match=message):
        make(**options)


@pytest.mark.parametrize(
    "options", [{"iterations": 0}, {"lora": {"rank": 0}}, {"nonsense": 1}, {"refl": {"margin": "x"}}]
)
def test_a_config_made_by_hand_is_refused_in_words(options):
    with pytest.raises(OptionError, match=r"iterations|rank|nonsense|margin"):
        ReFLConfig(**options)


def test_total_batch_is_split_over_processes_and_accumulation():
    assert make(batch_size=4, gradient_accumulation_steps=3).accumulation(2) == 3
    assert make(batch_size=4, total_batch_size=128).accumulation(8) == 4
    with pytest.raises(OptionError, match="no multiple"):
        make(batch_size=3, total_batch_size=128).accumulation(1)


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_learning_rate_warms_up_and_decays(schedule):
    config = make(iterations=100, warmup_iterations=10, schedule=schedule, learning_rate=1.0)
    rates = [config.learning_rate_at(i) for i in range(101)]
    assert rates[:10] == sorted(rates[:10])
    assert 0 < rates[0] < 0.2
    assert rates[10] == 1.0
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[100] == (1.0 if schedule == "constant" else pytest.approx(0, abs=1e-12))
    if schedule != "constant":
        assert rates[55] == pytest.approx(0.5)  # half way
