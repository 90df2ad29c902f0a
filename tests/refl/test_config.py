from __future__ import annotations

import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from realignkit.cli._settings import nested_names
from realignkit.contracts import parse_options
from realignkit.errors import OptionError
from realignkit.refl import PRESETS, ReFLConfig, preset
from realignkit.refl.algorithms.raft import RAFTOptions
from realignkit.refl.algorithms.refl import ReFLOptions
from realignkit.refl.config import ALGORITHMS, REMOVED, RENAMED, translated


def make(**options: object) -> ReFLConfig:
    return parse_options(ReFLConfig, options, owner="training")


def test_presets_have_the_published_schedules():
    paper, imagereward = preset("paper"), preset("imagereward")
    assert (paper.refl.num_inference_steps, paper.refl.late_steps[0], paper.reward_weight) == (50, 30, 1e-3)
    assert paper.accumulation(8) * paper.batch_size * 8 == 128
    assert (imagereward.refl.num_inference_steps, imagereward.refl.late_steps) == (40, (30, 39))
    assert {name for name in PRESETS if preset(name).denoising_weight != 1} == {"feedback"}  # else L_pre stays on
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


@pytest.mark.parametrize("algorithm", ["nft", "dpo", "grpo"])
def test_feedback_is_in_the_same_rounds_whatever_learns_from_them(algorithm):
    config = preset("feedback", algorithm=algorithm)
    options = config.options_of(algorithm)
    rounds = (options.guidance_scale, options.prompts_per_round, options.iterations_per_round)
    assert (config.algorithm, rounds) == (algorithm, (1.0, 128, 10))
    with pytest.raises(OptionError, match="nft has options, but algorithm=auto is trained"):
        preset("feedback", algorithm="auto")


def test_a_configuration_is_read_without_torch():
    program = "import sys, realignkit.refl.config as c; c.preset('paper'); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=120).returncode == 0


def test_each_algorithm_has_its_group_of_options():
    assert list(ALGORITHMS) == [name for name in ReFLConfig.model_fields if name in ALGORITHMS]
    for name, algorithm in ALGORITHMS.items():
        assert ReFLConfig().options_of(name) == algorithm.Options()


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
        ({"algorithm": "ppo"}, f"must be auto, {', '.join(ALGORITHMS)}, not 'ppo'"),
        ({"reward_weight": 0, "refl": {"kl_weight": 0.1}}, "kl_weight is measured on rollouts: leave it out"),
        ({"algorithm": "raft", "refl": {"kl_weight": 1}}, "refl has options, but algorithm=raft is trained"),
        ({"reward_weighted": {"margin": 0.5}}, "set algorithm=reward_weighted, or leave them out"),
        ({"raft": {"margin": 0.5}}, "raft.margin"),
        ({"optimizer": {"betas": (0.9, 1.0)}}, "betas"),
        ({"lora_ranks": 3}, "lora_ranks"),
        (
            {"algorithm": "dpo", "pairs": "here"},
            "has no L_pre: leave pairs out, or give rated pictures as dpo.pictures",
        ),
        ({"algorithm": "dpo", "reward_weight": 0}, "a control of dpo has its rewards shuffled"),
        ({"algorithm": "dpo", "reward_weight": "auto"}, "compares with L_pre, which dpo has none of"),
        ({"algorithm": "dpo", "dpo": {"loss_type": "ipo", "label_smoothing": 0.1}}, "label_smoothing is of loss_type"),
        ({"dpo": {"gap": 1}}, "set algorithm=dpo, or leave them out"),
    ],
)
def test_contradictions_are_refused(options, message):
    with pytest.raises(OptionError, match=message):
        make(**options)


def test_a_control_is_without_what_the_reward_says():
    feedback = preset("feedback", nft={"beta": 0.5}).control(Path("runs/a"))
    assert feedback.nft.shuffle_rewards and feedback.nft.pictures == Path("runs/a/rounds/000")
    assert feedback.nft.beta == 0.5 and feedback.reward_weight is None
    given = preset("feedback", algorithm="dpo", dpo={"pictures": Path("people")}).control(Path("runs/a"))
    assert given.dpo.pictures == Path("people")
    assert ReFLConfig().control(Path("runs/a")).reward_weight == 0
    assert ReFLConfig(denoising_weight=0).control(Path("runs/a")).leaves_nothing
    assert ReFLConfig(algorithm="raft").control(Path("runs/a")).raft.shuffle_rewards
    chosen = ReFLConfig(raft={"candidates": 2}).control(Path("runs/a"), "raft")
    assert chosen.algorithm == "auto" and chosen.reward_weight is None
    assert chosen.raft.shuffle_rewards and chosen.raft.candidates == 2


@pytest.mark.parametrize(
    "options", [{"iterations": 0}, {"lora": {"rank": 0}}, {"nonsense": 1}, {"refl": {"margin": "x"}}]
)
def test_a_config_made_by_hand_is_refused_in_words(options):
    with pytest.raises(OptionError, match=r"iterations|rank|nonsense|margin"):
        ReFLConfig(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"lora": {"ranks": 3}},
            "training: lora.ranks: Extra inputs are not permitted. lora's options: rank, alpha, targets.",
        ),
        (
            {"reward_weight": 0, "denoising_weight": 0},
            "training: with reward_weight=0 and denoising_weight=0 there is nothing to learn. Its options: algorithm, ",
        ),
        (
            {"refl": {"gradient_steps": (9, 5)}},
            "training: refl: gradient_steps 9, 5 must be two rising step indices below num_inference_steps=40. "
            "refl's options: solver, ",
        ),
    ],
)
def test_a_bad_option_is_told_with_those_of_its_group(options, message):
    with pytest.raises(OptionError) as caught:
        make(**options)
    assert str(caught.value).startswith(message)


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


# --- options of version 0.1 ---


@pytest.mark.parametrize("options", [{"purify": (400, 650)}, {"purify_draws": 2}, {"hold_style": False}])
def test_what_was_removed_is_said_to_be_with_where_its_lesson_is(options):
    with pytest.raises(OptionError, match=rf"{next(iter(options))} was removed .*reward-hacking\.md"):
        make(**options)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("margin", "training option margin is now training.refl.margin or training.reward_weighted.margin."),
        (
            "candidates",
            "training option candidates is now training.raft.candidates or training.dpo.candidates or "
            "training.nft.candidates or training.grpo.candidates.",
        ),
        (
            "kl_weight",
            "training option kl_weight is now training.refl.kl_weight or training.nft.kl_weight or "
            "training.grpo.kl_weight.",
        ),
        (
            "guidance_scale",
            "training option guidance_scale is now training.refl.guidance_scale or training.raft.guidance_scale or "
            "training.dpo.guidance_scale or training.nft.guidance_scale or training.grpo.guidance_scale.",
        ),
        (
            "gradients_per_rollout",
            "training option gradients_per_rollout is now training.refl.gradients_per_rollout or "
            "training.raft.gradients_per_rollout.",
        ),
        ("validate_every", "training option validate_every is now training.validation.every."),
        ("lora_rank", "training option lora_rank is now training.lora.rank."),
    ],
)
def test_former_names_are_refused_with_the_new_one(name, message):
    for attempt in (make, ReFLConfig, partial(preset, "paper")):
        with pytest.raises(OptionError) as caught:
            attempt(**{name: 3})
        assert str(caught.value) == message


def test_every_former_name_leads_to_an_option():
    options = set(nested_names(ReFLConfig))
    assert {now for names in RENAMED.values() for now in names} <= options
    assert not options & (RENAMED.keys() | REMOVED.keys())


def test_a_record_is_read_by_todays_names_without_what_its_algorithm_did_not_use():
    recorded = {"algorithm": "auto", "margin": 0.5, "candidates": 4, "lora_rank": 8, "purify": None, "seed": 1}
    shared = {"algorithm": "auto", "lora.rank": 8, "seed": 1}
    assert translated(recorded, "refl") == {**shared, "refl.margin": 0.5}
    assert translated(recorded, "raft") == {**shared, "raft.candidates": 4}
    assert translated(recorded, "reward_weighted") == {**shared, "reward_weighted.margin": 0.5}
    today = {**shared, "refl.margin": 0.5}
    assert translated(today, "refl") == today
