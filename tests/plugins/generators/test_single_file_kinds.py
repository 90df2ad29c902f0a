"""What one file is, by the names and shapes of its weights: a whole model, or what else, by name."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from realignkit.errors import ModelError
from realignkit_plugins.generators.single_file_config import CLIP, VAE
from tests.plugins.generators.original import UNET, load, original

pytestmark = pytest.mark.usefixtures("no_network")

FIRST = {f"{UNET}input_blocks.0.0.weight": (32, 4, 3, 3)}
XL = {**FIRST, f"{UNET}label_emb.0.0.weight": (8, 8)}
KINDS = {
    "kohya": ({"lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight": (4, 8)}, "generator.lora="),
    "peft": ({"unet.down_blocks.0.attentions.0.proj_in.lora_A.weight": (4, 8)}, "is adapters"),
    "lokr": ({"lycoris_unet_mid_block.lokr_w1": (4, 8)}, "is adapters"),
    "controlnet": ({"control_model.time_embed.0.weight": (8, 8)}, "is a ControlNet"),
    "controlnet of diffusers": ({"controlnet_cond_embedding.conv_in.weight": (8, 3, 3, 3)}, "is a ControlNet"),
    "vae": ({"encoder.conv_in.weight": (8, 3, 3, 3), "decoder.conv_in.weight": (8, 4, 3, 3)}, "is a VAE alone"),
    "vae of a checkpoint": ({"first_stage_model.encoder.conv_in.weight": (8, 3, 3, 3)}, "is a VAE alone"),
    "embedding": ({"emb_params": (4, 768)}, "is an embedding"),
    "embedding of XL": ({"clip_l": (4, 768), "clip_g": (4, 1280)}, "is an embedding"),
    "embedding of diffusers": ({"<cat-toy>": (768,)}, "its keys begin with '<cat-toy>'"),
    "control-lora": (
        {"lora_controlnet": (0,), "input_blocks.0.0.weight": (8, 4, 3, 3), "input_blocks.1.0.emb_layers.1.up": (8, 4)},
        "is a ControlNet",
    ),
    "control-lora of peft": (
        {"base_model.model.controlnet_down_blocks.0.weight": (8, 8), "base_model.model.conv_in.lora_A.weight": (4, 8)},
        "is a ControlNet",
    ),
    "moving average": (
        {"model_ema.diffusion_modelinput_blocks00weight": (8, 4, 3, 3), "first_stage_model.encoder.conv_in.bias": (8,)},
        "moving average of a U-Net",
    ),
    "moving average alone": ({"model_ema.decay": (1,), "model_ema.diffusion_modelout2bias": (4,)}, "moving average"),
    "two small tensors": ({"a.weight": (4, 4), "b.bias": (4,)}, "its keys begin with 'a', 'b'"),
    "text encoders of sd3": ({"clip_l.transformer.text_model.a": (8,), "clip_g.transformer.b": (8,)}, "keys begin"),
    "clip with pictures": (
        {"text_model.encoder.layers.0.mlp.fc1.weight": (8, 8), "vision_model.post_layernorm.bias": (8,)},
        "its keys begin with 'text_model', 'vision_model'",
    ),
    "sound": ({"encoder.layers.0.conv.weight": (8, 1, 3), "decoder.layers.0.conv.weight": (8, 1, 3)}, "keys begin"),
    "t5 with its decoder": (
        {"encoder.block.0.layer.0.weight": (8, 8), "decoder.block.0.layer.0.weight": (8, 8)},
        "its keys begin with 'decoder', 'encoder'",
    ),
    "sam 2": ({"image_encoder.trunk.pos_embed": (1, 8), "sam_mask_decoder.iou_token.weight": (1, 8)}, "keys begin"),
    "video model": (
        {f"{UNET}blocks.{i}.self_attn.q.weight": (8, 8) for i in range(6)} | {f"{UNET}head.head.weight": (8, 8)},
        "its keys begin with 'model.diffusion_model.blocks', 'model.diffusion_model.head'",
    ),
    "five beginnings": ({f"{part}.0.weight": (8, 8) for part in "abcde"}, "'d' …"),
    "flux": ({"double_blocks.0.img_attn.qkv.weight": (8, 8)}, "is a FLUX model"),
    "flux of comfy": ({f"{UNET}double_blocks.0.img_attn.qkv.weight": (8, 8)}, "is a FLUX model"),
    "sd3": ({f"{UNET}joint_blocks.0.context_block.attn.qkv.weight": (8, 8)}, "is a Stable Diffusion 3 model"),
    "qwen_image": ({f"{UNET}transformer_blocks.0.txt_mod.1.weight": (8, 8)}, "is a Qwen-Image model"),
    "z_image": ({f"{UNET}noise_refiner.0.attention.qkv.weight": (8, 8)}, "is a Z-Image or Lumina model"),
    "unet of diffusers": ({"down_blocks.0.resnets.0.conv1.weight": (8, 8, 3, 3)}, "has model_index.json"),
    "unet": ({"input_blocks.0.0.weight": (8, 4, 3, 3)}, "is a U-Net alone"),
    "text encoder": ({"text_model.encoder.layers.0.mlp.fc1.weight": (8, 8)}, "is a text encoder alone"),
    "language model": ({"model.layers.0.mlp.up_proj.weight": (8, 8)}, "is a language model"),
    "motion": ({"down_blocks.0.motion_modules.0.proj_in.weight": (8, 8)}, "AnimateDiff"),
    "ip-adapter": ({"image_proj.proj.weight": (8, 8), "ip_adapter.1.to_k_ip.weight": (8, 8)}, "is an IP-Adapter"),
    "sam": ({"image_encoder.pos_embed": (1, 8, 8, 8), "mask_decoder.iou_token.weight": (1, 8)}, "segmenter.sam"),
    "upscaler": (
        {"conv_first.weight": (64, 3, 3, 3), "body.0.weight": (1, 1, 1, 1)},
        "keys begin with 'body'",
    ),
    "inpainting": ({f"{UNET}input_blocks.0.0.weight": (32, 9, 3, 3)}, "inpaints"),
    "pix2pix": ({f"{UNET}input_blocks.0.0.weight": (32, 8, 3, 3)}, "edits images"),
    "depth": ({f"{UNET}input_blocks.0.0.weight": (32, 5, 3, 3)}, "depth map"),
    "playground": ({**XL, "edm_mean": (4,)}, "is Playground 2.5"),
    "refiner": ({**XL, "conditioner.embedders.0.model.ln_final.bias": (8,)}, "is the refiner"),
    "unet of a checkpoint": (FIRST, "holds a U-Net without text encoder and VAE"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_whole_model_is_named(kind, tmp_path):
    shapes, told = KINDS[kind]
    path = tmp_path / "model.safetensors"
    save_file({name: torch.zeros(shape) for name, shape in shapes.items()}, path)
    with pytest.raises(ModelError, match=told) as caught:
        load(path)
    text = str(caught.value)
    assert text.startswith(f"'{path}' ")
    assert "\n" not in text
    assert "damaged" not in text
    assert "{" not in text


@pytest.mark.parametrize(
    ("gone", "told"),
    [
        (f"{UNET}middle_block.1.proj_out.weight", r"no weights for unet\.mid_block\.attentions\.0\.proj_out"),
        (f"{VAE}decoder.mid.attn_1.q.weight", r"no weights for vae\.decoder\.mid_block\.attentions\.0\.to_q"),
        (f"{CLIP}final_layer_norm.bias", r"no weights for text_encoder\.final_layer_norm\.bias\."),
        (f"{CLIP}final_layer_norm.", r"no weights for text_encoder\.final_layer_norm\.\w+ and 1 more"),
        (f"{UNET}input_blocks.1.", r"no weights for model\.diffusion_model\.input_blocks\.1\."),
        (f"{VAE}encoder.", r"no weights for first_stage_model\.encoder\.conv_in\.weight"),
        (f"{VAE}decoder.", r"no weights for first_stage_model\.decoder\.conv_out\.weight"),
        ("first_stage_model.", "holds a U-Net without VAE"),
        ("cond_stage_model.", "holds a U-Net without text encoder"),
    ],
)
def test_a_file_that_lacks_something(gone, told, models, tmp_path):
    weights = {name: w for name, w in original(models["sd1"], "sd1").items() if not name.startswith(gone)}
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match=told) as caught:
        load(tmp_path / "model.safetensors")
    assert "\n" not in str(caught.value)
    assert "config" not in str(caught.value)


def test_a_network_that_reads_no_text(models, tmp_path):
    weights = {name: w for name, w in original(models["sd1"], "sd1").items() if ".attn2." not in name}
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match="holds a U-Net that reads no text"):
        load(tmp_path / "model.safetensors")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("control_model.input_blocks.0.0.weight", "holds a ControlNet beside the model"),
        ("lora_unet_x.lora_down.weight", r"holds adapters \(LoRA or the like\) beside the model"),
        ("ip_adapter.1.to_k_ip.weight", "holds an IP-Adapter beside the model"),
    ],
)
def test_what_would_be_left_out_is_told(name, told, models, tmp_path):
    save_file(original(models["sd1"], "sd1") | {name: torch.zeros(2, 2)}, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match=told) as caught:
        load(tmp_path / "model.safetensors")
    assert name in str(caught.value)


def test_weights_without_a_place(models, tmp_path):
    weights = original(models["sd1"], "sd1") | {"model.diffusion_model.extra.0.weight": torch.zeros(2)}
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(
        ModelError, match=r"no place for: model\.diffusion_model\.extra\.0\.weight\. Use a complete"
    ) as caught:
        load(tmp_path / "model.safetensors")
    assert "config" not in str(caught.value)
    del weights["model.diffusion_model.out.2.bias"]
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match=r"extra\.0\.weight, and lacks unet\.conv_out\.bias\. Set config"):
        load(tmp_path / "model.safetensors")


@pytest.mark.parametrize("shape", [(4,), (32, 32)])
@pytest.mark.parametrize("name", ["input_blocks.0.0.weight", "input_blocks.1.0.out_layers.3.weight", "out.2.weight"])
def test_a_weight_of_an_odd_shape(name, shape, models, tmp_path):
    weights = original(models["sd1"], "sd1") | {f"{UNET}{name}": torch.zeros(shape)}
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(ModelError) as caught:
        load(tmp_path / "model.safetensors")
    assert "Error" not in str(caught.value)
    assert "damaged" not in str(caught.value)
