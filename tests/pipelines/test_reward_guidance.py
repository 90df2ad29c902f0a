"""Guided sampling: against a plain re-computation, and its gradient against finite differences, decoder included."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler, HeunDiscreteScheduler

from realignkit.pipelines.generate import generate
from realignkit.pipelines.reward_guidance import GuidedSampling, guiding, normalised
from tests.attention.pixart import pixart_pipeline
from tests.small_pipelines import FAST

PROMPTS, SEEDS = ["a red book", "a cat and a dog"], [3, 4]


def towards_red(images, prompts):
    """The gradient of how red images are, the more so the longer their prompt: of pixels that are not at the ends."""
    weight = torch.tensor([len(prompt) for prompt in prompts], dtype=torch.float32)
    gradient = torch.zeros_like(images)
    gradient[:, 0], gradient[:, 1:] = 1.0, -0.5
    return gradient * weight.view(-1, 1, 1, 1)


def redness(image):
    red, green, blue = np.asarray(image, dtype=float).transpose(2, 0, 1)
    return float((red - (green + blue) / 2).sum())


def drawn(pipeline, prompts=PROMPTS, seeds=SEEDS, *, gradient=towards_red, strength=0.3, share=1.0, **options):
    scale = options.get("guidance_scale")
    with guiding(pipeline, prompts, gradient, strength=strength, share=share, guidance_scale=scale) as sampling:
        return generate(pipeline, prompts, seeds, **{**FAST, **options}), sampling


def tensors(images):
    return [torch.tensor(np.asarray(image), dtype=torch.float32) for image in images]


def test_guided_pictures_follow_the_reward_and_nothing_stays_behind(pipeline):
    plain = generate(pipeline, PROMPTS, SEEDS, **FAST)
    guided, sampling = drawn(pipeline)
    assert (sampling.passes, sampling.guided) == (4, 4)
    assert sampling.seconds > 0
    assert all(redness(after) > redness(before) for before, after in zip(plain, guided, strict=True))
    again = generate(pipeline, PROMPTS, SEEDS, **FAST)
    assert all(map(torch.equal, tensors(plain), tensors(again)))
    assert "forward" not in vars(pipeline.unet)


@pytest.mark.parametrize("guidance_scale", [1.0, 4.0])
def test_each_picture_is_guided_by_itself(sd_pipeline, guidance_scale):
    together, _ = drawn(sd_pipeline, guidance_scale=guidance_scale)
    for image, prompt, seed in zip(tensors(together), PROMPTS, SEEDS, strict=True):
        alone, _ = drawn(sd_pipeline, [prompt], [seed], guidance_scale=guidance_scale)
        assert (image - tensors(alone)[0]).abs().max() <= 2  # sums in other orders


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("share", [0.5, 1.0])
def test_it_equals_a_plain_loop(make_pipeline, kind, share):
    sd_pipeline = make_pipeline("sd")
    sd_pipeline.scheduler = DDIMScheduler.from_config(
        sd_pipeline.scheduler.config, prediction_type=kind, clip_sample=False
    )
    images, _ = drawn(sd_pipeline, strength=0.2, share=share, guidance_scale=3.0)
    unet, vae, scheduler = sd_pipeline.unet, sd_pipeline.vae, sd_pipeline.scheduler
    text, empty = sd_pipeline.encode_prompt(PROMPTS, "cpu", 1, True)
    scheduler.set_timesteps(4)
    x = torch.cat([torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(s)) for s in SEEDS])
    for number, t in enumerate(scheduler.timesteps):
        x = x.detach().requires_grad_()
        conditional = unet(x, t, encoder_hidden_states=text).sample
        with torch.no_grad():
            unconditional = unet(x, t, encoder_hidden_states=empty).sample
            prediction = unconditional + 3.0 * (conditional - unconditional)
        a, s = scheduler.alphas_cumprod[t].sqrt(), (1 - scheduler.alphas_cumprod[t]).sqrt()

        def jump(predicted, x=x, a=a, s=s):
            return {"epsilon": (x - s * predicted) / a, "v_prediction": a * x - s * predicted, "sample": predicted}[
                kind
            ]

        seen = jump(prediction).detach().requires_grad_()
        pixels = (vae.decode(seen / vae.config.scaling_factor).sample / 2 + 0.5).clamp(0, 1)
        (wanted,) = torch.autograd.grad((pixels * towards_red(pixels.detach(), PROMPTS)).sum(), seen)
        (ascent,) = torch.autograd.grad((jump(conditional) * wanted).sum(), x)
        ascent = ascent / ascent.square().mean((1, 2, 3), keepdim=True).sqrt()
        with torch.no_grad():
            if number < share * 4:  # the noise that it stands for loses 0.2 of the direction
                change = {"epsilon": -1, "v_prediction": -1 / a, "sample": s / a}[kind]
                prediction = prediction + 0.2 * change * ascent
            x = scheduler.step(prediction, t, x).prev_sample
    with torch.no_grad():
        pixels = (vae.decode(x / vae.config.scaling_factor).sample / 2 + 0.5).clamp(0, 1)
    expected = (pixels * 255).round().permute(0, 2, 3, 1)
    assert (expected - torch.stack(tensors(images))).abs().max() <= 1


def test_the_ascent_is_the_gradient_of_the_decoded_prediction_by_finite_differences(make_pipeline):
    pipeline = make_pipeline("sd")
    for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
        part.double()
    text, _ = pipeline.encode_prompt(PROMPTS, "cpu", 1, False)
    pipeline.scheduler.set_timesteps(4)
    timestep = pipeline.scheduler.timesteps[1]
    sampling = GuidedSampling(pipeline, tuple(PROMPTS), towards_red, 0.5, 1.0, 1.0, pipeline.unet.forward)
    alpha_bar = pipeline.scheduler.alphas_cumprod[timestep].double()

    def reward(x):
        noise = pipeline.unet(x, timestep, encoder_hidden_states=text).sample
        clean = (x - (1 - alpha_bar).sqrt() * noise) / alpha_bar.sqrt()
        pixels = (pipeline.vae.decode(clean / pipeline.vae.config.scaling_factor).sample / 2 + 0.5).clamp(0, 1)
        return (pixels * towards_red(pixels, PROMPTS)).sum((1, 2, 3))

    generator = torch.Generator().manual_seed(0)
    x, *directions = (torch.randn((2, 4, 8, 8), generator=generator, dtype=torch.float64) for _ in range(4))
    with torch.no_grad():
        plain = pipeline.unet(x, timestep, encoder_hidden_states=text).sample
        (moved,) = sampling(x, timestep, encoder_hidden_states=text, return_dict=False)
        ascent = (plain - moved) / 0.5
        assert torch.allclose(ascent.square().mean((1, 2, 3)), torch.ones(2, dtype=torch.float64), atol=1e-3)
        slopes = torch.stack([(reward(x + 1e-5 * d) - reward(x - 1e-5 * d)) / 2e-5 for d in directions])
    along = torch.stack([(ascent * d).sum((1, 2, 3)) for d in directions])
    # A direction of length 1 knows slopes up to one factor, the same in all directions, of each picture.
    factor = (slopes * along).sum(0) / along.square().sum(0)
    assert (factor > 0).all()
    assert torch.allclose(slopes, factor * along, rtol=1e-2, atol=1e-2 * float(slopes.abs().max()))


def test_what_has_no_gradient_is_left_as_it_is(sd_pipeline):
    plain = generate(sd_pipeline, PROMPTS, SEEDS, **FAST)

    def only_the_first(images, prompts):
        gradient = towards_red(images, prompts)
        gradient[1] = 0
        return gradient

    guided, _ = drawn(sd_pipeline, gradient=only_the_first)
    first, second = ((a - b).abs().max() for a, b in zip(tensors(plain), tensors(guided), strict=True))
    assert first > 2 >= second


def test_only_the_first_share_of_the_steps_is_guided(sd_pipeline):
    _, sampling = drawn(sd_pipeline, share=0.5)
    assert (sampling.guided, sampling.passes) == (2, 4)
    _, sampling = drawn(sd_pipeline, share=0.01)
    assert sampling.guided == 1


@pytest.mark.parametrize("scheduler", [EulerDiscreteScheduler, DPMSolverMultistepScheduler, HeunDiscreteScheduler])
def test_other_solvers_are_guided_too(make_pipeline, scheduler):
    sd_pipeline = make_pipeline("sd")
    sd_pipeline.scheduler = scheduler.from_config(sd_pipeline.scheduler.config)
    plain = generate(sd_pipeline, PROMPTS, SEEDS, **FAST)
    guided, sampling = drawn(sd_pipeline)
    assert sampling.guided == sampling.passes
    assert all(redness(after) > redness(before) for before, after in zip(plain, guided, strict=True))


def test_noise_alone_predicts_nothing_to_rate(make_pipeline):
    sd_pipeline = make_pipeline("sd")
    sd_pipeline.scheduler = DDIMScheduler.from_config(
        sd_pipeline.scheduler.config,
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        prediction_type="v_prediction",
    )
    _, sampling = drawn(sd_pipeline)
    assert (sampling.guided, sampling.passes) == (3, 4)


def test_a_transformer_with_a_learned_variance_is_guided():
    pipeline = pixart_pipeline()
    options = {"num_inference_steps": 3, "height": 16, "width": 16}
    plain = generate(pipeline, PROMPTS, SEEDS, **options)
    guided, sampling = drawn(pipeline, **options)
    assert sampling.guided == 3
    assert all(redness(after) > redness(before) for before, after in zip(plain, guided, strict=True))


def test_half_precision_guides_as_well(make_pipeline):
    pipeline = make_pipeline("sd").to(torch.bfloat16)
    plain = generate(pipeline, PROMPTS, SEEDS, **FAST)
    guided, _ = drawn(pipeline)
    assert all(redness(after) > redness(before) for before, after in zip(plain, guided, strict=True))


def test_normalised_leaves_nothing_as_nothing():
    both = normalised(torch.stack([torch.full((1, 2, 2), 1e-9), torch.zeros(1, 2, 2)]))
    assert torch.allclose(both[0], torch.ones(1, 2, 2))
    assert not both[1].any()
