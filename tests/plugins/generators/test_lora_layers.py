"""Which layer a key means: names of published adapters, and pipelines with two text encoders."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import PixArtTransformer2DModel, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, T5Config, T5EncoderModel

from realignkit.errors import ModelError
from realignkit_plugins.generators.lora_layers import Layer, Layers
from tests.attention.pixart import small_transformer

# As published adapters for SDXL spell them, and diffusers.
SDXL = {
    "input_blocks_1_0_in_layers_2": "down_blocks.0.resnets.0.conv1",
    "input_blocks_2_0_emb_layers_1": "down_blocks.0.resnets.1.time_emb_proj",
    "input_blocks_3_0_op": "down_blocks.0.downsamplers.0.conv",
    "input_blocks_4_0_skip_connection": "down_blocks.1.resnets.0.conv_shortcut",
    "input_blocks_4_1_transformer_blocks_0_attn1_to_q": "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q",
    "input_blocks_8_1_proj_in": "down_blocks.2.attentions.1.proj_in",
    "middle_block_0_out_layers_3": "mid_block.resnets.0.conv2",
    "middle_block_1_transformer_blocks_1_ff_net_0_proj": "mid_block.attentions.0.transformer_blocks.1.ff.net.0.proj",
    "middle_block_2_in_layers_2": "mid_block.resnets.1.conv1",
    "output_blocks_0_1_transformer_blocks_0_ff_net_2": "up_blocks.0.attentions.0.transformer_blocks.0.ff.net.2",
    "output_blocks_2_2_conv": "up_blocks.0.upsamplers.0.conv",
    "output_blocks_5_1_proj_out": "up_blocks.1.attentions.2.proj_out",
    "output_blocks_8_0_in_layers_2": "up_blocks.2.resnets.2.conv1",
    "time_embed_2": "time_embedding.linear_2",
    "label_emb_0_0": "add_embedding.linear_1",
    "out_2": "conv_out",
}
TEXT = "encoder.layers.0.mlp.fc1"


@pytest.fixture(scope="module")
def sdxl() -> Any:
    """SDXL's blocks, narrow."""
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(4, 8, 8),
        layers_per_block=2,
        norm_num_groups=2,
        cross_attention_dim=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=2,
        transformer_layers_per_block=(1, 1, 2),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=28,
    )
    words = CLIPTextConfig(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2, vocab_size=9)
    return SimpleNamespace(
        unet=unet, text_encoder=CLIPTextModel(words), text_encoder_2=CLIPTextModelWithProjection(words), vae=None
    )


@pytest.mark.parametrize("spelt", SDXL)
def test_original_names(sdxl: Any, spelt: str):
    layers = Layers(sdxl)
    want = Layer("unet", SDXL[spelt])
    assert layers.module(want).weight is not None
    assert layers.find(f"lora_unet_{spelt}") == (want, "unet")
    assert layers.find(f"lora_unet_{SDXL[spelt].replace('.', '_')}") == (want, "unet")
    assert layers.find(f"diffusion_model.{spelt}")[0] == want
    assert layers.find(f"unet.{SDXL[spelt]}")[0] == want


def test_every_layer_is_found_by_its_own_name(sdxl: Any):
    layers = Layers(sdxl)
    for component, network in layers.networks.items():
        for name, module in network.named_modules():
            if isinstance(module, torch.nn.Linear | torch.nn.Conv2d):
                layer, _ = layers.find(f"{component}.{name}")
                assert layer == Layer(component, name)


def test_two_text_encoders(sdxl: Any):
    layers = Layers(sdxl)
    for prefix, component in (("lora_te1_", "text_encoder"), ("lora_te2_", "text_encoder_2")):
        layer, _ = layers.find(f"{prefix}text_model_{TEXT.replace('.', '_')}")
        assert layer is not None
        assert layer.component == component
        assert layers.module(layer) is layers.networks[component].get_submodule(layer.name)
        assert layers.find(f"{component}.text_model.{TEXT}")[0] == layer
        assert layers.find(f"base_model.model.text_model.{TEXT}", folder=component)[0] == layer
    with pytest.raises(ModelError, match="of text_encoder or of text_encoder_2"):
        layers.find(f"base_model.model.text_model.{TEXT}")


def test_a_transformer_and_t5():
    config = T5Config(vocab_size=9, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    network = small_transformer()
    assert isinstance(network, PixArtTransformer2DModel)
    layers = Layers(SimpleNamespace(transformer=network, text_encoder=T5EncoderModel(config)))
    want = Layer("transformer", "transformer_blocks.1.attn2.to_k")
    for key in ("transformer.", "base_model.model.", "base_model.model.transformer.", "", "model.diffusion_model."):
        assert layers.find(key + want.name) == (want, "transformer")
    for key in ("lora_unet_", "lora_transformer_"):  # kohya's tools call every denoising network a U-Net
        assert layers.find(key + want.name.replace(".", "_"))[0] == want
    text = Layer("text_encoder", "encoder.block.0.layer.0.SelfAttention.q")
    assert layers.find(f"lora_te_{text.name.replace('.', '_')}")[0] == text
    assert layers.find(f"unet.{want.name}") == (None, "unet")
    assert layers.find("text_encoder_2.x") == (None, "text_encoder_2")
    assert layers.find("no.such.layer") == (None, "")
