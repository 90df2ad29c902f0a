"""Small random Stable Diffusion models, and any model's weights under the names of the original code: one flat file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from realignkit_plugins.generators import clip_bpe
from realignkit_plugins.generators.stable_diffusion import StableDiffusionGenerator

FAMILIES = ("sd1", "sd2", "sdxl")
TEXTS: dict[str, dict[str, tuple[Any, ...]]] = {  # hidden, layers, heads, intermediate, projection, activation
    "sd1": {"text_encoder": (768, 12, 12, 3072, 768, "quick_gelu")},
    "sd2": {"text_encoder": (1024, 23, 16, 4096, 1024, "gelu")},
    "sdxl": {
        "text_encoder": (768, 12, 12, 3072, 768, "quick_gelu"),
        "text_encoder_2": (1280, 32, 20, 5120, 1280, "gelu"),
    },
}
UNET = "model.diffusion_model."
_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_UNET = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
_OPEN_CLIP = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"}


def unet(state: dict[str, Tensor], layers: int) -> dict[str, Tensor]:
    """A ``UNet2DConditionModel``'s weights; ``layers`` is its ``layers_per_block``."""
    found = {}
    with_attention = {name.split(".")[1] for name in state if name.startswith("up_blocks") and ".attentions." in name}
    for name, weight in state.items():
        part, _, rest = name.partition(".")
        leaf, kind = name.rpartition(".")[::2]
        if leaf in _UNET:
            new = f"{_UNET[leaf]}.{kind}"
        elif part == "mid_block":
            what, number, rest = rest.split(".", 2)
            new = f"middle_block.{2 * int(number) if what == 'resnets' else 1}.{_inner(what, rest)}"
        else:
            block, what, number, rest = rest.split(".", 3)
            i, j = int(block), int(number)
            if what == "downsamplers":
                new = f"input_blocks.{(i + 1) * (layers + 1)}.0.op.{kind}"
            elif what == "upsamplers":
                new = f"output_blocks.{i * (layers + 1) + layers}.{2 if block in with_attention else 1}.conv.{kind}"
            else:
                at = 1 + i * (layers + 1) + j if part == "down_blocks" else i * (layers + 1) + j
                side = "input_blocks" if part == "down_blocks" else "output_blocks"
                new = f"{side}.{at}.{0 if what == 'resnets' else 1}.{_inner(what, rest)}"
        found[f"model.diffusion_model.{new}"] = weight
    return found


def _inner(what: str, rest: str) -> str:
    if what == "attentions":
        return rest
    leaf, kind = rest.rsplit(".", 1)
    return f"{_RESNET[leaf]}.{kind}"


def vae(state: dict[str, Tensor], levels: int) -> dict[str, Tensor]:
    """An ``AutoencoderKL``'s weights; its attention is made of convolutions over single pixels."""
    found = {}
    for name, weight in state.items():
        new = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
        for i in range(levels):
            new = new.replace(f"encoder.down_blocks.{i}.", f"encoder.down.{i}.")
            new = new.replace(f"decoder.up_blocks.{i}.", f"decoder.up.{levels - 1 - i}.")
        new = new.replace("mid_block.resnets.0", "mid.block_1").replace("mid_block.resnets.1", "mid.block_2")
        new = new.replace(".resnets.", ".block.")
        new = new.replace("downsamplers.0", "downsample").replace("upsamplers.0", "upsample")
        if "mid_block.attentions.0." in new:
            before, _, rest = new.partition("mid_block.attentions.0.")
            leaf, kind = rest.rsplit(".", 1)
            new = f"{before}mid.attn_1.{_VAE_ATTENTION[leaf]}.{kind}"
            weight = weight[:, :, None, None] if weight.ndim == 2 else weight
        found[f"first_stage_model.{new}"] = weight
    return found


def clip(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """A ``CLIPTextModel``'s weights, with the table of positions that older versions of transformers wrote."""
    found = {f"{prefix}transformer.text_model.{name.removeprefix('text_model.')}": w for name, w in state.items()}
    positions = len(found[f"{prefix}transformer.text_model.embeddings.position_embedding.weight"])
    found[f"{prefix}transformer.text_model.embeddings.position_ids"] = torch.arange(positions)[None]
    return found


def open_clip(state: dict[str, Tensor], prefix: str, extra_layers: int = 0) -> dict[str, Tensor]:
    """A text model's weights as OpenCLIP has them; layers that are not read come last."""
    state = {name.removeprefix("text_model."): weight for name, weight in state.items()}
    found = {
        "token_embedding.weight": state["embeddings.token_embedding.weight"],
        "positional_embedding": state["embeddings.position_embedding.weight"],
        "ln_final.weight": state["final_layer_norm.weight"],
        "ln_final.bias": state["final_layer_norm.bias"],
        "logit_scale": torch.tensor(4.6),
    }
    width = state["final_layer_norm.bias"].shape[0]
    found["text_projection"] = (
        state["text_projection.weight"].T if "text_projection.weight" in state else torch.eye(width)
    )
    layers = len({name.split(".")[2] for name in state if name.startswith("encoder.layers.")})
    for i in range(layers):
        old, new = f"encoder.layers.{i}.", f"transformer.resblocks.{i}."
        for kind in ("weight", "bias"):
            parts = [state[f"{old}self_attn.{part}_proj.{kind}"] for part in "qkv"]
            found[f"{new}attn.in_proj_{kind}"] = torch.cat(parts)
            found[f"{new}attn.out_proj.{kind}"] = state[f"{old}self_attn.out_proj.{kind}"]
            for ours, theirs in _OPEN_CLIP.items():
                found[f"{new}{theirs}.{kind}"] = state[f"{old}{ours}.{kind}"]
    for i in range(layers, layers + extra_layers):
        last = f"transformer.resblocks.{layers - 1}."
        found |= {
            name.replace(last, f"transformer.resblocks.{i}."): w for name, w in list(found.items()) if last in name
        }
    return {f"{prefix}model.{name}": weight for name, weight in found.items()}


def networks(family: str, full_size: bool = False) -> dict[str, Any]:
    """The family's networks by component: with the published sizes, or small ones; random weights.

    Of full size they hold no weights (build them on the meta device).
    """
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    xl, linear = family == "sdxl", family != "sd1"
    channels = {"sd1": [320, 640, 1280, 1280], "sd2": [320, 640, 1280, 1280], "sdxl": [320, 640, 1280]}[family]
    channels = channels if full_size else [64 if linear else 32] * (len(channels) - 1) + [128 if linear else 64]
    first, second = {"sd1": (768, 0), "sd2": (1024, 0), "sdxl": (768, 1280)}[family] if full_size else (64, 128 * xl)
    text = {"vocab_size": clip_bpe.SIZE, "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}

    def encoder(cls: Any, width: int, layers: int, act: str) -> Any:
        sizes = {"hidden_size": width, "intermediate_size": 4 * width, "num_hidden_layers": layers}
        config = CLIPTextConfig(
            **text,
            **sizes,
            num_attention_heads=width // 64,
            hidden_act=act,
            projection_dim=width,
            max_position_embeddings=77,
        )
        return cls(config).eval()

    depth = [1, 2, 10 if full_size else 2] if xl else 1
    cross = ["DownBlock2D", *["CrossAttnDownBlock2D"] * 2] if xl else [*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"]
    more: dict[str, Any] = {}
    if xl:
        more = {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256 if full_size else 32,
            "projection_class_embeddings_input_dim": 2816 if full_size else second + 6 * 32,
        }
    found = {
        "unet": UNet2DConditionModel(
            sample_size=128 if xl else 64,
            block_out_channels=channels,
            layers_per_block=2 if full_size else 1,
            cross_attention_dim=first + second,
            attention_head_dim=[width // 64 for width in channels] if linear else 8,
            use_linear_projection=linear,
            down_block_types=cross,
            up_block_types=[name.replace("Down", "Up") for name in reversed(cross)],
            transformer_layers_per_block=depth,
            **more,
        ).eval(),
        "vae": AutoencoderKL(
            block_out_channels=[128, 256, 512, 512] if full_size else [32, 32, 32, 64],
            down_block_types=["DownEncoderBlock2D"] * 4,
            up_block_types=["UpDecoderBlock2D"] * 4,
            layers_per_block=2 if full_size else 1,
            scaling_factor=0.13025 if xl else 0.18215,
            force_upcast=xl,
        ).eval(),
    }
    layers = {"sd1": 12, "sd2": 23, "sdxl": 12} if full_size else dict.fromkeys(FAMILIES, 2)
    found["text_encoder"] = encoder(CLIPTextModel, first, layers[family], "gelu" if family == "sd2" else "quick_gelu")
    if xl:
        found["text_encoder_2"] = encoder(CLIPTextModelWithProjection, second, 32 if full_size else 2, "gelu")
    return found


def original(parts: dict[str, Any], family: str) -> dict[str, Tensor]:
    """All weights of a model under the original names, each on its own."""
    found = unet(parts["unet"].state_dict(), parts["unet"].config.layers_per_block)
    found |= vae(parts["vae"].state_dict(), len(parts["vae"].config.block_out_channels))
    texts = parts["text_encoder"].state_dict()
    if family == "sd1":
        found |= clip(texts, "cond_stage_model.")
    elif family == "sd2":
        found |= open_clip(texts, "cond_stage_model.", extra_layers=1)
    else:
        found |= clip(texts, "conditioner.embedders.0.")
        found |= open_clip(parts["text_encoder_2"].state_dict(), "conditioner.embedders.1.")
    found |= {"alphas_cumprod": torch.linspace(1, 0, 1000), "betas": torch.linspace(0, 1, 1000)}
    return {name: weight.detach().clone().contiguous() for name, weight in found.items()}


def write_quick_model(path: Any) -> None:
    """A file of Stable Diffusion 1.x that draws its 128 pixels quickly: its attention sees 256 places."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from safetensors.torch import save_file

    with torch.random.fork_rng():
        torch.manual_seed(0)
        parts = {"text_encoder": networks("sd1")["text_encoder"]}
        parts["unet"] = UNet2DConditionModel(
            block_out_channels=[32, 32, 64],
            layers_per_block=1,
            cross_attention_dim=64,
            down_block_types=["DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"],
            up_block_types=["CrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D"],
        )
        parts["vae"] = AutoencoderKL(
            block_out_channels=[32, 32],
            down_block_types=["DownEncoderBlock2D"] * 2,
            up_block_types=["UpDecoderBlock2D"] * 2,
        )
    save_file(original(parts, "sd1"), path)


def load(path: Path, **options: Any) -> Any:
    return StableDiffusionGenerator(model=str(path), device="cpu", **options).pipeline()


def same_weights(pipeline, parts):
    for name, wanted in parts.items():
        found = getattr(pipeline, name).state_dict()
        assert found.keys() == wanted.state_dict().keys()
        assert all(torch.equal(found[key], weight) for key, weight in wanted.state_dict().items()), name
