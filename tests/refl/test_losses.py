from __future__ import annotations

import pytest
import torch

from realignkit.refl import losses

KINDS = ("epsilon", "v_prediction", "sample")


@pytest.mark.parametrize("kind", [*KINDS, losses.FLOW])
def test_a_perfect_prediction_leads_back_to_the_clean_latents(kind):
    torch.manual_seed(0)
    clean, noise = torch.randn(2, 3, 4, 4, 4, dtype=torch.float64).unbind(0)
    shares = torch.tensor([0.9, 0.5, 0.01], dtype=torch.float64).view(-1, 1, 1, 1)
    level = losses.Level.of_flow(shares) if kind == losses.FLOW else losses.Level.of_diffusion(shares)
    target = losses.denoising_target(clean, noise, level, kind)
    found = losses.predict_x0(losses.add_noise(clean, noise, level), target, level, kind)
    torch.testing.assert_close(found, clean)


@pytest.mark.parametrize("kind", KINDS)
def test_targets_and_noise_are_those_of_diffusers(kind):
    from diffusers import DDPMScheduler

    scheduler = DDPMScheduler(prediction_type=kind, beta_schedule="scaled_linear")
    torch.manual_seed(0)
    clean, noise = torch.randn(2, 3, 4, 4, 4).unbind(0)
    t = torch.tensor([0, 400, 999])
    level = losses.Level.of_diffusion(scheduler.alphas_cumprod[t].view(-1, 1, 1, 1))
    noised = losses.add_noise(clean, noise, level)
    torch.testing.assert_close(noised, scheduler.add_noise(clean, noise, t))
    if kind == "v_prediction":
        expected = scheduler.get_velocity(clean, noise, t)
        torch.testing.assert_close(losses.denoising_target(clean, noise, level, kind), expected)
    prediction = torch.randn_like(clean)
    for i in range(3):  # the scheduler's own x0, one timestep at a time
        scheduler.config.clip_sample = False
        own = DDPMScheduler.from_config(scheduler.config, clip_sample=False)
        expected = own.step(prediction[i : i + 1], int(t[i]), noised[i : i + 1]).pred_original_sample
        found = losses.predict_x0(
            noised[i : i + 1], prediction[i : i + 1], losses.Level(level.signal[i], level.noise[i]), kind
        )
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_phi_pulls_up_to_the_margin_and_no_further():
    rewards = torch.tensor([-1.0, 0.5, 2.0, 3.0], requires_grad=True)
    losses.phi(rewards, 2.0).sum().backward()
    assert rewards.grad.tolist() == [-1, -1, 0, 0]


def test_auto_weight_holds_the_ratio():
    reward, denoising = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(0))
    norms = losses.norm([reward]), losses.norm([denoising])
    weight = losses.reward_weight_for(12.0, *norms)
    assert losses.norm([weight * reward]) == pytest.approx(12 * norms[1], rel=1e-5)
    assert losses.reward_weight_for(12.0, 0.0, 1.0) == 0


def test_norm_is_over_all_tensors_together():
    assert losses.norm([torch.full((2, 2), 2.0), torch.tensor([3.0])]) == pytest.approx(5.0)
