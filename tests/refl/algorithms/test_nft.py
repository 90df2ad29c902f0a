"""DiffusionNFT on the model's own pictures."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from realignkit.errors import ModelError, OptionError
from realignkit.refl import losses, seeds
from realignkit.refl.algorithms.feedback import CURRENT
from realignkit.refl.config import ReFLConfig
from tests.refl.algorithms.test_dpo import move
from tests.refl.rewards import Blind, Constant
from tests.refl.test_step import close

NFT = {"algorithm": "nft", "validation.every": 0}


@pytest.mark.parametrize(
    ("guided", "max_weight", "kl_weight"), [(False, None, 0.0), (False, 0.8, 0.6), (True, 4.0, 0.6)]
)
def test_loss_and_gradient_are_those_of_a_plain_loop(make_trainer, guided, max_weight, kl_weight):
    """Picture by picture: goodness, both halves, each error over its own mean absolute error, held; by the timestep.

    And the distance of the conditional prediction from the frozen model's, which is not the old policy.
    """
    options = {
        "kl_weight": kl_weight,
        "beta": 0.7,
        "max_advantage": 1.5,
        "guided": guided,
        "guidance_scale": 3.0,
        "pictures_at_once": 3,
    }
    options["max_weight"] = max_weight
    trainer = make_trainer(Blind(), **NFT, denoising_weight=0, nft=options)
    trainer.gradients(0)
    move(trainer.trainable)
    trainer.trainable.kept[CURRENT] = [each - 0.05 for each in trainer.trainable.copied()]
    found, algorithm, networks = trainer.gradients(0), trainer.learner.algorithm, trainer.networks
    pictures, total, pipeline = algorithm.pictures, 0.0, trainer.networks.pipeline
    for place in (0, 1):
        noise = seeds.normal((4, 16, 16), 42, "feedback noise", [place])
        t = int(seeds.numpy_rng(42, "feedback timestep", place).integers(1000))
        abar = pipeline.scheduler.alphas_cumprod[t]
        group = algorithm.groups[algorithm.order.at(place)]
        for i in group:
            rewards = pictures.scores[list(group)]
            advantage = float((pictures.scores[i] - rewards.mean()) / pictures.scores.std())
            goodness = min(max(0.5 + advantage / 3.0, 0), 1)
            latents = abar**0.5 * pictures.get([i])[0] + (1 - abar) ** 0.5 * noise

            def predict(prompt, latents=latents, t=t):
                return networks.unet(latents, t, pipeline.encode_prompt([prompt], "cpu", 1, False)[0]).sample

            with torch.no_grad(), trainer.trainable.base():
                frozen, empty = predict(pictures.prompt(i)), predict("")
            with torch.no_grad(), trainer.trainable.holding(trainer.trainable.kept[CURRENT]):
                old = predict(pictures.prompt(i))
            now = predict(pictures.prompt(i))
            distance = (now - frozen).square().mean()
            if guided:
                old, now = empty + 3.0 * (old - empty), empty + 3.0 * (now - empty)
            good, bad = 0.3 * old + 0.7 * now - noise, 1.7 * old - 0.7 * now - noise
            loss = goodness * good.square().mean() / good.detach().abs().mean()
            loss = loss + (1 - goodness) * bad.square().mean() / bad.detach().abs().mean()
            # x_0 is (x_t - sqrt(1 - abar) eps) / sqrt(abar).
            weight = 1.0 if max_weight is None else min(float(((1 - abar) / abar) ** 0.5), max_weight)
            total = total + weight * (loss / 0.7 + kl_weight * distance) / 6
    close(found.reward, torch.autograd.grad(total, list(trainer.trainable.parameters.values())))
    assert found.values["reward_loss"] == pytest.approx(float(total.detach()), rel=1e-4)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample", losses.FLOW])
def test_whatever_the_network_predicts_it_is_the_loss_of_clean_pictures(kind):
    """The papers' normalised errors of x_0, of predictions: each weighs as its error moves x_0."""
    clean, noise, off, further = torch.randn(4, 2, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    level = losses.Level(torch.tensor(0.6).view(1, 1, 1, 1), torch.tensor(0.8).view(1, 1, 1, 1))
    latents = losses.add_noise(clean, noise, level)
    target = losses.denoising_target(clean, noise, level, kind)
    if kind == losses.FLOW:
        level = losses.Level.of_flow(torch.tensor(0.4).view(1, 1, 1, 1))
        latents = losses.add_noise(clean, noise, level)
    goodness, old, now = torch.tensor([0.9, 0.2]), target + off, target + further
    loss = losses.nft(now, old, target, goodness, 0.7) * losses.x0_slope(level, kind).flatten()
    pictures = [losses.predict_x0(latents, each, level, kind) for each in (now, old)]
    torch.testing.assert_close(loss, losses.nft(*pictures, clean, goodness, 0.7), rtol=1e-4, atol=1e-5)


def test_good_pictures_attract_and_bad_ones_repel():
    """At the old policy, the gradient of the prediction changes its sign where a picture is as good as bad."""
    old, target = torch.zeros(3, 1), torch.ones(3, 1)
    now = old.clone().requires_grad_()
    losses.nft(now, old, target, torch.tensor([1.0, 0.5, 0.0]), 1.0).sum().backward()
    assert now.grad[0] < 0 == now.grad[1] < now.grad[2]
    assert now.grad[0] == -now.grad[2]


def test_the_old_policy_is_an_average_that_follows_and_is_resumed(make_trainer, tmp_path):
    options = {**NFT, "checkpoint_every": 1, "nft.old_decay": 0.5, "learning_rate": 0.05}
    whole = make_trainer(Blind(), **options, iterations=3, out=tmp_path / "whole")
    whole.train()
    expected = None
    stopped = make_trainer(Blind(), **options, iterations=1, out=tmp_path / "stopped", ema_decay=None)
    before = stopped.trainable.copied()
    stopped.train()
    expected = [(a + b) / 2 for a, b in zip(before, stopped.trainable.copied(), strict=True)]
    for kept, wanted in zip(stopped.trainable.kept[CURRENT], expected, strict=True):
        torch.testing.assert_close(kept, wanted)
    make_trainer(Blind(), **options, iterations=2, out=tmp_path / "again").train()
    again = make_trainer(Blind(), **options, iterations=3, out=tmp_path / "again")
    again.train(resume=True)
    for one, other in ((whole.trainable.kept[CURRENT], again.trainable.kept[CURRENT]),):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_what_cannot_be_learnt_is_said(make_trainer):
    with pytest.raises(ModelError, match="no prompt has 2 pictures of which some are rated better than others"):
        make_trainer(Constant(), **NFT).gradients(0)
    with pytest.raises(OptionError, match="4 pictures_at_once of 3 candidates are too many"):
        make_trainer(Blind(), **NFT, nft={"pictures_at_once": 4})


def test_prompts_with_too_few_given_pictures_are_told_before_any_work(make_trainer, tmp_path):
    make_trainer(Blind(), **NFT, nft={"candidates": 3}, out=tmp_path / "first").gradients(0)
    given = {"pictures": tmp_path / "first" / "rounds" / "000"}
    with pytest.raises(ModelError, match=r"no prompt has 4 pictures .*Lower nft\.pictures_at_once\.$"):
        _ = make_trainer(Blind(), **NFT, nft={**given, "pictures_at_once": 4}, out=tmp_path / "second").learner
    table = given["pictures"] / "metadata.jsonl"
    table.write_text("".join(table.read_text().splitlines(keepends=True)[1:]))
    said = []
    trainer = make_trainer(
        Blind(), **NFT, nft={**given, "pictures_at_once": 3}, out=tmp_path / "third", on_message=said.append
    )
    trainer.gradients(0)
    assert said[-1].endswith("5 prompts with better and worse ones (1 more have less than 3 and are left out)")


def test_later_rounds_need_as_many_pictures_as_are_learnt_from_at_once(make_trainer, tmp_path):
    make_trainer(Blind(), **NFT, nft={"candidates": 4}, out=tmp_path / "first").gradients(0)
    given = {"pictures": tmp_path / "first" / "rounds" / "000", "pictures_at_once": 4, "iterations_per_round": 1}
    trainer = make_trainer(Blind(), **NFT, nft={**given, "candidates": 3}, out=tmp_path / "second")
    with pytest.raises(OptionError, match=r"rounds after the first are drawn, and 4 pictures_at_once of 3 candidates"):
        trainer.train()
    make_trainer(Blind(), **NFT, nft={**given, "candidates": 3}, iterations=1, out=tmp_path / "third").train()


def test_a_control_has_no_control():
    config = ReFLConfig(algorithm="nft", nft={"shuffle_rewards": True})
    with pytest.raises(OptionError, match="with shuffle_rewards the training is a control itself"):
        config.control(Path("run"))
