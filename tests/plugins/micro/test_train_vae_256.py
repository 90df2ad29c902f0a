"""The recipe of the autoencoder of large pictures: what it learns from is what it says, and it learns."""

from __future__ import annotations

import json
import zipfile

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from PIL import Image
from torch import nn

from realignkit_plugins.micro.train import vae_256
from realignkit_plugins.micro.train.muon import muon
from realignkit_plugins.micro.train.vae_256_data import Latents, Pictures, captions, prompts
from realignkit_plugins.micro.world import caption, render, scene


@pytest.fixture(scope="module")
def pictures() -> Pictures:
    rendered = Pictures(31, 4, vae_256.SCALE, 2)
    rendered.wait()
    return rendered


@pytest.fixture(scope="module")
def latents(pictures: Pictures) -> Latents:
    drawn = Latents.made(torch.device("cpu"), captions(32, 2, 1))
    drawn.encode(pictures)
    return drawn


def test_pictures_are_the_scenes_at_both_sizes(pictures: Pictures) -> None:
    for index in range(4):
        assert (pictures.small[index] == render(scene(31, index)).image).all()
        assert (pictures.large[index] == render(scene(31, index), 4).image).all()
    assert pictures.told[2] == caption(scene(31, 2), np.random.default_rng([31, 2, 1]))


def test_prompts_name_one_to_three_objects_in_turn() -> None:
    assert [prompt.count(" and ") + prompt.count(",") for prompt in prompts("validation", 5)] == [0, 1, 2, 0, 1]


def test_latents_have_unit_variance_and_the_unets_guesses_are_near(latents: Latents) -> None:
    assert latents.known.shape == (4, 3, 4, 16, 16)
    assert 0.7 < float(latents.known.float().std()) < 1.3
    error = (latents.known[:, 1:].float() - latents.known[:, :1].float()).square().mean().sqrt()
    assert 0.01 < float(error) < 0.5
    assert latents.small.shape == (2, 3, 64, 64)


def test_a_picture_is_its_own_likeness(latents: Latents) -> None:
    large = latents.small.float().repeat_interleave(4, dim=2).repeat_interleave(4, dim=3)
    assert float(vae_256.likeness_loss(large, latents.small.float())) < 1e-6
    assert float(vae_256.picture_loss(large, large)) == 0
    assert float(vae_256.picture_loss(large, large.roll(1, dims=2))) > 0.01


def test_stacked_weights_are_updated_as_each_alone():
    def convolutions() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 8, 1))

    ours, theirs = convolutions(), convolutions()
    stacked, alone = vae_256.StackedMuon(ours), muon(theirs, 1e-2, 0.0, 0.98)
    for step in range(3):
        for model in (ours, theirs):
            generator = torch.Generator().manual_seed(step)
            for parameter in model.parameters():
                parameter.grad = torch.randn(parameter.shape, generator=generator)
        stacked.step(1e-2)
        alone.step()
    for mine, its in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, its, rtol=1e-4, atol=1e-5)


def test_it_learns(pictures: Pictures, latents: Latents, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RENDERED": 2, "ENCODED": 1, "DRAWN": 1, "WARMUP": 2}.items():
        monkeypatch.setattr(vae_256, name, value)
    training = vae_256.Training(pictures, latents, torch.device("cpu"))
    losses = [training.learn(step, 0.1 * step) for step in range(6)]
    assert losses[-1]["picture"] < losses[0]["picture"]
    assert losses[-1]["latents"] < losses[0]["latents"]
    image = training.averaged().decode(latents.drawn[:1].float() / latents.scaling).sample
    assert image.shape == (1, 3, 256, 256)


def test_the_command_packs_a_checkpoint_a_report_and_a_sheet(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vae_256, "OUTSIDE", 0)
    vae_256.main(tmp_path, minutes=0.0, device="cpu", scenes=2, drawn=1, judged=2, processes=1)
    assert [path.name for path in tmp_path.iterdir()] == ["vae_256.zip"]
    zipfile.ZipFile(tmp_path / "vae_256.zip").extractall(tmp_path)
    model = AutoencoderKL.from_pretrained(tmp_path)
    assert 2 ** (len(model.config.block_out_channels) - 1) == 16
    assert (tmp_path / "diffusion_pytorch_model.safetensors").stat().st_size < 6e6
    assert Image.open(tmp_path / "sheet.png").size == (1024, 256)
    assert json.loads((tmp_path / "report.json").read_text())["right_after"] == 0
