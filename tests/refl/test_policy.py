"""DDIM with noise as a policy."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDIMScheduler

from realignkit.refl.policy import Policy


@pytest.mark.parametrize("eta", [0.5, 1.0])
def test_each_step_is_diffusers_own_and_its_noise_is_the_seeds(make_trainer, eta):
    networks = make_trainer().networks
    policy, text = Policy(networks, 5, 2.0, eta), networks.text(["a red book"])
    noise = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    way = policy.sample(noise, text, [7])
    assert way.shape == (1, 6, 4, 16, 16) and torch.equal(way[:, 0], noise)
    assert torch.equal(way, policy.sample(noise, text, [7]))
    assert not torch.allclose(way[:, 1], policy.sample(noise, text, [8])[:, 1])
    scheduler = DDIMScheduler.from_config(networks.pipeline.scheduler.config)
    scheduler.set_timesteps(5)
    assert torch.equal(policy.timesteps, scheduler.timesteps)
    for index, t in enumerate(scheduler.timesteps):
        with torch.no_grad():
            prediction, _ = networks.guided(way[:, index], t, text, 2.0)
            mean = policy.mean(way[:, index], torch.tensor([index]), text)
        drawn = (
            (way[:, index + 1] - mean) / policy.std[index]
            if index in policy.random_steps
            else torch.zeros(1, 4, 16, 16)
        )
        expected = scheduler.step(prediction, t, way[:, index], eta=eta, variance_noise=drawn).prev_sample
        if index == 4:  # ours ends without noise
            torch.testing.assert_close(way[:, 5], networks.predict_x0(way[:, 4], t, prediction))
            assert policy.random_steps == [0, 1, 2, 3]
            return
        torch.testing.assert_close(way[:, index + 1], expected, atol=1e-5, rtol=1e-4)
        assert float(policy.std[index]) == pytest.approx(
            eta * float(scheduler._get_variance(t, t - 200).clamp_min(0)) ** 0.5, abs=1e-6
        )


def test_how_likely_a_step_was_is_a_gaussians_mean_log_density(make_trainer):
    policy = Policy(make_trainer().networks, 4, 1.0, 1.0)
    reached, mean = torch.randn(2, 4, 16, 16), torch.randn(2, 4, 16, 16)
    steps = torch.tensor([0, 2])
    found = policy.log_probability(reached, mean, steps)
    for i in (0, 1):
        density = torch.distributions.Normal(mean[i], policy.std[steps[i]])
        constant = density.log_prob(mean[i]).mean()
        torch.testing.assert_close(found[i], density.log_prob(reached[i]).mean() - constant)
