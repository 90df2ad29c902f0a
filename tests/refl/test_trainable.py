"""What learns: adapters or weights of their own, of U-Net and text encoder, by every choice."""

from __future__ import annotations

import pytest
import torch

from realignkit.refl.config import ALGORITHMS
from tests import tiny
from tests.refl.rewards import Blind

CHOICES = {
    "lora": ({}, {"unet"}),
    "lora of both": ({"train_text_encoder": True}, {"unet", "text_encoder"}),
    "lora of the text encoder": ({"trainable": "text_encoder_lora"}, {"text_encoder"}),
    "text encoder": ({"trainable": "text_encoder"}, {"text_encoder"}),
    "cross-attention": ({"trainable": "cross_attention"}, {"unet"}),
    "cross-attention and text encoder": (
        {"trainable": "cross_attention", "train_text_encoder": True},
        {"unet", "text_encoder"},
    ),
    "everything": ({"trainable": "unet", "train_text_encoder": True}, {"unet", "text_encoder"}),
}


def draw(pipeline):
    random = torch.Generator().manual_seed(0)
    return pipeline("a red book", num_inference_steps=2, generator=random, output_type="pt").images


@pytest.mark.parametrize("algorithm", [name for name in ALGORITHMS if name != "reward_weighted"])
@pytest.mark.parametrize("choice", CHOICES)
def test_that_and_nothing_else_learns_whatever_the_algorithm(make_trainer, pipeline, choice, algorithm):
    options, parts = CHOICES[choice]
    before = {
        f"{part}.{name}": p.detach().clone()
        for part in ("unet", "text_encoder")
        for name, p in getattr(pipeline, part).named_parameters()
    }
    given = {"validation.every": 0, "iterations": 1, "ema_decay": None, **options}
    trainer = make_trainer(Blind() if algorithm != "refl" else None, pipeline=pipeline, algorithm=algorithm, **given)
    trainer.train()
    moved = {
        name
        for name, p in (
            (f"{part}.{name.replace('.base_layer', '')}", p)
            for part in ("unet", "text_encoder")
            for name, p in getattr(pipeline, part).named_parameters()
        )
        if name not in before or not torch.equal(p, before[name])
    }
    assert {name.split(".")[0] for name in moved} == parts
    adapters = {name for name in moved if "lora_" in name}
    assert adapters == (moved if "lora" in choice else set())
    if "cross-attention" in choice:
        assert all(".attn2." in name for name in moved if name.startswith("unet."))


@pytest.mark.parametrize("choice", CHOICES)
def test_what_is_written_draws_in_plain_diffusers_as_what_was_trained(make_trainer, tmp_path, choice, capfd):
    from diffusers import StableDiffusionPipeline

    options, _ = CHOICES[choice]
    options = {**options, "algorithm": "dpo", "validation.every": 0, "learning_rate": 0.05, "lora.alpha": 3}
    trained = tiny.build_pipeline()
    capfd.readouterr()
    make_trainer(Blind(), pipeline=trained, **options).train()
    assert capfd.readouterr().err == ""  # no bars of the libraries'
    plain = tiny.build_pipeline()
    before = draw(plain)
    if "lora" in choice:
        plain.load_lora_weights(tmp_path / "run")
    else:
        plain = StableDiffusionPipeline.from_pretrained(tmp_path / "run" / "model", safety_checker=None)
    assert not torch.allclose(draw(plain), before, atol=1e-3)
    torch.testing.assert_close(draw(plain), draw(trained), atol=1e-4, rtol=0)


@pytest.mark.parametrize("choice", CHOICES)
def test_base_is_the_model_as_it_came_and_comes_back(make_trainer, choice):
    trainer = make_trainer(Blind(), **CHOICES[choice][0], algorithm="dpo")
    trainable, networks = trainer.trainable, trainer.networks

    @torch.no_grad()
    def prediction():
        latents = torch.ones(1, 4, 16, 16)
        return networks.predict(latents, torch.tensor([500]), networks.text(["a red book"]))

    before = prediction()
    for parameter in trainable.parameters.values():
        parameter.data += 0.1
    after = prediction()
    assert not torch.allclose(before, after, atol=1e-4)
    with trainable.base():
        assert torch.equal(prediction(), before)
    assert torch.equal(prediction(), after)


@pytest.mark.parametrize("choice", ["lora of both", "text encoder"])
def test_a_second_training_of_a_pipeline_begins_anew(make_trainer, pipeline, tmp_path, choice):
    for number in (1, 2):
        trainer = make_trainer(
            Blind(), pipeline=pipeline, **CHOICES[choice][0], algorithm="dpo", validation={"every": 0}, iterations=1,
            out=tmp_path / str(number),
        )  # fmt: skip
        trainer.train()
    assert {"lora" in name for name in trainer.trainable.parameters} == {"lora" in choice}
