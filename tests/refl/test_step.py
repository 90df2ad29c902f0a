"""Gradients of an optimizer step against a plain re-creation of the loop."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDIMScheduler

from realignkit.refl import losses, seeds
from realignkit.refl.algorithms import PART
from tests.refl.rewards import Blind, Colour, Darkness

ONE_STEP = {"gradient_steps": (3, 3)}  # the same late step in every micro-batch


def close(found, expected):
    assert losses.norm(expected) > 0
    assert losses.norm([a - b for a, b in zip(found, expected, strict=True)]) < 1e-4 * losses.norm(expected)


def test_reward_gradient_is_that_of_a_plain_loop(make_trainer):
    trainer = make_trainer(refl=ONE_STEP, denoising_weight=0, reward_weight=0.5)
    found = trainer.gradients(0)
    prompts = [trainer.prompts[trainer.learner.algorithm.prompt_order.at(i)] for i in (0, 1)]
    pipeline, unet = trainer.networks.pipeline, trainer.networks.unet
    # Eq. 5 as one would write it down: rollout, one prediction with gradient, jump, decode, reward, phi.
    scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    scheduler.set_timesteps(4)
    texts, empty = pipeline.encode_prompt(prompts, "cpu", 1, True)
    latents = seeds.normal((4, 16, 16), 42, "rollout", [0, 1])
    for index, t in enumerate(scheduler.timesteps):
        with torch.set_grad_enabled(index == 3):
            conditional = unet(latents, t, texts).sample
            unconditional = unet(latents, t, empty).sample
            noise = unconditional + 2.0 * (conditional - unconditional)
        if index < 3:
            latents = scheduler.step(noise, t, latents).prev_sample
    abar = scheduler.alphas_cumprod[t]
    x0 = (latents - (1 - abar) ** 0.5 * noise) / abar**0.5
    images = (pipeline.vae.decode(x0 / pipeline.vae.config.scaling_factor).sample / 2 + 0.5).clamp(0, 1)
    rewards = Colour()(images, prompts)
    loss = torch.relu(1.0 - rewards).mean()
    parameters = list(trainer.trainable.parameters.values())
    expected = torch.autograd.grad(loss, parameters, allow_unused=True)
    close(found.reward, [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, expected, strict=True)])
    assert found.values["reward"] == pytest.approx(float(rewards.mean()), abs=1e-5)
    assert found.values["reward_loss"] == pytest.approx(float(loss), abs=1e-5)


def test_final_rates_the_finished_image_once(make_trainer):
    class Remembering(Colour):
        def __call__(self, images, prompts):
            self.seen = [*getattr(self, "seen", []), images.detach()]
            return super().__call__(images, prompts)

    reward = Remembering()
    trainer = make_trainer(reward, refl={"rated_image": "final", "gradients_per_rollout": 2, "gradient_steps": (0, 3)})
    algorithm, networks = trainer.learner.algorithm, trainer.networks
    found = trainer.gradients(0)
    (images,) = reward.seen
    prompts = [trainer.prompts[algorithm.prompt_order.at(i)] for i in (0, 1)]
    noise = seeds.normal(networks.latent_shape, 42, "rollout", [0, 1])
    finished = networks.decode(algorithm.rollout.sample(noise, networks.text(prompts)))
    torch.testing.assert_close(images, finished, rtol=1e-4, atol=1e-4)
    assert losses.norm(found.reward) > 0
    assert found.values["reward"] == pytest.approx(float(Colour()(finished, prompts).mean()), abs=1e-5)


def test_accumulated_small_batches_are_one_large_batch(make_trainer, tmp_path):
    prior = tmp_path / "prior"
    large = make_trainer(refl=ONE_STEP, batch_size=2, prior=prior).gradients(1)
    small = make_trainer(refl=ONE_STEP, batch_size=1, gradient_accumulation_steps=2, prior=prior).gradients(1)
    close(small.reward, large.reward)
    close(small.denoising, large.denoising)
    assert small.values == pytest.approx(large.values, rel=1e-4)


@pytest.mark.parametrize("rated", ["jump", "final"])
def test_gradient_checkpointing_changes_nothing(make_trainer, tmp_path, rated):
    prior = tmp_path / "prior"
    plain, saving = (
        make_trainer(
            refl={**ONE_STEP, "rated_image": rated, "kl_weight": 0.1}, gradient_checkpointing=on, prior=prior
        ).gradients(0)
        for on in (False, True)
    )
    close(saving.reward, plain.reward)
    close(saving.denoising, plain.denoising)


def test_raft_learns_from_the_best_candidate_alone(make_trainer, tmp_path):
    class Brightness(Darkness):
        def __call__(self, images, prompts):
            return -super().__call__(images, prompts)

    class Same(Blind):
        def __call__(self, images, prompts):
            return torch.zeros(len(prompts))

    found = {}
    for reward in (Darkness(), Brightness(), Same()):
        trainer = make_trainer(reward, batch_size=1, raft={"candidates": 2}, denoising_weight=0)
        assert trainer.algorithm == "raft"
        found[type(reward).__name__] = trainer.gradients(0).reward
    dark, bright, first = found["Darkness"], found["Brightness"], found["Same"]
    different = losses.norm([a - b for a, b in zip(dark, bright, strict=True)])
    assert different > 1e-3 * losses.norm(dark)
    apart = [losses.norm([a - b for a, b in zip(first, other, strict=True)]) for other in (dark, bright)]
    assert min(apart) < 1e-5 * losses.norm(first)  # of equals the first, which is one of the two


def test_the_parts_of_a_sum_that_an_algorithm_rates_one_by_one_are_logged(make_trainer, monkeypatch):
    trainer = make_trainer(total_batch_size=4)
    algorithm = trainer.learner.algorithm
    add = algorithm.add

    def rated_apart(gradients, batch):
        add(gradients, batch)
        for name, value in {"clip": 1.0 + batch.group, "blip": -2.0}.items():
            gradients.note(f"{PART}{name}", value)

    monkeypatch.setattr(algorithm, "add", rated_apart)
    state = trainer.learner.step(0, lambda: False, None)
    assert state.rewards == {"clip": 1.5, "blip": -2.0}  # means over both micro-batches
    assert {"reward.clip": 1.5, "reward.blip": -2.0, "reward": state.reward}.items() <= state.record().items()
