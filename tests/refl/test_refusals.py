"""What can learn, what cannot and says why, and that noise levels are the same in loss, rollout and scheduler."""

from __future__ import annotations

import diffusers
import pytest
import torch

from realignkit.errors import ModelError, OptionError
from realignkit.refl import losses
from realignkit.refl.model import Networks
from realignkit.refl.refusals import check_trainable, why_not_trainable
from realignkit.refl.rollout import Rollout
from tests import tiny
from tests.attention.pixart import pixart_pipeline
from tests.small_pipelines import small_pipeline

CPU = torch.device("cpu")


def xl():
    words = tiny.tokenizer()
    words.model_max_length = 24  # of its text encoders
    return small_pipeline("sdxl", words)


def with_unet(pipeline=None, **changes):
    pipeline = pipeline or tiny.build_pipeline()
    config = {name: value for name, value in pipeline.unet.config.items() if not name.startswith("_")}
    pipeline.register_modules(unet=diffusers.UNet2DConditionModel.from_config({**config, **changes}).eval())
    return pipeline


def with_scheduler(kind, **changes):
    pipeline = tiny.build_pipeline()
    pipeline.scheduler = getattr(diffusers, kind).from_config(pipeline.scheduler.config, **changes)
    return pipeline


def image_to_image():
    parts = tiny.build_pipeline().components
    return diffusers.StableDiffusionImg2ImgPipeline(**parts, requires_safety_checker=False)


def inpainting():
    pipeline = with_unet(in_channels=9)
    return diffusers.StableDiffusionInpaintPipeline(**pipeline.components, requires_safety_checker=False)


def pix2pix():
    pipeline = with_unet(in_channels=8)
    parts = {name: part for name, part in pipeline.components.items() if name != "image_encoder"}
    return diffusers.StableDiffusionInstructPix2PixPipeline(**parts, requires_safety_checker=False)


def controlled():
    pipeline = tiny.build_pipeline()
    control = diffusers.ControlNetModel.from_unet(pipeline.unet, conditioning_embedding_out_channels=(8, 8))
    parts = {**pipeline.components, "controlnet": control}
    return diffusers.StableDiffusionControlNetPipeline(**parts, requires_safety_checker=False)


def refiner():
    """As ``AutoPipelineForText2Image`` makes of SDXL's refiner."""
    pipeline = with_unet(xl(), projection_class_embeddings_input_dim=5 * 8 + 16)
    pipeline.register_modules(text_encoder=None, tokenizer=None)
    return pipeline


def with_adapters(part="unet"):
    from peft import LoraConfig

    pipeline = tiny.build_pipeline()
    getattr(pipeline, part).add_adapter(LoraConfig(r=2, target_modules=["to_q", "q_proj"]))
    return pipeline


def without(name):
    pipeline = tiny.build_pipeline()
    pipeline.register_modules(**{name: None})
    return pipeline


def compiled():
    pipeline = tiny.build_pipeline()
    pipeline.unet = torch.compile(pipeline.unet)
    return pipeline


def another_decoder():
    pipeline = tiny.build_pipeline()
    decoder = diffusers.ConsistencyDecoderVAE(
        encoder_block_out_channels=(32, 32),
        encoder_down_block_types=("DownEncoderBlock2D",) * 2,
        decoder_block_out_channels=(32, 32),
        decoder_down_block_types=("ResnetDownsampleBlock2D",) * 2,
        decoder_up_block_types=("ResnetUpsampleBlock2D",) * 2,
        decoder_layers_per_block=1,
        encoder_layers_per_block=1,
    )
    pipeline.register_modules(vae=decoder)
    return pipeline


REFUSED = {
    "pixart": (pixart_pipeline, "transformer can be sampled and refined, but not trained"),
    "image to image": (image_to_image, "starts from an image"),
    "inpainting": (inpainting, "fills a hole"),
    "inpainting, loaded as text to image": (lambda: with_unet(in_channels=9), "reads 9 channels for 4"),
    "pix2pix": (pix2pix, "edits an image"),
    "pix2pix, loaded as text to image": (lambda: with_unet(in_channels=8), "reads 8 channels for 4"),
    "learned variance": (lambda: with_unet(out_channels=8), "predicts 8 channels for 4"),
    "ControlNet": (controlled, "needs a control image"),
    "refiner": (refiner, "refiner"),
    "lcm": (lambda: with_unet(time_cond_proj_dim=16), "latent consistency model"),
    "classes": (lambda: with_unet(class_embed_type="timestep"), "needs a class or noise level"),
    "as many classes": (lambda: with_unet(num_class_embeds=10), "needs a class or noise level"),
    "SD with SDXL's U-Net": (
        lambda: with_unet(
            addition_embed_type="text_time", addition_time_embed_dim=8, projection_class_embeddings_input_dim=64
        ),
        "reads 'text_time'",
    ),
    "image prompts": (
        lambda: with_unet(encoder_hid_dim_type="text_proj", encoder_hid_dim=32),
        "reads 'text_proj' beside the text",
    ),
    "adapters": (with_adapters, "LoRA adapters in its unet already"),
    "adapters in the text encoder": (lambda: with_adapters("text_encoder"), "adapters in its text_encoder already"),
    "no text encoder": (lambda: without("text_encoder"), "without its text_encoder"),
    "no decoder": (lambda: without("vae"), "no image decoder"),
    "another decoder": (another_decoder, "ConsistencyDecoderVAE"),
    "compiled": (compiled, "unet is compiled|no U-Net of the Stable Diffusion kind"),
    "flow": (
        lambda: with_scheduler("UniPCMultistepScheduler", use_flow_sigmas=True, prediction_type="flow_prediction"),
        "flow matching",
    ),
    "flow sigmas": (lambda: with_scheduler("DPMSolverMultistepScheduler", use_flow_sigmas=True), "flow matching"),
    "flow matching": (lambda: with_scheduler("FlowMatchEulerDiscreteScheduler"), "flow matching"),
    "edm": (lambda: with_scheduler("EDMEulerScheduler"), "no schedule of training timesteps"),
    "edm, multistep": (lambda: with_scheduler("EDMDPMSolverMultistepScheduler"), "no schedule of training timesteps"),
    "continuous": (
        lambda: with_scheduler("EulerDiscreteScheduler", timestep_type="continuous", prediction_type="v_prediction"),
        "no schedule of training timesteps",
    ),
    "sigmoid": (lambda: with_scheduler("DDPMScheduler", beta_schedule="sigmoid"), "no schedule of training timesteps"),
    "inversion": (lambda: with_scheduler("DDIMInverseScheduler"), "draws no images"),
    "lcm scheduler": (lambda: with_scheduler("LCMScheduler"), "few steps"),
    "tcd scheduler": (lambda: with_scheduler("TCDScheduler"), "few steps"),
    "zero signal": (lambda: with_scheduler("DDIMScheduler", rescale_betas_zero_snr=True), "zero signal"),
    "zero signal, euler": (lambda: with_scheduler("EulerDiscreteScheduler", rescale_betas_zero_snr=True), "zero sig"),
}


@pytest.mark.parametrize("build", [tiny.build_pipeline, xl], ids=["sd", "sdxl"])
def test_what_can_learn(build):
    assert why_not_trainable(build()) is None


@pytest.mark.parametrize(("build", "reason"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_is_refused_before_any_work(make_trainer, build, reason):
    pipeline = build()
    needed = {name: p.requires_grad for name, p in _weights(pipeline)}
    with pytest.raises(ModelError, match=reason) as refused:
        make_trainer(pipeline=pipeline, mixed_precision="bf16")
    assert type(pipeline).__name__ in str(refused.value)
    assert str(refused.value).count(". ") <= 1
    assert {p.dtype for _, p in _weights(pipeline)} == {torch.float32}
    assert {name: p.requires_grad for name, p in _weights(pipeline)} == needed


def _weights(pipeline):
    parts = {name: part for name, part in pipeline.components.items() if isinstance(part, torch.nn.Module)}
    return [(f"{name}.{key}", p) for name, part in parts.items() for key, p in part.named_parameters()]


# --- noise levels, whatever the pipeline's scheduler ----------------------------------------------------------------

SCHEDULERS = {
    "ddim": ("DDIMScheduler", {}),
    "ddpm": ("DDPMScheduler", {"clip_sample": True}),
    "pndm": ("PNDMScheduler", {"skip_prk_steps": True}),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler, karras": ("EulerDiscreteScheduler", {"use_karras_sigmas": True}),
    "euler a": ("EulerAncestralDiscreteScheduler", {"timestep_spacing": "trailing"}),
    "heun": ("HeunDiscreteScheduler", {}),
    "dpmpp, karras": ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
    "dpmpp, exponential": ("DPMSolverMultistepScheduler", {"use_exponential_sigmas": True}),
    "dpmpp, lu": ("DPMSolverMultistepScheduler", {"use_lu_lambdas": True}),
    "dpmpp, linspace": ("DPMSolverMultistepScheduler", {"timestep_spacing": "linspace"}),
    "dpmpp, clipped": ("DPMSolverMultistepScheduler", {"thresholding": True}),
    "unipc": ("UniPCMultistepScheduler", {"timestep_spacing": "trailing"}),
    "linear": ("DDIMScheduler", {"beta_schedule": "linear", "beta_start": 0.0001, "beta_end": 0.02}),
    "cosine": ("DDPMScheduler", {"beta_schedule": "squaredcos_cap_v2"}),
    "trained": ("DDIMScheduler", {"trained_betas": [0.002] * 500, "num_train_timesteps": 500}),
    "v": ("DDIMScheduler", {"prediction_type": "v_prediction"}),
    "v, zero signal": (
        "DDIMScheduler",
        {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"},
    ),
    "v, zero signal, euler": (
        "EulerDiscreteScheduler",
        {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"},
    ),
    "sample": ("DDIMScheduler", {"prediction_type": "sample"}),
}


@pytest.mark.parametrize("solver", ["ddim", "dpmpp", "unipc"])
@pytest.mark.parametrize(("kind", "changes"), SCHEDULERS.values(), ids=SCHEDULERS)
def test_the_jump_is_where_the_rollouts_own_solver_says(kind, changes, solver):
    """By brute force: at every step, the solver's noise level, and the clean latents that it makes of a prediction."""
    pipeline = with_scheduler(kind, **changes)
    networks = Networks(pipeline, CPU, "no")
    own = pipeline.scheduler.alphas_cumprod
    torch.testing.assert_close(networks.noise.alphas_cumprod, own.float(), atol=1e-6, rtol=0)
    scheduler = Rollout(networks, solver, 12, 1.0).scheduler()
    latents, prediction = torch.randn(2, 1, 4, 2, 2, generator=torch.Generator().manual_seed(0))
    assert len(scheduler.timesteps) == 12
    for index, timestep in enumerate(scheduler.timesteps):
        level = networks.noise.level(timestep)
        if solver == "ddim":
            solved = scheduler.step(prediction, timestep, latents).pred_original_sample
        else:
            sigma = scheduler.sigmas[index]
            torch.testing.assert_close(level.signal.square().squeeze(), 1 / (1 + sigma.square()), atol=1e-6, rtol=0)
            scheduler._step_index = index
            solved = scheduler.convert_model_output(prediction, sample=latents)
        jumped = losses.predict_x0(latents, prediction, level, networks.noise.kind)
        torch.testing.assert_close(jumped, solved, rtol=1e-3, atol=1e-3)


def test_more_steps_than_timesteps_are_refused(make_trainer):
    pipeline = with_scheduler("DDIMScheduler", num_train_timesteps=3)
    with pytest.raises(OptionError, match="4 steps; the model has 3 timesteps"):
        make_trainer(pipeline=pipeline)


def test_what_is_no_pipeline_is_called_by_its_kind():
    with pytest.raises(ModelError, match=r"^an int cannot be fine-tuned here: it has no U-Net of the Stable Diffusion"):
        check_trainable(3)
