"""Adapters, merged: against W + scale * B A worked out by hand, in both formats."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from realignkit.errors import ModelError, OptionError
from realignkit_plugins.generators.stable_diffusion import StableDiffusionGenerator
from tests.attention.pixart import pixart_pipeline
from tests.tiny import build_pipeline

RANK = 2
TARGETS = ["to_q", "to_v"]
LAYER = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_q"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("pipeline")
    build_pipeline().save_pretrained(folder)
    return str(folder)


def adapted(network: Any, alpha: int) -> Any:
    """The network with random adapters, as training leaves it."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(3)
    out = get_peft_model(network, LoraConfig(r=RANK, lora_alpha=alpha, target_modules=TARGETS))
    with torch.no_grad():
        for name, parameter in out.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.3)
    return out


def delta(network: Any, layer: str, alpha: int) -> torch.Tensor:
    module = network.base_model.model.get_submodule(layer)
    return alpha / RANK * module.lora_B["default"].weight @ module.lora_A["default"].weight


@pytest.mark.parametrize("scale", [1.0, 0.5, 0.0])
def test_diffusers_format(folder: str, tmp_path: Path, scale: float):
    from diffusers import StableDiffusionPipeline
    from diffusers.models.attention_processor import AttnProcessor2_0
    from peft import get_peft_model_state_dict

    network = adapted(build_pipeline().unet, alpha=RANK)
    layers = {name.removeprefix("base_model.model."): w for name, w in get_peft_model_state_dict(network).items()}
    StableDiffusionPipeline.save_lora_weights(tmp_path, unet_lora_layers=layers)
    unet = StableDiffusionGenerator(model=folder, device="cpu", lora=str(tmp_path), lora_scale=scale).pipeline().unet
    base = build_pipeline().unet
    want = base.get_submodule(LAYER).weight + scale * delta(network, LAYER, RANK)
    torch.testing.assert_close(unet.get_submodule(LAYER).weight, want)
    assert (delta(network, LAYER, RANK).abs() > 0.01).any()
    # Merged: plain layers and processors, which can be modulated.
    assert type(unet.get_submodule(LAYER)) is torch.nn.Linear
    assert {type(processor) for processor in unet.attn_processors.values()} == {AttnProcessor2_0}
    if scale == 1.0:  # the file itself will do too
        file = StableDiffusionGenerator(model=folder, lora=str(tmp_path / "pytorch_lora_weights.safetensors"))
        assert torch.equal(file.pipeline().unet.get_submodule(LAYER).weight, unet.get_submodule(LAYER).weight)


def test_peft_format_on_a_transformer(tmp_path: Path):
    layer, alpha = "transformer_blocks.1.attn1.to_v", 6
    pixart_pipeline().save_pretrained(tmp_path / "base")
    network = adapted(pixart_pipeline().transformer, alpha)
    network.save_pretrained(tmp_path / "adapter")
    generator = StableDiffusionGenerator(model=str(tmp_path / "base"), lora=str(tmp_path / "adapter"), lora_scale=0.5)
    assert generator.attention_family == "pixart"
    pipeline = generator.pipeline()
    assert generator.attention_family == "pixart"
    want = pixart_pipeline().transformer.get_submodule(layer).weight + 0.5 * delta(network, layer, alpha)
    torch.testing.assert_close(pipeline.transformer.get_submodule(layer).weight, want)
    assert type(pipeline.transformer).__name__ == "PixArtTransformer2DModel"


def test_bad_adapters(folder: str, tmp_path: Path):
    with pytest.raises(ModelError, match="no folder"):
        StableDiffusionGenerator(model=folder, lora=str(tmp_path / "nowhere")).pipeline()
    with pytest.raises(ModelError, match="LoRA"):
        StableDiffusionGenerator(model=folder, lora=str(tmp_path)).pipeline()  # an empty folder
    unrelated = {
        "unet.nowhere.to_q.lora_A.weight": torch.ones(2, 4),
        "unet.nowhere.to_q.lora_B.weight": torch.ones(4, 2),
    }
    save_file(unrelated, tmp_path / "pytorch_lora_weights.safetensors")
    with pytest.raises(ModelError, match="LoRA"):
        StableDiffusionGenerator(model=folder, lora=str(tmp_path)).pipeline()
    torch.save(unrelated, tmp_path / "pytorch_lora_weights.bin")
    (tmp_path / "pytorch_lora_weights.safetensors").unlink()
    with pytest.raises(ModelError, match="LoRA"):  # pickles are refused
        StableDiffusionGenerator(model=folder, lora=str(tmp_path)).pipeline()
    with pytest.raises(OptionError, match="lora_scale"):
        StableDiffusionGenerator(lora_scale=float("nan"))
