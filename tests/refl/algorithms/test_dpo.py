"""Diffusion-DPO on the model's own pictures."""

from __future__ import annotations

import json

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch.nn.functional import logsigmoid

from realignkit.errors import ModelError
from realignkit.refl import losses, seeds
from realignkit.refl.algorithms import MicroBatch
from realignkit.refl.algorithms.dpo import pairs_of
from tests.refl.rewards import Blind, Constant
from tests.refl.test_step import close

DPO = {"algorithm": "dpo", "validation.every": 0}


def move(trainable, scale=0.02):
    """Weights other than the frozen model's."""
    random = torch.Generator().manual_seed(1)
    for parameter in trainable.parameters.values():
        parameter.data += scale * torch.randn(parameter.shape, generator=random)


def drawn(trainer, place=0):
    """The pair at a place, as (latents, latents, prompt), read from the round's folder by hand."""
    algorithm = trainer.learner.algorithm
    better, worse = algorithm.chosen[algorithm.order.at(place)]
    names = [algorithm.pictures.pairs[i] for i in (better, worse)]
    assert names[0][1] == names[1][1]
    files = [(trainer.folder / "rounds" / "000" / name).with_suffix(".safetensors") for name, _ in names]
    return *(load_file(file)["latents"] for file in files), names[0][1]


def error(trainer, latents, prompt, place):
    """The mean squared error of one prediction, as one would write it down."""
    pipeline, networks, seed = trainer.networks.pipeline, trainer.networks, trainer.config.seed
    noise = seeds.normal((4, 16, 16), seed, "feedback noise", [place])
    t = int(seeds.numpy_rng(seed, "feedback timestep", place).integers(1000))
    abar = pipeline.scheduler.alphas_cumprod[t]
    text = pipeline.encode_prompt([prompt], "cpu", 1, False)[0]
    prediction = networks.unet(abar**0.5 * latents[None] + (1 - abar) ** 0.5 * noise, t, text).sample
    return (prediction - noise).square().mean()


@pytest.mark.parametrize(
    ("options", "loss"),
    [
        ({}, lambda m: -logsigmoid(200 * m)),
        ({"beta": 50, "label_smoothing": 0.2}, lambda m: -0.8 * logsigmoid(50 * m) - 0.2 * logsigmoid(-50 * m)),
        ({"beta": 50, "loss_type": "ipo"}, lambda m: (50 * m - 0.5) ** 2),
    ],
)
def test_loss_and_gradient_are_those_of_a_plain_loop(make_trainer, options, loss):
    trainer = make_trainer(Blind(), **DPO, dpo=options, denoising_weight=0)
    _ = trainer.gradients(0)
    move(trainer.trainable)
    found, total = trainer.gradients(0), 0.0
    for place in (0, 1):
        better, worse, prompt = drawn(trainer, place)
        growth = []
        for latents in (better, worse):
            with torch.no_grad(), trainer.trainable.base():
                reference = error(trainer, latents, prompt, place)
            growth.append(error(trainer, latents, prompt, place) - reference)
        total = total + loss(growth[1] - growth[0]) / 2
    parameters = list(trainer.trainable.parameters.values())
    close(found.reward, torch.autograd.grad(total, parameters))
    assert found.values["reward_loss"] == pytest.approx(float(total), rel=1e-4)
    assert found.denoising == []


def test_a_step_makes_the_better_picture_likelier_than_the_worse(make_trainer):
    trainer = make_trainer(Blind(), **DPO, iterations=1, learning_rate=1e-4)
    trainer.gradients(0)
    better, worse, prompt = drawn(trainer)

    def margin():
        with torch.no_grad():
            return float(error(trainer, worse, prompt, 0) - error(trainer, better, prompt, 0))

    before = margin()
    trainer.learner.step(0, lambda: False, None)
    assert margin() > before


@pytest.mark.parametrize("by", ["gap", "best_worst"])
def test_pairs_are_of_one_prompt_and_differ_by_more_than_the_gap(make_trainer, by):
    trainer = make_trainer(Blind(), **DPO, dpo={"pair_by": by})
    trainer.gradients(0)
    pictures = trainer.learner.algorithm.pictures
    scores, least = pictures.scores, 0.5 * pictures.spread
    expected = {
        (i, k)
        for group in pictures.groups
        for i in group
        for k in group
        if scores[i] - scores[k] > least
        and (by == "gap" or (scores[i] == scores[list(group)].max() and scores[k] == scores[list(group)].min()))
    }
    found = pairs_of(pictures, by, 0.5)
    assert expected and len(found) == len(expected) and set(found) == expected
    with pytest.raises(ModelError, match=r"more than 100 standard deviations.*Lower dpo\.gap"):
        make_trainer(Blind(), **DPO, dpo={"gap": 100}).gradients(0)


def test_a_reward_that_says_the_same_of_all_teaches_nothing(make_trainer):
    with pytest.raises(ModelError, match=r"no two pictures of a prompt differ in their reward by more than 0"):
        make_trainer(Constant(), **DPO).gradients(0)


@pytest.mark.parametrize(
    ("prompts", "said"),
    [
        (["a book", "a book"], r"Lower dpo\.gap, or take pictures that are rated or ranked differently\."),
        (["a book", "a cup"], r"no prompt has two pictures, of which one could be preferred"),
    ],
)
def test_given_pictures_that_teach_nothing_are_said_to(make_trainer, tmp_path, prompts, said):
    lines = []
    for name, prompt in zip(("a.png", "b.png"), prompts, strict=True):
        Image.new("RGB", (32, 32), "red").save(tmp_path / name)
        lines.append(json.dumps({"file_name": name, "text": prompt, "rank": 1}) + "\n")
    (tmp_path / "metadata.jsonl").write_text("".join(lines))
    with pytest.raises(ModelError, match=said):
        make_trainer(Blind(), **DPO, dpo={"pictures": tmp_path}).gradients(0)


@pytest.mark.parametrize("trainable", ["lora", "text_encoder"])
def test_the_unconditional_prediction_is_held_to_the_frozen_models(make_trainer, trainable):
    trainer = make_trainer(Blind(), **DPO, trainable=trainable, denoising_weight=0.5, dpo={"beta": 3.0})
    assert trainer.gradients(0).values["denoising_loss"] == pytest.approx(0, abs=1e-9)
    move(trainer.trainable)
    found, networks, pipeline = trainer.gradients(0), trainer.networks, trainer.networks.pipeline
    if trainable == "text_encoder":

        def unconditional():
            return pipeline.encode_prompt([""], "cpu", 1, False)[0]

        weight = 0.5
    else:
        algorithm = trainer.learner.algorithm
        noise, timesteps = algorithm.noise_at([0, 1])
        clean = torch.stack([drawn(trainer, place)[0] for place in (0, 1)])
        noised = losses.add_noise(clean, noise, networks.noise.level(timesteps))

        def unconditional():
            text = pipeline.encode_prompt(["", ""], "cpu", 1, False)[0]
            return networks.unet(noised, timesteps, text).sample

        weight = 0.5 * 3.0
    with torch.no_grad(), trainer.trainable.base():
        frozen = unconditional()
    loss = weight * (unconditional() - frozen).square().mean()
    parameters = list(trainer.trainable.parameters.values())
    expected = torch.autograd.grad(loss, parameters, allow_unused=True)
    close(found.denoising, [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, expected, strict=True)])
    assert found.values["denoising_loss"] == pytest.approx(float(loss), rel=1e-4)


def test_the_reference_may_be_what_drew_the_round(make_trainer, tmp_path):
    options = {"iterations_per_round": 1, "candidates": 2}
    for reference in ("base", "round"):
        trainer = make_trainer(Blind(), **DPO, dpo={**options, "reference": reference}, out=tmp_path / reference)
        trainer.learner.step(0, lambda: False, None)
        loss = trainer.gradients(1).values["reward_loss"]
        # Against itself the model has gained nothing yet: log 2. (The average lags behind the weights.)
        with trainer.trainable.averaged():
            trainer.learner.algorithm.add(total := trainer.learner.algorithm.zero(), MicroBatch(1, range(2, 4)))
        assert (total.values["reward_loss"] == pytest.approx(0.693147, abs=1e-5)) == (reference == "round")
        assert loss != pytest.approx(0.693147, abs=1e-6)
