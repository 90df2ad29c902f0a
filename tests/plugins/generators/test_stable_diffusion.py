"""The generator on a small random StableDiffusionPipeline, saved and loaded back."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from realignkit.errors import ModelError, OptionError
from realignkit.testing import check_plugin
from realignkit_plugins.generators.stable_diffusion import StableDiffusionGenerator
from tests.attention.pixart import pixart_pipeline
from tests.tiny import build_pipeline

ARGUMENTS = {"num_inference_steps": 3, "output_type": "np", "height": 32, "width": 32}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pipeline")
    build_pipeline().save_pretrained(folder)
    return folder


def test_the_pipeline_is_the_saved_one(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    generator = StableDiffusionGenerator(model=str(folder), device="cpu")
    pipeline = generator.pipeline()
    assert generator.pipeline() is pipeline
    assert generator.attention_family == "unet"
    got = pipeline("a red book", generator=torch.Generator().manual_seed(1), **ARGUMENTS).images
    want = build_pipeline()("a red book", generator=torch.Generator().manual_seed(1), **ARGUMENTS).images
    assert np.allclose(got, want, atol=1e-5)
    assert "it/s" not in capfd.readouterr().err, "no progress bars"


def test_a_compiled_network_is_of_the_same_family(folder: Path) -> None:
    generator = StableDiffusionGenerator(model=str(folder), device="cpu")
    pipeline = generator.pipeline()
    pipeline.unet = torch.compile(pipeline.unet, backend="eager")
    assert generator.attention_family == "unet"


def test_half_precision_checkpoint_becomes_float32_on_a_cpu(tmp_path: Path) -> None:
    build_pipeline().to(torch.float16).save_pretrained(tmp_path)
    stored = build_pipeline().to(torch.float16).unet.conv_in.weight
    pipeline = StableDiffusionGenerator(model=str(tmp_path), device="cpu").pipeline()
    assert {p.dtype for m in (pipeline.unet, pipeline.vae, pipeline.text_encoder) for p in m.parameters()} == {
        torch.float32
    }
    assert torch.equal(pipeline.unet.conv_in.weight, stored.float())
    assert np.isfinite(pipeline("a pen", **ARGUMENTS).images).all()


def test_dtype_variant_and_scheduler(folder: Path, tmp_path: Path) -> None:
    from diffusers import DPMSolverMultistepScheduler

    build_pipeline().save_pretrained(tmp_path, variant="fp16")
    generator = StableDiffusionGenerator(model=str(tmp_path), variant="fp16", dtype="bf16", scheduler="dpmpp")
    pipeline = generator.pipeline()
    assert pipeline.unet.dtype == torch.bfloat16
    assert isinstance(pipeline.scheduler, DPMSolverMultistepScheduler)
    original = build_pipeline().scheduler.config
    assert pipeline.scheduler.config.beta_start == original.beta_start
    assert pipeline.scheduler.config.beta_schedule == original.beta_schedule


def test_offload_has_nothing_to_move_on_a_cpu(folder: Path) -> None:
    pipeline = StableDiffusionGenerator(model=str(folder), device="cpu", offload="model").pipeline()
    assert {component.device.type for component in (pipeline.unet, pipeline.vae)} == {"cpu"}
    assert not hasattr(pipeline.unet, "_hf_hook")
    with pytest.raises(OptionError, match="offload"):
        StableDiffusionGenerator(offload="disk")


@pytest.mark.parametrize("name", ["ddim", "ddpm", "pndm", "euler", "euler_a", "heun", "dpmpp_karras", "unipc"])
def test_every_scheduler_samples(folder: Path, name: str) -> None:
    pipeline = StableDiffusionGenerator(model=str(folder), scheduler=name).pipeline()
    images = pipeline("a red book", **ARGUMENTS).images
    assert images.shape == (1, 32, 32, 3)
    assert np.isfinite(images).all()


def test_options_become_defaults() -> None:
    generator = StableDiffusionGenerator(
        num_inference_steps=20,
        guidance_scale=5.0,
        companions={"tagger": "micro"},
        refine_defaults={"p": 1.0},
    )
    assert generator.sampling_defaults == {"num_inference_steps": 20, "guidance_scale": 5.0}
    assert generator.companions == {"tagger": "micro"}
    assert generator.refine_defaults == {"p": 1.0}
    assert generator.options.model == "stable-diffusion-v1-5/stable-diffusion-v1-5"
    for wrong in ({"dtype": "fp8"}, {"scheduler": "magic"}, {"num_inference_steps": 0}, {"modle": "x"}):
        with pytest.raises(OptionError, match="Its options"):
            StableDiffusionGenerator(**wrong)


@pytest.mark.parametrize(
    ("name", "part", "network", "family"),
    [
        ("StableDiffusionXLPipeline", "unet", "UNet2DConditionModel", "unet"),
        ("StableDiffusionImg2ImgPipeline", "unet", "UNet2DConditionModel", "unet"),  # loads as text-to-image
        ("PixArtAlphaPipeline", "transformer", "PixArtTransformer2DModel", "pixart"),
        ("PixArtSigmaPipeline", "transformer", "PixArtTransformer2DModel", "pixart"),
        ("StableDiffusion3Pipeline", "transformer", "SD3Transformer2DModel", "sd3"),
        ("FluxPipeline", "transformer", "FluxTransformer2DModel", "flux"),
        ("Flux2Pipeline", "transformer", "Flux2Transformer2DModel", "flux2"),
        ("Flux2KleinPipeline", "transformer", "Flux2Transformer2DModel", "flux2"),
        ("Flux2KleinPipeline", "transformer", "FluxTransformer2DModel", None),
        ("QwenImagePipeline", "transformer", "QwenImageTransformer2DModel", "qwen_image"),
        ("ZImagePipeline", "transformer", "ZImageTransformer2DModel", "z_image"),
        ("IFPipeline", "unet", "UNet2DConditionModel", None),
    ],
)
def test_what_can_be_modulated_is_known_without_loading(tmp_path, name, part, network, family) -> None:
    index = {"_class_name": name, part: ["diffusers", network]}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    assert StableDiffusionGenerator(model=str(tmp_path)).attention_family == family


def test_bad_checkpoints(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no folder"):
        StableDiffusionGenerator(model=str(tmp_path / "nowhere")).pipeline()
    with pytest.raises(ModelError, match=r"is a file\. Give the folder"):
        StableDiffusionGenerator(model=str(folder / "model_index.json")).pipeline()
    with pytest.raises(ModelError, match="folder is complete"):
        StableDiffusionGenerator(model=str(tmp_path)).pipeline()  # an empty folder

    damaged = tmp_path / "damaged"
    shutil.copytree(folder, damaged)
    weights = damaged / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(ModelError, match="cannot be loaded"):
        StableDiffusionGenerator(model=str(damaged)).pipeline()

    headless = tmp_path / "headless"
    shutil.copytree(folder, headless)
    shutil.rmtree(headless / "vae")
    with pytest.raises(ModelError, match="cannot be loaded"):
        StableDiffusionGenerator(model=str(headless)).pipeline()

    other = tmp_path / "other"
    other.mkdir()
    (other / "model_index.json").write_text(json.dumps({"_class_name": "DanceDiffusionPipeline"}))
    with pytest.raises(ModelError, match="text-to-image"):
        StableDiffusionGenerator(model=str(other)).pipeline()


def test_pickles_are_refused(folder: Path, tmp_path: Path) -> None:
    """Weights in pickle form can run code; only safetensors are read."""
    build_pipeline().save_pretrained(tmp_path, safe_serialization=False)
    with pytest.raises(ModelError, match="cannot be loaded"):
        StableDiffusionGenerator(model=str(tmp_path)).pipeline()


def test_sdxl(tmp_path: Path) -> None:
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    base = build_pipeline()
    text = {**base.text_encoder.config.to_dict(), "projection_dim": 32}
    unet = UNet2DConditionModel(
        sample_size=16,
        layers_per_block=1,
        block_out_channels=(16, 32),
        norm_num_groups=4,
        cross_attention_dim=64,
        attention_head_dim=(2, 4),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=80,
        transformer_layers_per_block=(1, 1),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    )
    StableDiffusionXLPipeline(
        vae=base.vae,
        text_encoder=base.text_encoder,
        text_encoder_2=CLIPTextModelWithProjection(CLIPTextConfig(**text)),
        tokenizer=base.tokenizer,
        tokenizer_2=base.tokenizer,
        unet=unet,
        scheduler=EulerDiscreteScheduler(),
        add_watermarker=False,
    ).save_pretrained(tmp_path)
    generator = StableDiffusionGenerator(model=str(tmp_path), device="cpu")
    pipeline = generator.pipeline()
    assert isinstance(pipeline, StableDiffusionXLPipeline)
    assert generator.attention_family == "unet"
    assert pipeline("a red book", **ARGUMENTS).images.shape == (1, 32, 32, 3)


def test_pixart_through_the_whole_line(tmp_path: Path, registry: Any) -> None:
    from diffusers import PixArtAlphaPipeline

    from realignkit import ModulationConfig, Realigner
    from tests.attention.pixart import pixart_pipeline

    pixart_pipeline().save_pretrained(tmp_path)
    generator = StableDiffusionGenerator(model=str(tmp_path), device="cpu", scheduler="ddim")
    assert generator.attention_family == "pixart"
    made = {kind: registry.create(kind, "quadrants") for kind in ("tagger", "segmenter")}
    realigner = Realigner(
        generator,
        scorers=registry.create("scorer", "wordy"),
        modulation=ModulationConfig(share=1.0, power=0.0),
        sampling={"num_inference_steps": 3, "guidance_scale": 4.5},
        **made,
    )
    assert realigner.image_size == (16, 16)
    result = realigner("A red book and a yellow pen", 3)
    assert isinstance(generator.pipeline(), PixArtAlphaPipeline)
    assert {segment.caption.caption for segment in result.layout} == {"red book", "yellow pen", "desk"}
    assert result.conditioning == "A red book and a yellow pen, desk"
    before, after = (np.asarray(image, dtype=int) for image in (result.coarse, result.refined))
    assert before.shape == after.shape == (16, 16, 3)
    assert np.abs(before - after).max() > 1


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_text_encoders_keep_what_overflows_in_float32(dtype: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    pipeline = pixart_pipeline()
    with torch.no_grad():  # as in T5-XXL: the second layer's results exceed what fp16 holds, 65504
        for block in pipeline.text_encoder.encoder.block:
            block.layer[1].DenseReluDense.wi.weight.mul_(1000)
            block.layer[1].DenseReluDense.wo.weight.mul_(1000)
    pipeline.save_pretrained(tmp_path)
    want = pipeline.encode_prompt("a red book", do_classifier_free_guidance=False)[0]
    capfd.readouterr()
    loaded = StableDiffusionGenerator(model=str(tmp_path), device="cpu", dtype=dtype).pipeline()
    told = capfd.readouterr()
    assert "float32" not in told.out + told.err
    kind = {"fp16": torch.float16, "bf16": torch.bfloat16}[dtype]
    kept = {".wo.": torch.float32 if dtype == "fp16" else kind}  # bfloat16 overflows nowhere
    for name, parameter in loaded.text_encoder.named_parameters():
        assert parameter.dtype == next((d for part, d in kept.items() if part in name), kind), name
    for network in (loaded.transformer, loaded.vae):
        assert {parameter.dtype for parameter in network.parameters()} == {kind}
    got = loaded.encode_prompt("a red book", do_classifier_free_guidance=False)[0].float()
    loaded.vae.to(torch.float32)  # as pipelines do around a VAE that overflows
    told = capfd.readouterr()
    assert "float32" not in told.out + told.err
    assert torch.isfinite(got).all()
    assert (got - want).norm() < 0.02 * want.norm()


def test_it_keeps_its_contract(folder: Path) -> None:
    check_plugin(StableDiffusionGenerator(model=str(folder), device="cpu"))
