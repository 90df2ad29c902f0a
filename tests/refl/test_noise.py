from __future__ import annotations

import numpy as np
import pytest
import torch

from realignkit.refl.losses import FLOW
from realignkit.refl.noise import DiffusionNoise, FlowNoise, noise_of

CPU = torch.device("cpu")


def test_a_diffusions_noise_is_its_schedulers():
    from diffusers import DDPMScheduler

    scheduler = DDPMScheduler(prediction_type="v_prediction", num_train_timesteps=20)
    noise = noise_of(scheduler, CPU)
    assert isinstance(noise, DiffusionNoise) and noise.kind == "v_prediction" and noise.timesteps == 20
    level = noise.level(torch.tensor([3, 19]))
    torch.testing.assert_close(level.signal.flatten(), scheduler.alphas_cumprod[[3, 19]].sqrt())
    assert {noise.draw(np.random.default_rng(i)) for i in range(300)} == set(range(20))


@pytest.mark.parametrize("name", ["FlowMatchEulerDiscreteScheduler", "DPMSolverMultistepScheduler"])
def test_flow_matching_is_told_by_the_scheduler_with_its_shift(name):
    import diffusers

    kind = getattr(diffusers, name)
    euler = name.startswith("Flow")
    scheduler = kind(shift=3.0) if euler else kind(use_flow_sigmas=True, prediction_type=FLOW, flow_shift=3.0)
    noise = noise_of(scheduler, CPU)
    assert isinstance(noise, FlowNoise) and (noise.kind, noise.timesteps, noise.shift) == (FLOW, 1000, 3.0)
    scheduler.set_timesteps(7)
    timesteps = noise.timesteps_of(scheduler)
    torch.testing.assert_close(noise.level(timesteps).noise.flatten(), scheduler.sigmas[:7])
    assert (timesteps - scheduler.timesteps).abs().max() < 1  # which are whole for one of them


def test_flow_timesteps_are_logit_normal_and_shifted():
    draws = np.array([FlowNoise(1000, 1.0).draw(np.random.default_rng(i)) for i in range(2000)]) / 1000
    logits = np.log(draws / (1 - draws))
    assert abs(logits.mean()) < 0.1 and abs(logits.std() - 1) < 0.1
    shifted = np.array([FlowNoise(1000, 3.0).draw(np.random.default_rng(i)) for i in range(2000)]) / 1000
    np.testing.assert_allclose(shifted, 3 * draws / (1 + 2 * draws))


@pytest.mark.parametrize("kind", ["exponential", "linear"])
def test_a_shift_that_depends_on_the_size_is_diffusers_own(kind):
    from diffusers import FlowMatchEulerDiscreteScheduler
    from diffusers.pipelines.flux.pipeline_flux import calculate_shift

    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, time_shift_type=kind)
    plain = [1.0, 0.8, 0.6, 0.4, 0.2]
    scheduler.set_timesteps(sigmas=plain, mu=calculate_shift(1024))
    shift = noise_of(scheduler, CPU, 1024).shift
    shifted = [shift * sigma / (1 + (shift - 1) * sigma) for sigma in plain]
    assert scheduler.sigmas[:-1].tolist() == pytest.approx(shifted, rel=1e-5)
    assert shift < noise_of(scheduler, CPU).shift  # of 4096 tokens
