"""algorithm=reward_weighted: eq. 3 on pairs that their own reward weighs."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from PIL import Image

from realignkit.errors import OptionError
from realignkit.rewarding import to_tensor
from tests.refl.rewards import Blind, Colour
from tests.refl.test_trainer import close

WEIGHTED = {"algorithm": "reward_weighted", "caption_dropout": 0.0}
SHADES = {
    "a red book": (255, 0, 0),
    "a yellow pen": (255, 0, 0),
    "the desk": (128, 128, 128),
    "a red pen": (90, 90, 90),
}


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Two captions that fit their pictures' colour, two that do not."""
    folder = tmp_path / "pairs"
    folder.mkdir()
    lines = []
    for number, (text, colour) in enumerate(SHADES.items()):
        Image.new("RGB", (32, 32), colour).save(folder / f"{number}.png")
        lines.append(json.dumps({"file_name": f"{number}.png", "text": text}))
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    return folder


def test_gradient_is_the_weighted_mean_of_each_pairs_own(make_trainer, pairs):
    """Against the denoising term of runs that see one pair each, weighed by hand."""
    options = {**WEIGHTED, "pairs": pairs, "batch_size": 4, "reward_temperature": 0.3, "margin": 0.9}
    trainer = make_trainer(**options)
    found = trainer.gradients(0)
    objective = trainer.learner.objective
    parameters = list(trainer.trainable.parameters.values())
    total, expected_reward = [torch.zeros_like(p) for p in parameters], 0.0
    for place in range(4):
        latents, (text,) = objective.pairs.get([objective._pair_order.at(place)])
        reward = float(Colour()(to_tensor([Image.new("RGB", (32, 32), SHADES[text])]), [text]))
        weight = math.exp(-max(0.9 - reward, 0) / 0.3)
        loss = objective._denoising_losses(latents, [text], "pairs", [place])[0]
        grads = torch.autograd.grad(loss, parameters, allow_unused=True)
        total = [t if g is None else t + weight * g / 4 for t, g in zip(total, grads, strict=True)]
        expected_reward += reward / 4
    close(found.reward, total)
    assert found.values["reward"] == pytest.approx(expected_reward, abs=1e-4)
    # The denoising term beside it is the plain mean, as in the control.
    control = make_trainer(**options, reward_weight=0.0, out=pairs.parent / "control")
    plain = control.gradients(0)
    close(found.denoising, plain.denoising)
    assert all(not g.any() for g in plain.reward)


def test_pairs_that_fit_weigh_most_whatever_the_reward_is_made_of(make_trainer, pairs):
    """A reward without a gradient will do; with a low temperature only the fitting pairs are learnt from."""
    trainer = make_trainer(Blind(), **WEIGHTED, pairs=pairs, batch_size=4, reward_temperature=0.01, margin=0.9)
    found = trainer.gradients(0)
    objective = trainer.learner.objective
    fits = {text for text in SHADES if text in ("a red book", "the desk")}
    each = {}
    for place in range(4):
        latents, (text,) = objective.pairs.get([objective._pair_order.at(place)])
        each[text] = float(objective._denoising_losses(latents, [text], "pairs", [place]).detach())
    assert found.values["reward_loss"] == pytest.approx(sum(each[text] for text in fits) / 4, rel=1e-4)


def test_each_pair_is_rated_once_and_a_resumed_run_goes_on_as_if_never_stopped(make_trainer, pairs, tmp_path):
    class Counting(Colour):
        asked = 0

        def __call__(self, images, prompts):
            Counting.asked += len(prompts)
            return super().__call__(images, prompts)

    options = {**WEIGHTED, "pairs": pairs, "batch_size": 2, "validate_every": 0, "checkpoint_every": 1}
    make_trainer(Counting(), **options, iterations=6, out=tmp_path / "whole").train()
    assert Counting.asked == len(SHADES)
    make_trainer(**options, iterations=3, out=tmp_path / "parts").train()
    make_trainer(**options, iterations=6, out=tmp_path / "parts").train(resume=True)
    whole, parts = (
        [json.loads(line)["loss"] for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]
        for name in ("whole", "parts")
    )
    assert parts == pytest.approx(whole, rel=1e-6)


def test_without_l_pre_the_weighted_term_is_the_same(make_trainer, pairs):
    options = {**WEIGHTED, "pairs": pairs, "batch_size": 4}
    both = make_trainer(**options).gradients(0)
    alone = make_trainer(**options, denoising_weight=0.0, out=pairs.parent / "alone").gradients(0)
    close(alone.reward, both.reward)
    assert all(not g.any() for g in alone.denoising) and "denoising_loss" not in alone.values


def test_options_of_the_rollout_are_refused(make_trainer):
    with pytest.raises(OptionError, match="kl_weight and style_weight act on the steps of refl"):
        make_trainer(**WEIGHTED, kl_weight=1.0)
