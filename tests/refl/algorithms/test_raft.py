"""RAFT learns from the best of several images, at several noise levels."""

from __future__ import annotations

import pytest
import torch

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
