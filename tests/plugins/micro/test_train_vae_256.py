"""The recipe of the autoencoder of large pictures: what it learns from is what it says, and it learns."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
import torch
from diffusers import AutoencoderKL
from PIL import Image

from realignkit_plugins.micro import checkpoints
from realignkit_plugins.micro.train import vae_256, vae_256_data, vae_256_judge
from realignkit_plugins.micro.train.vae_256_data import prompts
from realignkit_plugins.micro.world import render, scene


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """For checkpoints, with the base model alone; and for logs, with the latents once they are made."""
    out, work = (tmp_path_factory.mktemp(name) for name in ("out", "work"))
    shutil.copytree(checkpoints.path("base"), out / "base")
    return out, work


@pytest.fixture
def recipe(folders, monkeypatch: pytest.MonkeyPatch) -> vae_256.VAE256Recipe:
    for name, value in {"SCENES": 4, "DRAWN": 2, "JUDGED": 2}.items():
        monkeypatch.setattr(vae_256, name, value)
    monkeypatch.setattr(vae_256_judge, "CHECKED", 2)
    schedule = replace(vae_256.VAE256Recipe.schedule, batch_size=1)
    monkeypatch.setattr(vae_256.VAE256Recipe, "schedule", schedule)
    return vae_256.VAE256Recipe(*folders, 0, 4)


def test_prompts_name_one_to_three_objects_in_turn() -> None:
    assert [prompt.count(" and ") + prompt.count(",") for prompt in prompts(5)] == [0, 1, 2, 0, 1]


def test_a_step_shows_the_scenes_that_it_picked(recipe) -> None:
    pick, pixels = recipe.lessons.of(1)
    assert pixels.shape == (recipe.schedule.batch_size, 256, 256, 3)
    assert (pixels[0] == render(scene(vae_256.SCENE_SEEDS["vae"], pick[0]), 4).image).all()


def test_latents_have_unit_variance_and_the_unets_estimates_are_near(recipe) -> None:
    latents = recipe.latents
    assert latents.known.shape == (4, 2, 4, 16, 16)
    assert 0.7 < float(latents.known.float().std()) < 1.3
    error = (latents.known[:, 1].float() - latents.known[:, 0].float()).square().mean().sqrt()
    assert 0.01 < float(error) < 0.5
    assert latents.small.shape == (2, 3, 64, 64)
    torch.testing.assert_close(latents.decode(latents.drawn), latents.small.float(), rtol=0, atol=2e-3)


def test_latents_are_made_once(recipe, folders, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vae_256_data, "draw", None)
    again = vae_256.VAE256Recipe(*folders, 0, 3)
    assert torch.equal(again.latents.validation, recipe.latents.validation)


def test_latents_of_another_base_model_are_not_taken(recipe, folders, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vae_256_data, "_digest", lambda pipeline: "another")
    monkeypatch.setattr(vae_256_data.Latents, "_encoded", lambda *_: pytest.fail("made anew"))
    with pytest.raises(pytest.fail.Exception, match="made anew"):
        vae_256.VAE256Recipe(*folders, 0, 3)


def test_a_picture_is_its_own_likeness(recipe) -> None:
    small = recipe.latents.small.float()
    large = small.repeat_interleave(4, dim=2).repeat_interleave(4, dim=3)
    assert float(vae_256.likeness_loss(large, small)) < 1e-6
    assert float(vae_256.picture_loss(large, large)) == 0
    assert float(vae_256.picture_loss(large, large.roll(1, dims=2))) > 0.01


def test_doubt_weighs_what_it_should_and_teaches_the_critic_nothing() -> None:
    torch.manual_seed(0)
    critic, true = vae_256.build_critic(), torch.rand(2, 3, 32, 32).round() * 2 - 1
    made = (torch.rand(2, 3, 32, 32) * 2 - 1).requires_grad_()
    likeness = vae_256.picture_loss(made, true)
    (gradient,) = torch.autograd.grad(likeness, made, retain_graph=True)
    vae_256.doubt_loss(critic, made, likeness).backward()
    assert float(made.grad.norm()) == pytest.approx(vae_256.DOUBT * float(gradient.norm()), rel=1e-3)
    assert all(parameter.grad is None for parameter in critic.parameters())
    optimizer = torch.optim.Adam(critic.parameters(), 3e-3)
    losses = []
    for _ in range(20):
        losses.append(vae_256.critic_loss(critic, made, true))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.7 * losses[0]


def test_it_learns_and_saves_a_checkpoint_a_report_and_a_sheet(
    recipe, folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lesson(step: int) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        return recipe.loss(step, torch.Generator().manual_seed(0))[1]

    monkeypatch.setattr(vae_256, "CRITICAL", 2)
    monkeypatch.setattr(vae_256.Ahead, "of", lambda ahead, step: ahead[0])  # always the same scenes
    before = lesson(0)
    recipe.fit()
    after = lesson(3)
    assert after["picture"] < before["picture"]
    assert after["latents"] < before["latents"]
    assert {"doubt", "critic"} == after.keys() - before.keys()
    out, work = folders
    recipe.finish(out / "vae_256")
    model = AutoencoderKL.from_pretrained(out / "vae_256")
    assert 2 ** (len(model.config.block_out_channels) - 1) == 16
    assert model.config.scaling_factor == recipe.latents.scaling
    assert (out / "vae_256" / "diffusion_pytorch_model.safetensors").stat().st_size < 6e6
    assert Image.open(work / "vae_256" / "sheet.png").size == (1024, 256)
    assert json.loads((work / "vae_256" / "report.json").read_text())["right_after"] == 0
    again = vae_256.VAE256Recipe(*folders, 0, 3)  # goes on from what is there, its encoder as it is
    for mine, saved in zip(again.model.parameters(), recipe.model.parameters(), strict=True):
        assert torch.equal(mine, saved)
    again.loss(0, torch.Generator().manual_seed(0))[0].backward()
    assert all(parameter.grad is None for parameter in again.model.encoder.parameters())
    assert any(parameter.grad.any() for parameter in again.model.decoder.parameters())
