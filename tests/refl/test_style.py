"""Holding the mean style of what is drawn to that of the images of L_pre."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from realignkit.errors import OptionError
from realignkit.refl import ReFLConfig, losses, seeds
from tests.refl.test_purify import moved
from tests.refl.test_trainer import close


def latents(count, seed=0):
    return torch.randn(count, 3, 5, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def numbers(image):
    """An image's style, channel by channel, by numpy."""
    array = image.detach().double().numpy()
    flat = array.reshape(len(array), -1)
    covariance = np.cov(flat, bias=True)
    steps = [(np.mean(np.diff(c, axis=0) ** 2) + np.mean(np.diff(c, axis=1) ** 2)) / 2 for c in array]
    return [*flat.mean(1), *covariance[np.triu_indices(len(array))], *steps]


def test_style_is_means_covariances_and_steps():
    for image, found in zip(latents(2), losses.style(latents(2)), strict=True):
        np.testing.assert_allclose(found, numbers(image), atol=1e-12)


def test_drift_is_the_mean_product_of_two_images_deviations():
    some, spread = latents(4), torch.linspace(0.5, 2, 12, dtype=torch.float64)
    mean = losses.style(latents(1, seed=1))[0]
    apart = (losses.style(some) - mean) / spread
    products = [(apart[i] * apart[j]).mean() for i in range(4) for j in range(4) if i != j]
    torch.testing.assert_close(losses.style_drift(some, mean, spread), torch.stack(products).mean())


def test_drift_knows_a_shared_change_from_variety():
    varied, spread = latents(400), losses.style(latents(400)).std(0)
    mean = losses.style(varied).mean(0)
    assert abs(float(losses.style_drift(varied, mean, spread))) < 0.01
    brighter, stronger = varied + 0.5, 1.3 * varied
    assert float(losses.style_drift(brighter, mean, spread)) > 0.5
    assert float(losses.style_drift(stronger, mean, spread)) > 0.5
    # Two images that differ in opposite directions are variety: no drift, and no pull towards each other.
    pair = torch.stack([varied[0] + 0.4, varied[0] - 0.4])
    assert float(losses.style_drift(pair, losses.style(varied[:1])[0], spread)) < 0


@pytest.mark.parametrize("rated", ["jump", "final"])
def test_the_drifts_gradient_joins_the_rewards(make_trainer, rated):
    options = {"rated_image": rated, "gradient_steps": (3, 3), "reward_weight": 1.0, "prior_images": 3}
    plain, held = (moved(make_trainer(**options, style_weight=weight)) for weight in (0.0, 2.0))
    found, without = held.gradients(0), plain.gradients(0)
    objective = held.learner.objective
    styles = torch.cat([losses.style(objective.pairs.get([i])[0]) for i in range(3)])
    prompts = [held.prompts[objective._prompt_order.at(i)] for i in (0, 1)]
    noise, text = seeds.normal(held.networks.latent_shape, 42, "rollout", [0, 1]), held.networks.text(prompts)
    if rated == "final":
        x0, _ = objective.rollout.finished(noise, text, [3])
    else:
        (jump,) = objective.rollout.jumps(noise, text, [3])
        x0 = jump.x0
    first, second = (losses.style(x0) - styles.mean(0)) / styles.std(0).clamp(min=0.01)
    drift = (first * second).mean()
    parameters = list(held.trainable.parameters.values())
    pull = torch.autograd.grad(drift, parameters, allow_unused=True)
    expected = [g if p is None else g + 2.0 * p for g, p in zip(without.reward, pull, strict=True)]
    close(found.reward, expected)
    assert found.values["style_drift"] == pytest.approx(float(drift.detach()), rel=1e-4)
    close(found.denoising, without.denoising)


def test_the_drift_is_logged(make_trainer, tmp_path):
    trainer = make_trainer(style_weight=1.0, iterations=1)
    trainer.train()
    (line,) = (trainer.folder / "log.jsonl").read_text().splitlines()
    assert isinstance(json.loads(line)["style_drift"], float)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"denoising_weight": 0}, "L_pre's images"),
        ({"batch_size": 1}, "batch_size to 2"),
        ({"algorithm": "raft"}, "steps of refl"),
    ],
)
def test_what_cannot_hold_a_style_is_refused(change, words):
    with pytest.raises(ValueError, match=words):
        ReFLConfig(style_weight=1, **change)


def test_one_image_is_no_style(make_trainer):
    with pytest.raises(OptionError, match="at least two"):
        make_trainer(style_weight=1.0, prior_images=1).gradients(0)
