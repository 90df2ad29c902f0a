"""A policy gradient on the steps of the model's own pictures."""

from __future__ import annotations

import pytest
import torch

from realignkit.errors import ModelError, OptionError
from realignkit.refl import losses
from realignkit.refl.algorithms import MicroBatch
from tests.refl.algorithms.test_dpo import move
from tests.refl.rewards import Blind, Constant

GRPO = {"algorithm": "grpo", "validation.every": 0}


def test_at_what_drew_the_round_the_gradient_is_the_score_functions(make_trainer):
    """``-A d log p``: the ratio is 1 there, whatever the clipping."""
    trainer = make_trainer(Blind(), **GRPO, denoising_weight=0)
    found, algorithm = trainer.gradients(0), trainer.learner.algorithm
    policy, pictures, total, mean = algorithm.policy, algorithm.pictures, 0.0, 0.0
    for place in (0, 1):
        i, step = algorithm.steps[algorithm.order.at(place)]
        (group,) = (group for group in pictures.groups if i in group)
        rewards = pictures.scores[list(group)]
        advantage = float((pictures.scores[i] - rewards.mean()) / pictures.scores.std())
        way = pictures.kept(i)["trajectory"]
        to = policy.mean(way[step][None], torch.tensor([step]), trainer.networks.text([pictures.prompt(i)]))
        density = torch.distributions.Normal(to, policy.std[step]).log_prob(way[step + 1][None]).mean()
        total, mean = total - advantage * density / 2, mean - advantage / 2
    parameters = list(trainer.trainable.parameters.values())
    expected = torch.autograd.grad(total, parameters)
    apart = [a - b for a, b in zip(found.reward, expected, strict=True)]
    assert losses.norm(apart) < 1e-3 * losses.norm(expected)  # a Gaussian's density is steep: rounding shows
    assert found.values["reward_loss"] == pytest.approx(mean, abs=1e-4)


def test_ratios_are_clipped_where_they_have_gone_far_enough(make_trainer):
    """Steps that have become likelier, of good pictures, or less likely, of bad ones, teach no more."""
    trainer = make_trainer(Blind(), **GRPO, denoising_weight=0, grpo={"clip_range": 1e-9})
    trainer.gradients(0)
    move(trainer.trainable)
    algorithm = trainer.learner.algorithm
    policy, pictures = algorithm.policy, algorithm.pictures
    taught = set()
    for place in range(8):
        i, step = algorithm.steps[algorithm.order.at(place)]
        way, text = pictures.kept(i)["trajectory"], trainer.networks.text([pictures.prompt(i)])
        likely = []
        for weights in (trainer.trainable.kept["current round"], trainer.trainable.copied()):
            with torch.no_grad(), trainer.trainable.holding(weights):
                to = policy.mean(way[step][None], torch.tensor([step]), text)
            likely.append(float(policy.log_probability(way[step + 1][None], to, torch.tensor([step]))))
        enough = (likely[1] - likely[0]) * float(algorithm.advantages[i]) > 0
        algorithm.add(gradients := algorithm.zero(), MicroBatch(place, [place]))
        teaches = any(bool(g.any()) for g in gradients.reward)
        assert teaches != enough
        taught.add(teaches)
    assert taught == {True, False}


def test_the_divergence_from_the_frozen_model_is_nothing_at_first_and_grows(make_trainer):
    values = []
    for scale in (0.0, 0.05):
        trainer = make_trainer(Blind(), **GRPO, grpo={"kl_weight": 1e3})
        trainer.gradients(0)
        move(trainer.trainable, scale)
        plain = trainer.gradients(0).values["reward_loss"]
        trainer.learner.algorithm.options = trainer.options.model_copy(update={"kl_weight": 0.0})
        values.append(plain - trainer.gradients(0).values["reward_loss"])
    assert values[0] == pytest.approx(0, abs=1e-6) and values[1] > 1e-3


def test_what_has_no_probabilities_is_refused(make_trainer, tmp_path):
    with pytest.raises(OptionError, match="solver=dpmpp draws no noise at its steps, which grpo learns from: use ddim"):
        make_trainer(Blind(), **GRPO, grpo={"solver": "dpmpp"})
    make_trainer(Blind(), algorithm="dpo", validation={"every": 0}, out=tmp_path / "dpo").gradients(0)
    given = make_trainer(Blind(), **GRPO, grpo={"pictures": tmp_path / "dpo" / "rounds" / "000"})
    with pytest.raises(OptionError, match=r"which is not kept in .*: leave grpo\.pictures out"):
        given.gradients(0)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"num_inference_steps": 4}, r"set grpo\.num_inference_steps=3, or leave"),
        ({"eta": 0.5, "guidance_scale": 3}, r"set grpo\.guidance_scale=2\.0, grpo\.eta=1\.0, or leave"),
    ],
)
def test_pictures_that_other_steps_drew_are_refused_before_any_work(make_trainer, tmp_path, changed, message):
    make_trainer(Blind(), **GRPO, out=tmp_path / "first").gradients(0)
    given = {"pictures": tmp_path / "first" / "rounds" / "000"}
    with pytest.raises(OptionError, match=message):
        _ = make_trainer(Blind(), **GRPO, grpo={**given, **changed}).learner


def test_pictures_that_other_weights_drew_are_told(make_trainer, tmp_path):
    for rank in (2, 3):
        said = []
        options = {} if rank == 2 else {"grpo": {"pictures": tmp_path / "run 2" / "rounds" / "000"}}
        first = make_trainer(Blind(), **GRPO, out=tmp_path / f"run {rank}", lora={"rank": rank}, **options)
        first.gradients(0)
    for rank, tells in ((2, False), (3, True)):
        said = []
        again = make_trainer(Blind(), **GRPO, lora={"rank": rank}, on_message=said.append, **options)
        again.gradients(0)
        assert any("was drawn by other weights than learn here" in each for each in said) == tells


def test_a_reward_that_says_the_same_of_all_teaches_nothing(make_trainer):
    with pytest.raises(ModelError, match="all pictures of each prompt are rated alike"):
        make_trainer(Constant(), **GRPO, grpo={"candidates": 6}).gradients(0)


@pytest.mark.parametrize("options", [{"num_inference_steps": 1}, {"num_inference_steps": 4, "eta": 1e-9}])
def test_steps_that_draw_no_noise_are_refused_before_a_picture_is_drawn(make_trainer, tmp_path, options):
    with pytest.raises(OptionError, match=r"none of \d with eta=\S+ does: raise grpo\.num_inference_steps"):
        make_trainer(Blind(), **GRPO, grpo=options).train()
    assert not (tmp_path / "run" / "rounds").exists()
