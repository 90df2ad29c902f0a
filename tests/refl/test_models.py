"""SD-2.x and SDXL: gradients against plain loops with diffusers' own schedulers, and files for plain diffusers."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline

from realignkit.refl import losses, seeds
from tests import tiny
from tests.refl.rewards import Colour
from tests.small_pipelines import small_pipeline

FAMILIES = ("sd1", "sd2", "sdxl")
GUIDANCE = 2.0
OPTIONS = {"refl.gradient_steps": (3, 3), "caption_dropout": 0.0}


def build(family):
    if family == "sdxl":
        words = tiny.tokenizer()
        words.model_max_length = 24  # of its text encoders
        return small_pipeline("sdxl", words)
    pipeline = tiny.build_pipeline()
    if family == "sd2":  # as stable-diffusion-2-1: v-prediction, linear projections, heads per level
        config = {**pipeline.unet.config, "use_linear_projection": True, "attention_head_dim": (2, 4)}
        with torch.random.fork_rng():
            torch.manual_seed(6)
            unet = type(pipeline.unet).from_config(config).eval()
        scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, prediction_type="v_prediction")
        pipeline.register_modules(unet=unet, scheduler=scheduler)
    return pipeline


def conditioning(pipeline, prompts, unconditional):
    """What the U-Net reads, from the pipeline's own encoder: embeddings, and for SDXL the rest."""
    found = pipeline.encode_prompt(prompts, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=True)
    embeddings = found[1 if unconditional else 0]
    if len(found) == 2:
        return embeddings, {}
    # Micro-conditioning, as SDXL's pipeline makes it: original size, crop corner, target size.
    sizes = torch.tensor([[32.0, 32.0, 0.0, 0.0, 32.0, 32.0]]).expand(len(prompts), -1)
    return embeddings, {"text_embeds": found[3 if unconditional else 2], "time_ids": sizes}


def gradients_of(trainer, loss):
    parameters = list(trainer.trainable.parameters.values())
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]


def close(found, expected):
    assert losses.norm(expected) > 0
    assert losses.norm([a - b for a, b in zip(found, expected, strict=True)]) < 1e-3 * losses.norm(expected)


@pytest.mark.parametrize("whole", [{}, {"trainable": "unet", "train_text_encoder": True}], ids=["adapters", "text too"])
@pytest.mark.parametrize("family", FAMILIES)
def test_both_gradients_are_those_of_a_plain_loop(make_trainer, family, whole):
    trainer = make_trainer(pipeline=build(family), **OPTIONS, **whole)
    found, places = trainer.gradients(0), [0, 1]
    algorithm, pipeline = trainer.learner.algorithm, trainer.networks.pipeline
    shape = trainer.networks.latent_shape

    prompts = [trainer.prompts[algorithm.prompt_order.at(i)] for i in places]
    (texts, extra), (empty, none) = (conditioning(pipeline, prompts, unconditional) for unconditional in (False, True))
    scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    scheduler.set_timesteps(4)
    latents = seeds.normal(shape, 42, "rollout", places)
    for index, t in enumerate(scheduler.timesteps):
        with torch.set_grad_enabled(index == 3):
            conditional = pipeline.unet(latents, t, texts, added_cond_kwargs=extra).sample
            unconditional = pipeline.unet(latents, t, empty, added_cond_kwargs=none).sample
            step = scheduler.step(unconditional + GUIDANCE * (conditional - unconditional), t, latents)
            latents, x0 = step.prev_sample, step.pred_original_sample
    images = (pipeline.vae.decode(x0 / pipeline.vae.config.scaling_factor).sample / 2 + 0.5).clamp(0, 1)
    close(found.reward, gradients_of(trainer, torch.relu(1.0 - Colour()(images, prompts)).mean()))

    clean, captions = algorithm.pairs.get([algorithm.pair_order.at(place) for place in places])
    texts, extra = conditioning(pipeline, captions, False)
    training = DDPMScheduler.from_config(pipeline.scheduler.config)
    timesteps = torch.tensor([int(seeds.numpy_rng(42, "pairs timestep", place).integers(1000)) for place in places])
    noise = seeds.normal(shape, 42, "pairs noise", places)
    prediction = pipeline.unet(
        training.add_noise(clean, noise, timesteps), timesteps, texts, added_cond_kwargs=extra
    ).sample
    target = training.get_velocity(clean, noise, timesteps) if family == "sd2" else noise
    close(found.denoising, gradients_of(trainer, (prediction - target).square().mean()))


def draw(pipeline):
    return pipeline(
        ["a red book", "a yellow pen"], num_inference_steps=3, output_type="pt",
        generator=[torch.Generator().manual_seed(i) for i in range(2)],
    ).images  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES[1:])
def test_adapters_for_plain_diffusers(make_trainer, family):
    trainer = make_trainer(pipeline=build(family), learning_rate=0.05, reward_weight=1.0, iterations=1)
    result = trainer.train()
    trained, plain = draw(trainer.networks.pipeline), build(family)
    base = draw(plain)
    plain.load_lora_weights(result.folder)
    assert (draw(plain) - trained).abs().max() < 1e-4
    assert (base - trained).abs().max() > 1e-3


@pytest.mark.parametrize("family", FAMILIES[1:])
def test_whole_models_for_plain_diffusers(make_trainer, family):
    trainer = make_trainer(pipeline=build(family), trainable="unet", reward_weight=1.0, iterations=1)
    result = trainer.train()
    trained = draw(trainer.networks.pipeline)
    plain_class = StableDiffusionXLPipeline if family == "sdxl" else StableDiffusionPipeline
    plain = plain_class.from_pretrained(result.folder / "model", use_safetensors=True)
    plain.set_progress_bar_config(disable=True)
    assert plain.scheduler.config.prediction_type == ("v_prediction" if family == "sd2" else "epsilon")
    assert (draw(plain) - trained).abs().max() < 1e-4
    assert (draw(build(family)) - trained).abs().max() > 1e-3
