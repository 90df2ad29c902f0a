"""Checkpoints of flow transformers, from a folder to refined pictures: candidates, adapters, precisions, offload."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from realignkit import Realigner
from realignkit.attention.dense import dense_layout
from realignkit.cli import app
from realignkit.errors import ModelError
from realignkit.pipelines.encoding import encode_texts, token_limit
from realignkit_plugins.generators.stable_diffusion import StableDiffusionGenerator, suited_dtype
from tests.attention.chat_models import qwen3
from tests.attention.flow_pipelines import (
    flux2_dev_pipeline,
    flux2_pipeline,
    flux2_transformer,
    flux_pipeline,
    flux_transformer,
    qwen_image_pipeline,
    qwen_image_transformer,
    sd3_pipeline,
    sd3_transformer,
    z_image_pipeline,
    z_image_transformer,
)

FAMILIES = {
    "sd3": (sd3_pipeline, sd3_transformer),
    "flux": (flux_pipeline, flux_transformer),
    "flux2": (flux2_pipeline, flux2_transformer),
    "qwen_image": (qwen_image_pipeline, qwen_image_transformer),
    "z_image": (z_image_pipeline, z_image_transformer),
}


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    return request.param


@pytest.fixture(scope="module")
def folder(family: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(family)
    FAMILIES[family][0]().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def adapter(family: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As PEFT writes it, of the queries and values."""
    from peft import LoraConfig, get_peft_model

    network = get_peft_model(FAMILIES[family][1](), LoraConfig(r=2, lora_alpha=4, target_modules=["to_q", "to_v"]))
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.5, generator=torch.Generator().manual_seed(3))
    folder = tmp_path_factory.mktemp(f"{family}-adapter")
    network.save_pretrained(folder)
    return folder


def realigner(generator: Any, registry: Any, **options: Any) -> Realigner:
    made = {kind: registry.create(kind, "quadrants") for kind in ("tagger", "segmenter")}
    return Realigner(
        generator,
        scorers=registry.create("scorer", "wordy"),
        modulation={"share": 1.0, "power": 0.0},
        sampling={"num_inference_steps": 2, "height": 32, "width": 48},
        **made,
        **options,
    )


def test_the_whole_line(folder: Path, family: str, registry: Any) -> None:
    generator = StableDiffusionGenerator(model=str(folder), device="cpu", offload="model")
    assert generator.attention_family == family  # as its index says, nothing loaded
    result = realigner(generator, registry)("a red book and a yellow pen", 3)
    assert generator.attention_family == family
    assert {segment.caption.caption for segment in result.layout} == {"red book", "yellow pen", "desk"}
    assert result.conditioning == "a red book and a yellow pen, desk"
    before, after = (np.asarray(image, dtype=int) for image in (result.coarse, result.refined))
    assert before.shape == after.shape == (32, 48, 3)
    assert np.abs(before - after).max() > 1


def test_commands(folder: Path, tmp_path: Path) -> None:
    """``run`` with a choice among first pictures, and ``dense``, of a model in a folder."""
    small = [f"--set=sampling.{option}" for option in ("num_inference_steps=2", "height=32", "width=48")]
    found = ["--tagger=micro", "--segmenter=micro", "--scorer=lexical", "--candidates=2", "--select-by=micro_clip"]
    prompt, model = "a red book and a yellow pen", f"--model={folder}"
    box = "--box=a red book=0,0,0.5,1"
    for command, options in (("run", found), ("dense", [box])):
        out = tmp_path / command
        result = CliRunner().invoke(app, [command, prompt, model, *options, *small, "--seed=3", f"--out={out}"])
        assert result.exit_code == 0, result.output
    record = json.loads((tmp_path / "run" / "realignment.json").read_text())
    assert record["notes"][0].startswith("candidate ")
    assert all((tmp_path / name).is_file() for name in ("run/coarse.png", "run/refined.png", "dense/dense.png"))


def test_adapters_and_half_precision(folder: Path, adapter: Path, family: str, registry: Any) -> None:
    generator = StableDiffusionGenerator(model=str(folder), device="cpu", dtype="bf16", lora=str(adapter))
    pipeline = generator.pipeline()
    assert generator.attention_family == family and pipeline.transformer.dtype == torch.bfloat16
    layer = "layers.0.attention.to_v" if family == "z_image" else "transformer_blocks.0.attn.to_v"
    plain = FAMILIES[family][1]().get_submodule(layer).weight
    assert (pipeline.transformer.get_submodule(layer).weight.float() - plain).abs().max() > 0.1
    layout = dense_layout({"a red book": (0.0, 0.0, 0.5, 1.0)}, (48, 32))
    result = realigner(generator, registry).refine(["a red book"], [layout], [3])
    assert result.notes == [()] and result.images[0].size == (48, 32)


def test_flow_models_leave_the_range_of_fp16() -> None:
    bfloat16 = ("FluxPipeline", torch.bfloat16), ("Flux2KleinPipeline", torch.bfloat16)
    for kind, on_cuda in (*bfloat16, ("StableDiffusionPipeline", torch.float16)):
        assert suited_dtype("auto", "cuda:0", kind) is on_cuda
        assert suited_dtype("fp16", "cuda:0", kind) is torch.float16
        assert suited_dtype("auto", "cpu", kind) is torch.float32


@pytest.mark.parametrize("t5", [True, False])
def test_fewer_tokens_of_t5(t5: bool, tmp_path: Path, registry: Any) -> None:
    sd3_pipeline(t5=t5).save_pretrained(tmp_path)
    short, long = (
        StableDiffusionGenerator(model=str(tmp_path), device="cpu", max_sequence_length=length) for length in (12, None)
    )
    embeddings = [encode_texts(generator.pipeline(), ["a dog"])[0] for generator in (short, long)]
    assert embeddings[1].shape[1] - embeddings[0].shape[1] == 256 - 12
    assert token_limit(long.pipeline()) - token_limit(short.pipeline()) == (256 - 12 if t5 else 0)
    line = realigner(short, registry)
    result = line("a red book and a yellow pen", 3)  # text that is guided away from is as long
    assert np.abs(np.subtract(result.coarse, result.refined, dtype=int)).max() > 1
    layout = dense_layout({"a red book": (0.0, 0.0, 0.5, 1.0)}, (48, 32))
    restarted = line.with_(modulation={"strength": 0.5}).refine(["a red book"], [layout], [3], [result.coarse])
    assert restarted.images[0].size == (48, 32)


def test_fewer_tokens_are_sd3s_alone(tmp_path: Path) -> None:
    flux_pipeline().save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"of Stable Diffusion 3, and '.*' is a FluxPipeline\. Leave it out"):
        StableDiffusionGenerator(model=str(tmp_path), device="cpu", max_sequence_length=12).pipeline()


def test_parts_of_other_models_are_refused(folder: Path, family: str, tmp_path: Path) -> None:
    from transformers import T5EncoderModel

    pipeline = FAMILIES[family][0]()
    if not hasattr(pipeline, "text_encoder_2"):  # the text is a language model's
        pipeline.text_encoder = qwen3(pipeline.tokenizer, 12, 27)
        pipeline.save_pretrained(tmp_path)
        with pytest.raises(ModelError, match=r"reads texts of width \d+, and its text encoder makes \d+"):
            StableDiffusionGenerator(model=str(tmp_path), device="cpu").pipeline()
        return
    name = "text_encoder_3" if family == "sd3" else "text_encoder_2"
    config = getattr(pipeline, name).config
    config.d_model = 24
    setattr(pipeline, name, T5EncoderModel(config))
    pipeline.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="reads texts of width 32, and its text encoder makes 24"):
        StableDiffusionGenerator(model=str(tmp_path), device="cpu").pipeline()


def test_the_tokenizer_of_a_processor_of_pictures_is_all_that_is_loaded(tmp_path: Path, registry: Any) -> None:
    """As FLUX.2 [dev] is published: the processor would want torchvision."""
    flux2_dev_pipeline().save_pretrained(tmp_path)
    index = tmp_path / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"tokenizer": ["transformers", "PixtralProcessor"]}))
    generator = StableDiffusionGenerator(model=str(tmp_path), device="cpu")
    assert generator.attention_family == "flux2"
    result = realigner(generator, registry)("a red book and a yellow pen", 3)
    assert result.conditioning == "a red book and a yellow pen, desk" and result.notes == ()
