"""Options that have no effect with what is trained are told; those that have one are not."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from realignkit.named import Named
from realignkit.refl.config import ReFLConfig
from realignkit.refl.effects import without_effect
from realignkit_plugins.rewards.weighted import WeightedReward
from tests.refl.rewards import Blind, Darkness

REWARD = Named.of("reward", Blind())
FEEDBACK = {"algorithm": "nft", "trainable": "text_encoder"}


class Networks:
    """As much as is looked at of a model's."""

    def __init__(self, unet, distilled=False, kind="epsilon"):
        self.unet, self.distilled, self.noise = unet, distilled, SimpleNamespace(kind=kind)


@pytest.fixture(scope="module")
def unet():
    from tests import tiny

    return tiny.build_pipeline().unet


def sentences(unet, distilled=False, validates=True, watching=(), kind="epsilon", **given):
    config = ReFLConfig(**given)
    algorithm = "refl" if config.algorithm == "auto" else config.algorithm
    options = config.options_of(algorithm)
    return without_effect(config, algorithm, options, Networks(unet, distilled, kind), REWARD, validates, watching)


HAS_ALL = "nft.pictures has all that is learnt from"
NONE_DRAWN = f"no training prompt is drawn: {HAS_ALL}"
ONE_ROUND = "one round lasts to the end"


@pytest.mark.parametrize(
    ("given", "without"),
    [
        ({}, []),
        (FEEDBACK, []),
        ({**FEEDBACK, "prior_images": 7}, ["prior_images has no effect: the frozen model draws none here"]),
        ({"prior_images": 7, "caption_dropout": 0.2, "lora": {"rank": 2}}, []),
        ({**FEEDBACK, "caption_dropout": 0.2}, ["caption_dropout has no effect: nft learns from no captions here"]),
        ({"algorithm": "raft", "denoising_weight": 0, "caption_dropout": 0.2}, []),
        ({**FEEDBACK, "gradient_ratio": 2}, ["gradient_ratio has no effect: reward_weight is not auto"]),
        ({"gradient_ratio": 2, "reward_weight": "auto"}, []),
        ({**FEEDBACK, "compare_content": True}, ["compare_content has no effect: no pairs are given"]),
        ({**FEEDBACK, "compare_content": True, "nft": {"pictures": "here"}}, [NONE_DRAWN]),
        ({**FEEDBACK, "lora": {"rank": 2}}, ["lora.rank has no effect: trainable=text_encoder has no adapters"]),
        (
            {"trainable": "text_encoder_lora", "lora": {"rank": 2, "targets": ["to_q"]}},
            ["lora.targets has no effect: they are of the U-Net's adapters, and it has none"],
        ),
        ({"lora": {"targets": ["to_q", "to_z"]}}, ["lora.targets has 'to_z', as which no layer is called"]),
        (
            {"algorithm": "nft", "nft": {"guided": True, "guidance_scale": 1}},
            ["nft.guided has no effect: guidance_scale is 1"],
        ),
        ({"algorithm": "nft", "nft": {"guided": True, "guidance_scale": 3}}, []),
    ],
)
def test_an_option_that_differs_from_its_default_is_told_where_nothing_reads_it(unet, given, without):
    assert sentences(unet, **given) == without


@pytest.mark.parametrize(
    ("algorithm", "options", "without"),
    [
        ("nft", {"iterations_per_round": 10, "candidates": 8, "prompts_per_round": 3, "guidance_scale": 1}, []),
        ("nft", {"iterations_per_round": 20}, [f"nft.iterations_per_round has no effect: {ONE_ROUND}"]),
        (
            "nft",
            {"pictures": "here", "candidates": 8, "prompts_per_round": 3, "solver": "ddim", "guidance_scale": 2},
            [f"nft.{name} has no effect: {HAS_ALL}" for name in ("candidates", "prompts_per_round", "solver")]
            + [f"nft.guidance_scale has no effect: {HAS_ALL}", NONE_DRAWN],
        ),
        ("nft", {"pictures": "here", "candidates": 8, "iterations_per_round": 10}, []),
        ("nft", {"pictures": "here", "guidance_scale": 2, "guided": True}, [NONE_DRAWN]),
        ("nft", {"guidance_scale": 0.5, "guided": True}, ["nft.guided has no effect: guidance_scale is 0.5"]),
        (
            "grpo",
            {"pictures": "here", "num_inference_steps": 4, "guidance_scale": 2},
            [NONE_DRAWN.replace("nft", "grpo")],
        ),
        ("dpo", {"reference": "round", "iterations_per_round": 10}, []),
        (
            "dpo",
            {"reference": "round"},
            [f"dpo.reference has no effect: {ONE_ROUND}, and what begins it is the frozen model"],
        ),
    ],
)
def test_options_of_rounds_are_told_where_no_round_needs_them(unet, algorithm, options, without):
    given = {"algorithm": algorithm, "trainable": "text_encoder", "iterations": 20, algorithm: options}
    assert sentences(unet, **given) == without


@pytest.mark.parametrize(
    ("kind", "max_weight", "tells"),
    [("epsilon", 2, False), ("flow", 2, True), ("v_prediction", 2, True), ("flow", 0.5, False), ("flow", None, False)],
)
def test_a_limit_that_no_timestep_comes_to_is_told(unet, kind, max_weight, tells):
    why = f"nft.max_weight has no effect: errors of a model that predicts '{kind}' weigh 1 at most"
    given = {"algorithm": "nft", "trainable": "text_encoder", "nft": {"max_weight": max_weight}}
    assert sentences(unet, kind=kind, **given) == ([why] if tells else [])


def test_what_watches_is_told_where_nothing_is_validated(unet):
    options = {"validation": {"every": 0, "patience": 2}, "watching": ["the judge is not asked"]}
    assert sentences(unet, **options) == []
    assert sentences(unet, validates=False, **options) == [
        "validation.patience has no effect: nothing is validated",
        "the judge is not asked: nothing is validated",
    ]


def test_a_distilled_model_is_told_its_guidance(unet):
    given = {"algorithm": "nft", "nft": {"guided": True, "guidance_scale": 3}}
    assert sentences(unet, distilled=True, **given) == [
        "nft.guided has no effect: a distilled model is told its guidance"
    ]


def test_a_sum_that_is_standardised_for_choosing_is_told(make_trainer):
    for normalise, told in (
        (False, []),
        (True, ["reward.normalise has no effect: it is for choosing among candidates"]),
    ):
        reward = WeightedReward.of({"a": (Blind(), 1.0), "b": (Darkness(), 0.5)}, normalise=normalise)
        said = make_trainer(reward, algorithm="dpo", validation={"every": 1}).idle_options()
        assert [each for each in said if each.startswith("reward")] == told


def test_a_trainer_knows_what_it_was_given(make_trainer):
    options = {"algorithm": "nft", "validation": {"every": 0, "steps": None, "samples": 8}, "trainable": "text_encoder"}
    assert make_trainer(Blind(), **options, judge=Darkness()).idle_options() == [
        "prior_images has no effect: the frozen model draws none here",
        "lora.rank has no effect: trainable=text_encoder has no adapters",
        "the judge is not asked: nothing is validated",
        "the held-out prompts are not drawn: nothing is validated",
    ]
