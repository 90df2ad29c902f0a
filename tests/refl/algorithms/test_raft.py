"""RAFT learns from the best of several images, at several noise levels."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from realignkit.errors import OptionError
from realignkit.refl import losses, seeds
from realignkit.refl.algorithms import MicroBatch
from tests.refl.rewards import Blind

OPTIONS = {"algorithm": "raft", "denoising_weight": 0, "validation.every": 0}


def test_the_best_of_each_prompts_candidates_is_learnt_from(make_trainer):
    """Against a plain loop: every candidate drawn and rated, and eq. 3 on the one that the reward likes best."""
    algorithm = make_trainer(Blind(), **OPTIONS, raft={"candidates": 3}).learner.algorithm
    networks, batch = algorithm.networks, MicroBatch(0, range(2))
    prompts = algorithm.prompts_at(batch.places)
    best, rewards = algorithm._best(prompts, batch)
    assert rewards.shape == (3, 2)
    for place, prompt in enumerate(prompts):
        drawn = []
        for candidate in range(3):
            noise = seeds.normal(networks.latent_shape, algorithm.config.seed, f"candidate {candidate}", [place])
            with torch.no_grad():
                drawn.append(algorithm.rollout.sample(noise, networks.text([prompt])))
        rated = torch.cat([Blind()(networks.decode(latents), [prompt]) for latents in drawn]).detach()
        torch.testing.assert_close(rewards[:, place], rated, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(best[place], drawn[int(rated.argmax())][0], rtol=1e-3, atol=1e-3)
    gradients = algorithm.zero()
    algorithm.add(gradients, batch)
    loss = algorithm.denoising_losses(best, prompts, "raft 0", batch.places).mean()
    expected = torch.autograd.grad(loss, list(algorithm.trainable.parameters.values()))
    assert losses.norm(expected) > 0
    for got, wanted in zip(gradients.reward, expected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-6)
    assert gradients.values == {
        "reward": pytest.approx(float(rewards.mean())),
        "reward_loss": pytest.approx(float(loss)),
    }


def test_with_shuffled_rewards_any_candidate_is_learnt_from(make_trainer):
    """The same candidates, and each is as likely, whatever its reward; the seed decides which."""
    options = {"candidates": 3, "shuffle_rewards": True}
    algorithm = make_trainer(Blind(), **OPTIONS, raft=options).learner.algorithm
    rewards = torch.tensor([[0.0], [2.0], [1.0]]).expand(3, 300)
    places = range(300)
    shuffled = algorithm._shuffled(rewards, places)
    assert torch.equal(shuffled.sort(0).values, rewards.sort(0).values)
    times = torch.bincount(shuffled.argmax(0), minlength=3)
    assert times.min() > 70 and times.max() < 130  # 100 each, four standard deviations of 8
    assert torch.equal(shuffled[:, 100:110], algorithm._shuffled(rewards[:, :10], range(100, 110)))

    batch = MicroBatch(0, range(4))
    prompts = algorithm.prompts_at(batch.places)
    best, rated = algorithm._best(prompts, batch)
    plain = make_trainer(Blind(), **OPTIONS, raft={"candidates": 3}).learner.algorithm
    liked, as_rated = plain._best(prompts, batch)
    torch.testing.assert_close(rated, as_rated)
    same = [torch.equal(a, b) for a, b in zip(best, liked, strict=True)]
    assert same == (shuffled_choice(algorithm, rated) == rated.argmax(0)).tolist()
    with pytest.raises(OptionError, match="with shuffle_rewards the training is a control itself"):
        algorithm.control_options(algorithm.options, Path("run"))


def shuffled_choice(algorithm, rated):
    return algorithm._shuffled(rated, range(rated.shape[1])).argmax(0)


def test_several_noise_levels_weigh_as_much_as_one(make_trainer):
    algorithm = make_trainer(Blind(), **OPTIONS, raft={"candidates": 2, "gradients_per_rollout": 2}).learner.algorithm
    batch = MicroBatch(0, range(2))
    prompts = algorithm.prompts_at(batch.places)
    best, _ = algorithm._best(prompts, batch)
    gradients = algorithm.zero()
    algorithm.add(gradients, batch)
    each = [float(algorithm.denoising_losses(best, prompts, f"raft {draw}", batch.places).mean()) for draw in (0, 1)]
    assert each[0] != each[1]
    assert gradients.values["reward_loss"] == pytest.approx(sum(each) / 2)


def test_there_is_no_margin(make_trainer):
    assert not hasattr(make_trainer(Blind(), **OPTIONS).learner.algorithm, "margin")
