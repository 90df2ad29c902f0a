"""Measures of what pictures look like: each on pictures made to move it, and in a training that leaves its range."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from realignkit.refl.checkpoints import WrittenValidation
from realignkit.refl.run import validation_from
from realignkit.refl.scope import (
    FILE,
    Probe,
    brightness,
    colour_entropy,
    difference,
    edge_density,
    left_range,
    outside,
    range_at_first,
)
from realignkit.types import Validation

SIZE = (32, 32)
BLANK = Image.new("RGB", SIZE, (120, 120, 120))


def noisy(seed, strength=255):
    values = np.random.default_rng(seed).integers(0, strength + 1, (*SIZE, 3))
    return Image.fromarray(values.astype(np.uint8))


def striped(width):
    columns = (np.arange(SIZE[0]) // width % 2 * 255).astype(np.uint8)
    return Image.fromarray(np.repeat(columns[None, :, None], SIZE[1], 0).repeat(3, 2))


def test_edges():
    assert edge_density(BLANK) == 0
    assert edge_density(striped(16)) == pytest.approx(2 / 32)  # one edge, a pixel to either side of it
    assert edge_density(striped(8)) == pytest.approx(6 / 32)
    ramp = Image.fromarray(np.tile(np.arange(0, 128, 4, dtype=np.uint8), (32, 1)))
    assert edge_density(ramp) == 0  # brightness that changes slowly is no edge
    assert edge_density(noisy(0)) > 0.5


def test_colour_entropy():
    assert colour_entropy(BLANK) == 0
    assert colour_entropy(striped(4)) == pytest.approx(1)  # black and white, half of the pixels each
    quarters = Image.new("RGB", (2, 2))
    quarters.putdata([(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0)])
    assert colour_entropy(quarters) == pytest.approx(2)
    assert 7.5 < colour_entropy(noisy(0)) < 9
    assert colour_entropy(Image.new("L", SIZE, 7)) == 0


def test_brightness():
    values = [brightness(Image.new("RGB", SIZE, (grey,) * 3)) for grey in (0, 51, 255)]
    assert values == pytest.approx([0, 0.2, 1])
    assert brightness(Image.new("RGB", SIZE, (0, 255, 0))) > brightness(Image.new("RGB", SIZE, (0, 0, 255)))


def test_difference_of_two_pictures_of_a_prompt():
    black, white = Image.new("RGB", SIZE), Image.new("RGB", SIZE, "white")
    assert difference(noisy(0), noisy(0)) == 0
    assert difference(black, white) == pytest.approx(1)
    moved = black.copy()
    moved.paste((255, 255, 255), (0, 0, 16, 32))
    assert difference(black, moved) == pytest.approx(0.5**0.5, abs=0.05)
    assert difference(noisy(0), noisy(1)) < difference(black, moved)  # texture counts for little


def test_how_far_predictions_have_moved_in_units_of_what_the_prompt_moves(make_trainer, tmp_path):
    trainer = make_trainer(ema_decay=None, refl={"kl_weight": 0.1})  # which keeps the first weights
    probe, prompts = Probe(trainer.networks, tmp_path, 0), ["a red book", "a pen"]
    assert probe.change(prompts) == ()  # nothing to compare with
    parameters = trainer.trainable.parameters
    probe.begin([noisy(0), noisy(1)], prompts)
    assert probe.change(prompts) == (0.0, 0.0)
    assert probe.change([*prompts[:1], "a yellow pen"])[1] > 0
    for name, parameter in parameters.items():
        if "lora_B" in name:
            parameter.data += 0.01
    small = probe.change(prompts)
    for name, parameter in parameters.items():
        if "lora_B" in name:
            parameter.data += 0.09
    assert all(0 < one < other for one, other in zip(small, probe.change(prompts), strict=True))
    # By hand, at one prompt.
    networks, units, changes = trainer.networks, [], []
    from safetensors.torch import load_file

    from realignkit.refl import losses, seeds

    clean = load_file(tmp_path / FILE)["latents"]
    noise = seeds.normal(clean.shape[1:], 0, "scope", [0, 1])
    with torch.no_grad():
        for share in (0.25, 0.5, 0.75):
            t = torch.full((2,), int(share * networks.noise.timesteps))
            noised = losses.add_noise(clean, noise, networks.noise.level(t))
            now = networks.predict(noised, t, networks.text(prompts))
            with trainer.trainable.base():
                base = networks.predict(noised, t, networks.text(prompts))
                empty = networks.predict(noised, t, networks.text(["", ""]))
            changes.append((now - base)[1]), units.append((base - empty)[1])
    expected = torch.stack(changes).norm() / torch.stack(units).norm()
    assert probe.change(prompts)[1] == pytest.approx(float(expected), rel=1e-3)
    (tmp_path / FILE).write_bytes(b"nonsense")
    assert probe.change(prompts) == ()


# --- over time ------------------------------------------------------------------------------------------------------


def at(iteration, **scope):
    return Validation(iteration, 0.0, 0.0, scope=scope)


FIRST = at(0, brightness=(0.4, 0.5, 0.6, 0.5), prediction_change=(0.0, 0.0))


def test_the_range_is_a_standard_deviation_of_the_models_own_pictures():
    spread = float(np.std([0.4, 0.5, 0.6, 0.5], ddof=1))
    assert range_at_first(FIRST, "brightness") == pytest.approx((0.5 - spread, 0.5 + spread))
    assert range_at_first(FIRST, "prediction_change") == (0.0, 1.0)
    assert range_at_first(FIRST, "diversity") is None
    assert range_at_first(at(0, brightness=(0.4, 0.5, 0.6)), "brightness") is None  # too few to know
    assert range_at_first(at(50, brightness=(0.4, 0.5, 0.6, 0.5)), "brightness") is None  # no longer the first model


def test_one_warning_when_a_measure_leaves_its_range():
    inside, bright = at(10, brightness=(0.55,) * 4), at(20, brightness=(0.7,) * 4, prediction_change=(0.2, 0.4))
    assert left_range([FIRST], None) is None
    assert left_range([FIRST, inside], None) is None
    assert outside([FIRST, inside, bright]).keys() == {"brightness"}
    warning = left_range([FIRST, inside, bright], Path("run/samples/000020.png"))
    for part in ("iteration 20", "brightness is 0.7 (0.418 to 0.582)", "Look at run/samples/000020.png"):
        assert part in warning
    assert "Look" not in left_range([FIRST, inside, bright], None)
    moved = at(30, brightness=(0.9,) * 4, prediction_change=(0.5, 1.9))
    later = left_range([FIRST, inside, bright, moved], None)  # of brightness it has been said
    assert "prediction_change is 1.2 (0 to 1)" in later and "brightness" not in later
    assert left_range([FIRST, bright, inside, bright], None) is None


def test_validations_of_earlier_versions_have_no_scope():
    record = {"iteration": 0, "reward": 0.0, "judgement": 0.0, "higher_is_better": True, "values": {}}
    record |= {"rewards": [0.0], "judgements": [0.0]}
    WrittenValidation.model_validate(record)
    old = validation_from(record)
    assert old.scope == {}
    assert left_range([old, at(10, brightness=(0.9,) * 4, prediction_change=(7.0,))], None) is None


# --- in a training --------------------------------------------------------------------------------------------------

HELD_OUT = ("a red desk", "a yellow book", "a red sign", "a yellow pen", "a pen")


def test_a_training_measures_by_default_and_warns_with_the_grid(make_trainer):
    messages = []

    def ruin(state):
        if state.iteration == 2:
            for name, parameter in trainer.trainable.parameters.items():
                if "lora_B" in name:
                    parameter.data += 3.0

    trainer = make_trainer(
        held_out=HELD_OUT,
        ema_decay=None,
        iterations=2,
        learning_rate=1e-9,
        denoising_weight=0,
        validation={"diversity": 3},
        on_step=ruin,
        on_message=messages.append,
    )
    result = trainer.train()
    first, calm, ruined = result.history
    assert {name: len(values) for name, values in first.scope.items()} == {
        **dict.fromkeys(("edge_density", "colour_entropy", "brightness"), 5),
        "diversity": 3,
        "prediction_change": 4,
    }
    assert first.values["scope.brightness"] == pytest.approx(sum(first.scope["brightness"]) / 5)
    assert first.scope["prediction_change"] == (0.0,) * 4
    assert calm.scope["brightness"] == pytest.approx(first.scope["brightness"], abs=0.01)
    assert ruined.values["scope.prediction_change"] > 1
    assert "scope.diversity" in messages[0]
    (warning,) = [text for text in result.warnings if "left the range" in text]
    assert "iteration 2" in warning and str(trainer.folder / "samples" / "000002.png") in warning
    record = json.loads((trainer.folder / "training.json").read_text())
    assert record["history"][2]["scope"]["brightness"] == list(ruined.scope["brightness"])


def test_a_resumed_run_measures_against_the_same_beginning(make_trainer):
    options = {"held_out": HELD_OUT, "denoising_weight": 0, "validation": {"diversity": 2}}
    whole = make_trainer(iterations=2, out=make_trainer().folder.parent / "whole", **options).train()
    make_trainer(iterations=1, **options).train()
    resumed = make_trainer(iterations=2, **options).train(resume=True)
    assert resumed.history[2].scope == whole.history[2].scope
    assert resumed.history[2].values["scope.prediction_change"] > 0


def test_no_prompt_is_drawn_twice_where_that_is_too_dear(make_trainer):
    result = make_trainer(iterations=1, denoising_weight=0, validation={"diversity": 0}).train()
    assert "diversity" not in result.history[0].scope
    assert "scope.brightness" in result.history[0].values
