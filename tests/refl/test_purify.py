"""Rating what the frozen model makes of a noised image, and gradients that leave an image's style alone."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDIMScheduler

from realignkit.errors import OptionError
from realignkit.refl import ReFLConfig, losses, seeds
from tests import tiny
from tests.refl.rewards import Colour
from tests.refl.test_trainer import close

AT = 400
PURIFIED = {"purify": (AT, AT), "gradient_steps": (3, 3), "denoising_weight": 0, "reward_weight": 1.0}


def moved(trainer):
    """The trainer, its weights a little away from the model's as it came."""
    random = torch.Generator().manual_seed(1)
    for parameter in trainer.trainable.parameters.values():
        parameter.data += 0.02 * torch.randn(parameter.shape, generator=random)
    return trainer


@pytest.mark.parametrize("trainable", ["lora", "unet"])
def test_purified_gradient_is_that_of_a_plain_loop(make_trainer, trainable):
    trainer = moved(make_trainer(**PURIFIED, trainable=trainable, purify_draws=2))
    found = trainer.gradients(0)
    networks, frozen = trainer.networks, tiny.build_pipeline().unet.requires_grad_(False)
    prompts = [trainer.prompts[trainer.learner.objective._prompt_order.at(i)] for i in (0, 1)]
    texts = networks.text(prompts).embeddings
    (jump,) = trainer.learner.objective.rollout.jumps(
        seeds.normal(networks.latent_shape, 42, "rollout", [0, 1]), networks.text(prompts), [3]
    )
    scheduler = DDIMScheduler.from_config(networks.pipeline.scheduler.config)
    loss, rewards = 0.0, 0.0
    for draw in range(2):
        noise = seeds.normal(networks.latent_shape, 42, f"purify 3 {draw}", [0, 1])
        noisy = scheduler.add_noise(jump.x0, noise, torch.tensor([AT, AT]))
        abar = scheduler.alphas_cumprod[AT]
        again = (noisy - (1 - abar) ** 0.5 * frozen(noisy, AT, texts).sample) / abar**0.5
        rated = Colour()(networks.decode(again), prompts)
        loss, rewards = loss + torch.relu(1.0 - rated).mean() / 2, rewards + rated.detach().mean() / 2
    parameters = list(trainer.trainable.parameters.values())
    expected = torch.autograd.grad(loss, parameters, allow_unused=True)
    close(found.reward, [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, expected, strict=True)])
    assert found.values["reward"] == pytest.approx(float(rewards), abs=1e-5)
    assert found.values["reward_loss"] == pytest.approx(float(loss.detach()), abs=1e-5)


@pytest.mark.parametrize("rated", ["jump", "final"])
def test_gradient_checkpointing_recomputes_the_frozen_model(make_trainer, rated):
    plain, saving = (
        moved(make_trainer(**PURIFIED, rated_image=rated, gradient_checkpointing=on)).gradients(0).reward
        for on in (False, True)
    )
    close(saving, plain)


def test_timesteps_come_from_the_range_and_from_the_seed(make_trainer, monkeypatch):
    seen = []
    add_noise = losses.add_noise
    monkeypatch.setattr(losses, "add_noise", lambda x, n, a: seen.append(float(a.view(-1)[0])) or add_noise(x, n, a))
    trainer = make_trainer(**{**PURIFIED, "purify": (300, 305)}, purify_draws=8)
    trainer.gradients(0)
    first, seen = seen[:], []
    monkeypatch.setattr(losses, "add_noise", lambda x, n, a: seen.append(float(a.view(-1)[0])) or add_noise(x, n, a))
    trainer.gradients(0)
    allowed = {float(trainer.networks.alphas_cumprod[t]) for t in range(300, 306)}
    assert first == seen
    assert set(first) <= allowed
    assert len(set(first)) > 1


@pytest.mark.parametrize("purify", [(500, 400), (-1, 4)])
def test_a_range_must_rise(purify):
    with pytest.raises(ValueError, match="rising timesteps"):
        ReFLConfig(purify=purify)


def test_a_timestep_beyond_the_model_is_refused(make_trainer):
    with pytest.raises(OptionError, match="purify"):
        make_trainer(**{**PURIFIED, "purify": (400, 4000)})


def test_what_is_left_of_a_gradient_keeps_mean_and_spread():
    random = torch.Generator().manual_seed(0)
    latents, gradient = (torch.randn(2, 4, 6, 5, generator=random, dtype=torch.float64) for _ in range(2))
    left = losses.without_style(gradient, latents)

    def change(of):
        return (of(latents + 1e-6 * left) - of(latents - 1e-6 * left)).abs().max() / 2e-6

    assert change(lambda x: x.mean((2, 3))) < 1e-8
    assert change(lambda x: x.std((2, 3))) < 1e-8
    # It takes no more than it must: what it took lies in the span of the two.
    taken = (gradient - left).flatten(2)
    span = torch.stack([torch.ones_like(latents), latents], -1).flatten(2, 3)
    solution = torch.linalg.lstsq(span, taken.unsqueeze(-1)).solution
    torch.testing.assert_close((span @ solution).squeeze(-1), taken)


def test_an_image_of_one_colour_has_no_contrast_to_hold():
    flat = torch.full((1, 2, 3, 3), 0.5)
    gradient = torch.randn(1, 2, 3, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(losses.without_style(gradient, flat), gradient - gradient.mean((2, 3), keepdim=True))


def test_a_held_style_changes_the_trainers_gradient(make_trainer):
    free, held = (
        make_trainer(gradient_steps=(3, 3), denoising_weight=0, hold_style=on).gradients(0).reward for on in (0, 1)
    )
    # Colour wants one mean colour: hardly anything else is in its gradient.
    assert 0 < losses.norm(held) < losses.norm(free)
