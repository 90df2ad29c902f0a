"""DeepFloyd-IF's cascade on tiny random checkpoints in the published layout, against its stages called by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from realignkit import Realigner
from realignkit.errors import ModelError, OptionError
from realignkit_plugins.generators.deepfloyd import DeepFloydGenerator
from realignkit_plugins.generators.stable_diffusion import StableDiffusionGenerator
from tests import tiny
from tests.attention.pixart import t5_tokenizer

PROMPT = "a red book"


def small_unet(channels: int, side: int, **options):
    from diffusers import UNet2DConditionModel

    torch.manual_seed(side)
    return UNet2DConditionModel(
        sample_size=side,
        in_channels=channels,
        out_channels=6,  # noise and its variance
        layers_per_block=1,
        block_out_channels=(8, 16),
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        cross_attention_dim=32,
        encoder_hid_dim=24,
        encoder_hid_dim_type="text_proj",
        attention_head_dim=4,
        norm_num_groups=4,
        only_cross_attention=True,
        cross_attention_norm="group_norm",
        resnet_time_scale_shift="scale_shift",
        addition_embed_type="text",
        addition_embed_type_num_heads=2,
        act_fn="gelu",
        **options,
    ).eval()


def scheduler():
    from diffusers import DDPMScheduler

    return DDPMScheduler(beta_schedule="squaredcos_cap_v2", variance_type="learned_range", thresholding=True)


def checker_free(pipeline_class, **parts):
    out = pipeline_class(
        safety_checker=None, feature_extractor=None, watermarker=None, requires_safety_checker=False, **parts
    )
    out.set_progress_bar_config(disable=True)
    return out


@pytest.fixture(scope="module")
def stages():
    from diffusers import IFPipeline, IFSuperResolutionPipeline
    from transformers import T5Config, T5EncoderModel

    tokenizer = t5_tokenizer()
    torch.manual_seed(2)
    text = T5EncoderModel(
        T5Config(vocab_size=len(tokenizer), d_model=24, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    ).eval()
    shared = {"tokenizer": tokenizer, "text_encoder": text}
    first = checker_free(IFPipeline, unet=small_unet(3, 8), scheduler=scheduler(), **shared)
    second = checker_free(
        IFSuperResolutionPipeline,
        unet=small_unet(6, 16, class_embed_type="timestep"),
        scheduler=scheduler(),
        image_noising_scheduler=scheduler(),
        **shared,
    )
    return first, second


@pytest.fixture(scope="module")
def folders(stages, tmp_path_factory):
    folder = tmp_path_factory.mktemp("deepfloyd")
    for name, pipeline in zip(("first", "second"), stages, strict=True):
        pipeline.save_pretrained(folder / name)
    return [str(folder / name) for name in ("first", "second")]


@pytest.fixture(scope="module")
def upscaler():
    """The third stage: Stable Diffusion's upscaler, whose U-Net sees the small image beside the latents."""
    from diffusers import AutoencoderKL, DDIMScheduler, DDPMScheduler, StableDiffusionUpscalePipeline
    from diffusers import UNet2DConditionModel as UNet

    base = tiny.build_pipeline()
    torch.manual_seed(4)
    unet = UNet(
        sample_size=16,
        in_channels=7,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=(8, 16),
        norm_num_groups=4,
        cross_attention_dim=32,
        attention_head_dim=2,
        num_class_embeds=1000,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    )
    vae = AutoencoderKL(
        block_out_channels=(8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        norm_num_groups=4,
        scaling_factor=0.08333,
    )
    out = StableDiffusionUpscalePipeline(
        vae=vae.eval(),
        text_encoder=base.text_encoder,
        tokenizer=base.tokenizer,
        unet=unet.eval(),
        low_res_scheduler=DDPMScheduler(beta_schedule="squaredcos_cap_v2"),
        scheduler=DDIMScheduler(prediction_type="v_prediction"),
        max_noise_level=350,
    )
    out.set_progress_bar_config(disable=True)
    return out


def seed():
    return [torch.Generator().manual_seed(3)]


def in_two_stages(first, second, noise):
    """The second stage's image, in [-1, 1]."""
    positive, negative = first.encode_prompt([PROMPT])
    texts = {"prompt_embeds": positive, "negative_prompt_embeds": negative}
    small = first(**texts, num_inference_steps=2, generator=noise, output_type="pt").images
    return second(image=small, **texts, num_inference_steps=2, generator=noise, output_type="pt").images


def test_the_cascade_is_its_stages_one_after_the_other(stages, folders):
    generator = DeepFloydGenerator(model=folders[0], second=folders[1], third=None, device="cpu", second_steps=2)
    cascade = generator.pipeline()
    assert cascade.second.text_encoder is None, "one copy of the text encoder serves both"
    got = cascade([PROMPT], num_inference_steps=2, generator=seed(), output_type="np").images
    noise = seed()
    large = in_two_stages(*stages, noise)
    want = (large / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy()
    assert got.shape == (1, 16, 16, 3)
    assert np.allclose(got, want, atol=1e-4)
    assert got.std() > 0.01


def test_the_third_stage_upscales_what_the_second_made(stages, folders, upscaler, tmp_path):
    upscaler.save_pretrained(tmp_path)
    two = {"model": folders[0], "second": folders[1], "device": "cpu", "second_steps": 2}
    cascade = DeepFloydGenerator(**two, third=str(tmp_path), third_steps=2, noise_level=20).pipeline()
    got = cascade([PROMPT], num_inference_steps=2, generator=seed(), output_type="np").images
    noise = seed()
    large = in_two_stages(*stages, noise)
    want = upscaler(
        prompt=[PROMPT],
        image=(large / 2 + 0.5).clamp(0, 1),
        generator=noise,
        num_inference_steps=2,
        noise_level=20,
        output_type="np",
    ).images
    assert got.shape == (1, 64, 64, 3)
    assert np.allclose(got, want, atol=1e-4)
    assert got.std() > 0.01


def test_the_realigner_makes_images_and_refuses_the_fine_stage_before_loading(folders, registry):
    alone = DeepFloydGenerator(model=folders[0], second=None, device="cpu")
    made = {kind: registry.create(kind, "quadrants") for kind in ("tagger", "segmenter")}
    sampling = {"num_inference_steps": 3, "guidance_scale": 5.0}
    realigner = Realigner(alone, scorers=registry.create("scorer", "wordy"), sampling=sampling, **made)
    with pytest.raises(ModelError, match="cannot be re-weighted"):
        realigner(PROMPT, 1)
    assert "loaded" not in vars(alone), "said so before any work"
    steps = []
    images = realigner.generate([PROMPT, "a dog"], [1, 2], progress=lambda *step: steps.append(step))
    assert [image.size for image in images] == [(8, 8)] * 2
    assert steps == [("generate", done, 3) for done in (1, 2, 3)]
    (again,) = realigner.generate(["a dog"], [2])
    assert np.abs(np.asarray(again, dtype=int) - np.asarray(images[1], dtype=int)).max() <= 1  # batches change nothing
    realigner.sampling = realigner.sampling.model_copy(update={"height": 64})
    with pytest.raises(OptionError, match="takes no height"):
        realigner.generate([PROMPT], [1])


def test_by_name_too(folders):
    generator = StableDiffusionGenerator(model=folders[0], device="cpu")
    assert generator.attention_family is None  # as its index says, nothing loaded
    assert type(generator.pipeline()).__name__ == "IFPipeline"
    assert generator.attention_family is None
