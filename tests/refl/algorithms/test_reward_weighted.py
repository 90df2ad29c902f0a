"""algorithm=reward_weighted: eq. 3 on pairs that their own reward weighs."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from realignkit.errors import ModelError, OptionError
from realignkit.images import to_tensor
from realignkit.refl.algorithms import reward_weighted as ratings
from tests.refl.rewards import Blind, Colour
from tests.refl.test_step import close

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
    options = {
        **WEIGHTED,
        "pairs": pairs,
        "batch_size": 4,
        "reward_weighted.temperature": 0.3,
        "reward_weighted.margin": 0.9,
    }
    trainer = make_trainer(**options)
    found = trainer.gradients(0)
    algorithm = trainer.learner.algorithm
    parameters = list(trainer.trainable.parameters.values())
    total, expected_reward = [torch.zeros_like(p) for p in parameters], 0.0
    for place in range(4):
        latents, (text,) = algorithm.pairs.get([algorithm.pair_order.at(place)])
        reward = float(Colour()(to_tensor([Image.new("RGB", (32, 32), SHADES[text])]), [text]))
        weight = math.exp(-max(0.9 - reward, 0) / 0.3)
        loss = algorithm.denoising_losses(latents, [text], "pairs", [place])[0]
        grads = torch.autograd.grad(loss, parameters, allow_unused=True)
        total = [t if g is None else t + weight * g / 4 for t, g in zip(total, grads, strict=True)]
        expected_reward += reward / 4
    close(found.reward, total)
    assert found.values["reward"] == pytest.approx(expected_reward, abs=1e-4)
    # The denoising term beside it is the plain mean, as in the control.
    control = make_trainer(**options, reward_weight=0.0, out=pairs.parent / "control")
    plain = control.gradients(0)
    close(found.denoising, plain.denoising)
    assert plain.reward == []


def test_pairs_that_fit_weigh_most_whatever_the_reward_is_made_of(make_trainer, pairs):
    """A reward without a gradient will do; with a low temperature only the fitting pairs are learnt from."""
    trainer = make_trainer(
        Blind(), **WEIGHTED, pairs=pairs, batch_size=4, reward_weighted={"temperature": 0.01, "margin": 0.9}
    )
    found = trainer.gradients(0)
    algorithm = trainer.learner.algorithm
    fits = {text for text in SHADES if text in ("a red book", "the desk")}
    each = {}
    for place in range(4):
        latents, (text,) = algorithm.pairs.get([algorithm.pair_order.at(place)])
        each[text] = float(algorithm.denoising_losses(latents, [text], "pairs", [place]).detach())
    assert found.values["reward_loss"] == pytest.approx(sum(each[text] for text in fits) / 4, rel=1e-4)


def test_each_pair_is_rated_once_and_a_resumed_run_goes_on_as_if_never_stopped(make_trainer, pairs, tmp_path):
    class Counting(Colour):
        asked = 0

        def __call__(self, images, prompts):
            Counting.asked += len(prompts)
            return super().__call__(images, prompts)

    options = {**WEIGHTED, "pairs": pairs, "batch_size": 2, "validation.every": 0, "checkpoint_every": 1}
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
    assert alone.denoising == [] and "denoising_loss" not in alone.values


def test_options_of_another_algorithm_are_refused(make_trainer):
    with pytest.raises(OptionError, match="refl has options, but algorithm=reward_weighted is trained"):
        make_trainer(**WEIGHTED, refl={"kl_weight": 1.0})


DRAWN = {**WEIGHTED, "reward_weighted.pair_sampling": "weighted"}


def test_pairs_are_drawn_by_what_both_terms_weigh_them(make_trainer, pairs):
    options = {
        "reward_weighted.margin": 0.9,
        "reward_weighted.temperature": 0.3,
        "reward_weight": 5.0,
        "denoising_weight": 0.5,
    }
    trainer = make_trainer(**DRAWN, **options, pairs=pairs, batch_size=4)
    algorithm = trainer.learner.algorithm
    weights = []
    for text, colour in SHADES.items():
        reward = float(Colour()(to_tensor([Image.new("RGB", (32, 32), colour)]), [text]))
        weights.append(5.0 * math.exp(-max(0.9 - reward, 0) / 0.3) + 0.5)
    drawn = [algorithm.pair_order.at(place) for place in range(4000)]
    for i, weight in enumerate(weights):
        assert drawn.count(i) / 4000 == pytest.approx(weight / sum(weights), abs=0.02)


def test_drawn_pairs_weigh_alike(make_trainer, pairs):
    """The gradient is the plain mean of what each drawn pair gives alone."""
    trainer = make_trainer(
        **DRAWN, pairs=pairs, batch_size=4, **{"reward_weighted.margin": 0.9, "reward_weighted.temperature": 0.01}
    )
    found, algorithm = trainer.gradients(0), trainer.learner.algorithm
    parameters = list(trainer.trainable.parameters.values())
    total, losses = [torch.zeros_like(p) for p in parameters], []
    for place in range(4):
        latents, (text,) = algorithm.pairs.get([algorithm.pair_order.at(place)])
        loss = algorithm.denoising_losses(latents, [text], "pairs", [place])[0]
        grads = torch.autograd.grad(loss, parameters, allow_unused=True)
        total = [t if g is None else t + g / 4 for t, g in zip(total, grads, strict=True)]
        losses.append(float(loss.detach()))
    close(found.denoising, total)
    assert found.reward == []
    assert found.values["denoising_loss"] == pytest.approx(sum(losses) / 4, rel=1e-4)


def test_lambda_is_in_the_shares_alone(make_trainer, pairs, tmp_path):
    """Where every pair weighs the same, lambda changes neither loss nor gradient: they are the control's."""
    options = {
        **DRAWN,
        "pairs": pairs,
        "batch_size": 4,
        "reward_weighted.margin": -1.0,
        "iterations": 1,
        "validation.every": 0,
    }
    logs = {}
    for weight in (0.0, 1.0, 100.0):
        make_trainer(**options, reward_weight=weight, out=tmp_path / str(weight)).train()
        (line,) = (tmp_path / str(weight) / "log.jsonl").read_text().splitlines()
        logs[weight] = json.loads(line)
    for weight in (1.0, 100.0):
        for name in ("loss", "gradient_norm", "denoising_loss"):
            assert logs[weight][name] == pytest.approx(logs[0.0][name], rel=1e-5)


def test_the_control_of_drawn_pairs_is_that_of_weighed_ones(make_trainer, pairs, tmp_path):
    class Never(Colour):
        def __call__(self, images, prompts):
            raise AssertionError("a control rates nothing")

    options = {"pairs": pairs, "batch_size": 4, "reward_weight": 0.0}
    drawn = make_trainer(Never(), **DRAWN, **options, out=tmp_path / "drawn").gradients(0)
    weighed = make_trainer(**WEIGHTED, **options, out=tmp_path / "weighed").gradients(0)
    close(drawn.denoising, weighed.denoising)


def test_ratings_are_on_record_and_not_made_again(make_trainer, pairs, tmp_path):
    class Failing(Colour):
        asked, fails_at = 0, 510

        def __call__(self, images, prompts):
            Failing.asked += len(prompts)
            if Failing.asked == Failing.fails_at:
                raise KeyboardInterrupt
            return super().__call__(images, prompts)

    class Other(Colour):
        asked = 0

        def __call__(self, images, prompts):
            Other.asked += len(prompts)
            return super().__call__(images, prompts)

    lines = (pairs / "metadata.jsonl").read_text().splitlines()
    (pairs / "metadata.jsonl").write_text("\n".join(lines * 130))  # more than one write's worth
    options = {
        **DRAWN,
        "pairs": pairs,
        "batch_size": 2,
        "validation.every": 0,
        "iterations": 5,
        "reward_weighted.margin": 0.9,
    }
    with pytest.raises(KeyboardInterrupt):
        make_trainer(Failing(), **options, out=tmp_path / "parts").train()
    kept = [json.loads(line) for line in (tmp_path / "parts" / ratings.RATINGS).read_text().splitlines()]
    assert [row["text"] for row in kept] == list(SHADES) * 125
    assert all(0 <= row["reward"] <= 1 for row in kept)
    shutil.copytree(tmp_path / "parts", tmp_path / "other")
    make_trainer(Failing(), **options, out=tmp_path / "parts").train(resume=True)
    assert Failing.asked == 510 + 20
    make_trainer(**options, out=tmp_path / "whole").train()
    whole, parts = (
        [json.loads(line)["loss"] for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]
        for name in ("whole", "parts")
    )
    assert parts == pytest.approx(whole, rel=1e-6)
    make_trainer(Other(), **options, out=tmp_path / "other").train()  # another reward's ratings are not its own
    assert Other.asked == 520


def test_ratings_that_are_damaged_or_of_another_image_are_made_again(make_trainer, pairs, tmp_path):
    class Counting(Colour):
        asked = 0

        def __call__(self, images, prompts):
            Counting.asked += len(prompts)
            return super().__call__(images, prompts)

    said = []
    options = {**DRAWN, "pairs": pairs, "out": tmp_path / "run", "on_message": said.append, "batch_size": 2}
    names = {"reward": "counting"}

    def rated() -> int:
        Counting.asked = 0
        made = make_trainer(Counting(), names=names, **options)
        _ = made.learner
        return Counting.asked

    path = tmp_path / "run" / ratings.RATINGS
    count = rated()
    assert count == len(path.read_text().splitlines()) > 2
    whole = path.read_bytes()
    assert rated() == 0
    for damaged, again in ((whole[:-20], 1), (b"{nonsense", count), (b"", count), (b"\0" * 30 + whole, count)):
        path.write_bytes(damaged)
        assert rated() == again
        assert path.read_bytes() == whole
    assert any("damaged" in text for text in said)
    image = sorted(pairs.glob("*.png"))[-1]
    Image.new("RGB", Image.open(image).size, "yellow").save(image)  # another picture under the old name
    assert rated() >= 1
    assert path.read_bytes() != whole


def test_a_margin_that_no_pair_comes_near_is_said(make_trainer, pairs):
    own = {"margin": 1000.0, "temperature": 0.01}
    with pytest.raises(ModelError, match="no pair's reward comes near the margin 1000"):
        make_trainer(**DRAWN, pairs=pairs, reward_weighted=own, denoising_weight=0.0).gradients(0)


@pytest.mark.parametrize("options", [{"reward_weight": "auto"}])
def test_drawing_needs_a_weight(make_trainer, pairs, options):
    with pytest.raises(OptionError, match="pair_sampling=weighted"):
        make_trainer(**{**DRAWN, "pairs": pairs, **options})
