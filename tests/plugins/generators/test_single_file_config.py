"""The settings of a model in one file: read off its weights, or given beside it."""

from __future__ import annotations

import json
import shutil
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from realignkit.errors import ModelError
from realignkit_plugins.generators.single_file_config import _parts, write_config
from realignkit_plugins.generators.single_file_kinds import family_of
from tests.plugins.generators.original import FAMILIES, TEXTS, load, networks, original, same_weights
from tests.tiny import build_pipeline

pytestmark = pytest.mark.usefixtures("no_network")

# As published: stable-diffusion-v1-5, stable-diffusion-2-1 (768 pixels), stable-diffusion-xl-base-1.0.
PUBLISHED: dict[str, dict[str, Any]] = {
    "sd1": {
        "block_out_channels": [320, 640, 1280, 1280],
        "layers_per_block": 2,
        "cross_attention_dim": 768,
        "attention_head_dim": 8,
        "use_linear_projection": False,
        "sample_size": 64,
        "in_channels": 4,
        "down_block_types": [*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"],
        "up_block_types": ["UpBlock2D", *["CrossAttnUpBlock2D"] * 3],
        "transformer_layers_per_block": [1, 1, 1, 1],
    },
    "sd2": {
        "block_out_channels": [320, 640, 1280, 1280],
        "cross_attention_dim": 1024,
        "attention_head_dim": [5, 10, 20, 20],
        "use_linear_projection": True,
        "sample_size": 96,
    },
    "sdxl": {
        "block_out_channels": [320, 640, 1280],
        "cross_attention_dim": 2048,
        "attention_head_dim": [5, 10, 20],
        "use_linear_projection": True,
        "sample_size": 128,
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        "transformer_layers_per_block": [1, 2, 10],
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_published_sizes_give_the_published_settings(family):
    """Of full size, without a byte of weights; the numbers of weights are those of the published files."""
    with torch.device("meta"):
        parts = networks(family, full_size=True)
        shapes = {name: tuple(weight.shape) for name, weight in original(parts, family).items()}
    counts = {prefix: sum(name.startswith(prefix) for name in shapes) for prefix in ("model.diff", "first_stage")}
    assert counts == {"model.diff": 1680 if family == "sdxl" else 686, "first_stage": 248}
    assert family_of(shapes, "x") == family
    found = _parts(shapes, family, "v_prediction" if family == "sd2" else "epsilon")
    for key, value in PUBLISHED[family].items():
        assert found["unet"][key] == value, key
    assert found["vae"]["block_out_channels"] == [128, 256, 512, 512]
    assert found["vae"]["scaling_factor"] == (0.13025 if family == "sdxl" else 0.18215)
    keys = (
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "intermediate_size",
        "projection_dim",
        "hidden_act",
    )
    for name, values in TEXTS[family].items():
        assert tuple(found[name][key] for key in keys) == values
    assert (
        found["scheduler"]["_class_name"]
        == {
            "sd1": "PNDMScheduler",
            "sd2": "DDIMScheduler",
            "sdxl": "EulerDiscreteScheduler",
        }[family]
    )


def test_the_settings_are_a_folder_of_diffusers(models, tmp_path):
    shapes = {name: tuple(weight.shape) for name, weight in original(models["sdxl"], "sdxl").items()}
    write_config(tmp_path, shapes, "sdxl", "epsilon", zero_snr=False, model="x")
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert {name for name in index if not name.startswith("_")} == {
        *("unet", "vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "scheduler"),
        "force_zeros_for_empty_prompt",
    }
    shutil.rmtree(tmp_path / "tokenizer")


def test_settings_of_the_users(models, tmp_path):
    """For sizes that no published model has: a folder with the settings, here without any weights in it."""
    pipeline = build_pipeline()
    parts = {name: getattr(pipeline, name) for name in ("unet", "vae", "text_encoder")}
    save_file(original(parts, "sd1"), tmp_path / "own.safetensors")
    with pytest.raises(ModelError, match=r"width of \[16, 32\].*--set generator.config="):
        load(tmp_path / "own.safetensors")
    pipeline.save_pretrained(tmp_path / "settings")
    for file in (tmp_path / "settings").rglob("*.safetensors"):
        file.unlink()
    found = load(tmp_path / "own.safetensors", config=str(tmp_path / "settings"))
    same_weights(found, parts)
    draw = {"num_inference_steps": 2, "output_type": "np", "height": 32, "width": 32}
    images = [p("a red pen", generator=torch.Generator().manual_seed(1), **draw).images for p in (found, pipeline)]
    assert np.allclose(*images, atol=1e-4)


def test_settings_of_another_model(models, files, tmp_path):
    build_pipeline().save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"made for another model: \S+ is 128 × 32 where this one has 64 × 16"):
        load(files / "sd1.safetensors", config=str(tmp_path))


def test_settings_of_another_family(models, files, tmp_path):
    load(files / "sdxl.safetensors").save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"label_emb\S+ does not go with its settings"):
        load(files / "sd1.safetensors", config=str(tmp_path))
