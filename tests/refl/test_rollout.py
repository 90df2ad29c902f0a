"""Rollouts against diffusers' own pipeline, and their gradients against finite differences."""

from __future__ import annotations

import pytest
import torch

from realignkit.errors import ModelError
from realignkit.refl.model import Networks
from realignkit.refl.rollout import Rollout

PROMPTS = ["a red book", "a yellow pen on the desk"]


@pytest.fixture
def networks(pipeline):
    return Networks(pipeline, torch.device("cpu"), "no")


def noise(networks, seed=0):
    return torch.randn(2, *networks.latent_shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("solver", ["ddim", "dpmpp", "unipc"])
@pytest.mark.parametrize("guidance_scale", [1.0, 4.0])
def test_sampling_is_what_the_pipeline_does(networks, solver, guidance_scale):
    import diffusers

    rollout = Rollout(networks, solver, 6, guidance_scale)
    latents = rollout.sample(noise(networks), networks.text(PROMPTS))
    classes = {
        "ddim": diffusers.DDIMScheduler,
        "dpmpp": diffusers.DPMSolverMultistepScheduler,
        "unipc": diffusers.UniPCMultistepScheduler,
    }
    pipeline = networks.pipeline
    pipeline.scheduler = classes[solver].from_config(pipeline.scheduler.config)
    shared = {"num_inference_steps": 6, "guidance_scale": guidance_scale, "latents": noise(networks)}
    torch.testing.assert_close(latents, pipeline(PROMPTS, output_type="latent", **shared).images, rtol=1e-4, atol=1e-4)
    images = pipeline(PROMPTS, output_type="pt", **shared).images
    torch.testing.assert_close(networks.decode(latents), images, rtol=1e-3, atol=1e-3)


def test_the_last_jump_of_ddim_is_its_sample(networks):
    # DDIM's last step goes to abar = alphas_cumprod[0], nearly 1: nearly the jump to x0.
    rollout = Rollout(networks, "ddim", 5, 3.0)
    text = networks.text(PROMPTS)
    (point,) = rollout.jumps(noise(networks), text, [4])
    end = rollout.sample(noise(networks), text)
    assert torch.nn.functional.cosine_similarity(point.x0.flatten(), end.flatten(), dim=0) > 0.99


@pytest.mark.parametrize("solver", ["ddim", "dpmpp"])
def test_gradient_points_do_not_disturb_the_rollout(networks, solver):
    rollout, text = Rollout(networks, solver, 6, 3.0), networks.text(PROMPTS)
    (alone,) = list(rollout.jumps(noise(networks), text, [5]))
    several = list(rollout.jumps(noise(networks), text, [2, 3, 5]))
    assert [point.index for point in several] == [2, 3, 5]
    torch.testing.assert_close(several[-1].latents, alone.latents)
    torch.testing.assert_close(several[-1].x0, alone.x0)
    assert not several[-1].latents.requires_grad


def test_gradient_flows_through_the_guided_prediction(networks):
    networks.pipeline.unet.double()
    networks.pipeline.text_encoder.double()
    weight = networks.unet.mid_block.attentions[0].transformer_blocks[0].attn2.to_v.weight.requires_grad_(True)
    text, empty = networks.text(PROMPTS), networks.text(["", ""])
    latents = noise(networks).double()
    timestep = torch.tensor(300)

    def value() -> torch.Tensor:
        prediction = networks.unet(
            torch.cat([latents] * 2), timestep, torch.cat([empty.embeddings, text.embeddings])
        ).sample
        unconditional, conditional = prediction.chunk(2)
        return (unconditional + 5 * (conditional - unconditional)).square().mean()

    guided, _ = networks.guided(latents, timestep, text, 5.0)
    (found,) = torch.autograd.grad(guided.double().square().mean(), [weight])
    # Random, but not across the gradient: there, differences would drown in the predictions' float32.
    direction = torch.randn(weight.shape, generator=torch.Generator().manual_seed(1), dtype=weight.dtype)
    direction += found * (direction.norm() / found.norm())
    step = 1e-4
    with torch.no_grad():
        weight += step * direction
        up = value()
        weight -= 2 * step * direction
        down = value()
    assert float((found * direction).sum()) == pytest.approx(float(up - down) / (2 * step), rel=1e-3)


@pytest.mark.parametrize("solver", ["ddim", "dpmpp", "unipc"])
def test_finishing_is_sampling(networks, solver):
    rollout, text = Rollout(networks, solver, 6, 3.0), networks.text(PROMPTS)
    networks.unet.requires_grad_(True)
    x0, points = rollout.finished(noise(networks), text, [1, 4])
    torch.testing.assert_close(x0, rollout.sample(noise(networks), text))
    assert [point.index for point in points] == [1, 4]


@pytest.mark.parametrize("solver", ["ddim", "dpmpp", "unipc"])
def test_the_finished_images_gradient_holds_what_the_network_read(networks, solver):
    # By brute force: a weight is changed at the drawn steps alone, and every step reads the latents of the first run.
    networks.pipeline.unet.double()
    networks.pipeline.text_encoder.double()
    weight = networks.unet.up_blocks[-1].resnets[-1].conv1.weight.requires_grad_(True)
    rollout, text, at = Rollout(networks, solver, 6, 3.0), networks.text(PROMPTS), [0, 2, 5]
    read: list[torch.Tensor] = []
    hook = networks.unet.register_forward_pre_hook(lambda _, given: read.append(given[0].detach().chunk(2)[0].clone()))
    start = noise(networks).double()
    random = torch.Generator().manual_seed(3)
    towards = torch.randn(start.shape, generator=random, dtype=torch.float64)
    x0, _ = rollout.finished(start, text, at)
    hook.remove()
    (found,) = torch.autograd.grad((x0 * towards).sum(), [weight])
    # Random, but not across the gradient: there, differences would drown in the predictions' float32.
    direction, step = torch.randn(weight.shape, generator=random, dtype=torch.float64), 1e-5
    direction += found * (direction.norm() / found.norm())

    @torch.no_grad()
    def end(sign: int) -> torch.Tensor:
        scheduler = rollout.scheduler()
        latents = start * scheduler.init_noise_sigma
        for index, timestep in enumerate(scheduler.timesteps):
            change = sign * step * direction if index in at else 0
            weight.data += change
            prediction, _ = networks.guided(read[index], timestep, text, 3.0)
            weight.data -= change
            latents = scheduler.step(prediction, timestep, latents, return_dict=False)[0]
        return latents.double()

    # Predictions are float32, so elements are subtracted before they are summed.
    slope = float(((end(1) - end(-1)) * towards).sum()) / (2 * step)
    assert float((found * direction).sum()) == pytest.approx(slope, rel=1e-2)


def test_images_and_latents_round_trip_as_in_the_pipeline(networks):
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(4))
    vae = networks.pipeline.vae
    expected = vae.encode(images * 2 - 1).latent_dist.mode() * vae.config.scaling_factor
    torch.testing.assert_close(networks.encode(images), expected)
    latents = noise(networks)
    expected = (vae.decode(latents / vae.config.scaling_factor).sample / 2 + 0.5).clamp(0, 1)
    torch.testing.assert_close(networks.decode(latents), expected)


def test_texts_are_encoded_once(networks):
    calls = []
    networks.pipeline.text_encoder.register_forward_hook(lambda *_: calls.append(1))
    first, again = networks.text(PROMPTS), networks.text(PROMPTS[::-1])
    assert len(calls) == 2
    assert torch.equal(first.embeddings.flip(0), again.embeddings)


def test_nan_is_named(networks):
    with torch.no_grad():
        networks.unet.conv_out.bias[0] = float("nan")
    with pytest.raises(ModelError, match="NaN"):
        Rollout(networks, "ddim", 3, 1.0).sample(noise(networks), networks.text(PROMPTS))


def test_sdxl_is_conditioned_as_its_pipeline_does():
    import tests.small_pipelines as small
    from tests import tiny

    words = tiny.tokenizer()
    words.model_max_length = 24  # of its text encoders
    pipeline = small.small_pipeline("sdxl", words)
    networks = Networks(pipeline, torch.device("cpu"), "no")
    latents = Rollout(networks, "ddim", 3, 4.0).sample(noise(networks), networks.text(PROMPTS))
    expected = pipeline(
        PROMPTS, num_inference_steps=3, guidance_scale=4.0, latents=noise(networks), output_type="latent"
    ).images
    torch.testing.assert_close(latents, expected, rtol=1e-4, atol=1e-4)
