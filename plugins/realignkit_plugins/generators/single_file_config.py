"""The settings that a single file of Stable Diffusion 1.x, 2.x or XL leaves out, read off its weights.

Sizes follow from shapes. What leaves no trace in the weights is what all published models of a family share: heads 64
wide (SD 1.x: eight of them), 32 groups, the noise schedule, the VAE's scaling factor.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from realignkit.errors import ModelError
from realignkit_plugins.generators import clip_bpe

UNET, VAE = "model.diffusion_model.", "first_stage_model."
CLIP, OPEN_CLIP = "cond_stage_model.transformer.text_model.", "cond_stage_model.model."
XL_CLIP, XL_OPEN_CLIP = "conditioner.embedders.0.transformer.text_model.", "conditioner.embedders.1.model."
READS_TEXT = "transformer_blocks.0.attn2.to_k.weight"
"""How the name of a U-Net's weight ends that reads the text."""
Family = Literal["sd1", "sd2", "sdxl"]
Prediction = Literal["epsilon", "v_prediction"]
Shapes = Mapping[str, tuple[int, ...]]
_HEAD_WIDTH, _GROUPS = 64, 32
_RESNET = "0.out_layers.3.weight"
_PIPELINES = {"sd1": "StableDiffusionPipeline", "sd2": "StableDiffusionPipeline", "sdxl": "StableDiffusionXLPipeline"}
_ZERO_SNR = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
_SCHEDULERS = {"sd1": "PNDMScheduler", "sd2": "DDIMScheduler", "sdxl": "EulerDiscreteScheduler"}


def write_config(
    folder: Path, shapes: Shapes, family: Family, prediction: Prediction, *, zero_snr: bool, model: str
) -> None:
    """Write the folder that diffusers reads beside the weights: settings of all parts, scheduler and tokenizers.

    Args:
        folder: an empty one.
        shapes: of the file's weights, by published name.
        family: see :func:`realignkit_plugins.generators.single_file.family_of`.
        prediction: what the U-Net predicts.
        zero_snr: whether the noise schedule ends in pure noise.
        model: the user's name of the file, for messages.

    Raises:
        ModelError: the networks are not built as those of the family.
    """
    try:
        parts = _parts(shapes, family, prediction)
        parts["scheduler"] |= _ZERO_SNR if zero_snr else {}
    except KeyError as error:
        raise incomplete(model, error.args) from error
    except (IndexError, ValueError) as error:
        raise unlike(model, f"{error} does not go with it") from error
    index: dict[str, Any] = {"_class_name": _PIPELINES[family], "_diffusers_version": "0.40.0"}
    texts = {"text_encoder": ("tokenizer", "!" if family == "sd2" else "<|endoftext|>")}
    if family == "sdxl":
        index["force_zeros_for_empty_prompt"] = True
        texts["text_encoder_2"] = ("tokenizer_2", "!")
    for name, config in parts.items():
        if "vocab_size" in config and config["vocab_size"] != clip_bpe.SIZE:
            raise unlike(model, f"its text encoder knows {config['vocab_size']} tokens, CLIP's tokenizer has 49408")
        library = "transformers" if name in texts else "diffusers"
        file = {"scheduler": "scheduler_config.json"}.get(name, "config.json")
        (folder / name).mkdir()
        (folder / name / file).write_text(json.dumps(config, indent=2), encoding="utf-8")
        index[name] = [library, config.get("_class_name") or config["architectures"][0]]
    for encoder, (tokenizer, pad) in texts.items():
        clip_bpe.write_tokenizer(folder / tokenizer, parts[encoder]["max_position_embeddings"], pad)
        index[tokenizer] = ["transformers", "CLIPTokenizer"]
    (folder / "model_index.json").write_text(json.dumps(index, indent=2), encoding="utf-8")


def incomplete(model: str, names: Sequence[str]) -> ModelError:
    """The error for a file that lacks weights which every model of its family has."""
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return ModelError(
        f"'{model}' is not complete: it holds no weights for {names[0]}{more}. Use a complete checkpoint, or download "
        f"it again."
    )


def unlike(model: str, why: str) -> ModelError:
    """The error for a file whose networks are not those of a published family."""
    return ModelError(
        f"'{model}' is not built as Stable Diffusion 1.x, 2.x or XL is: {why}. Set config to a folder or hub id with "
        f"the diffusers settings of this model (--set generator.config=…), or take the model as a diffusers folder."
    )


def _parts(shapes: Shapes, family: Family, prediction: Prediction) -> dict[str, dict[str, Any]]:
    side = 1024 if family == "sdxl" else 768 if prediction == "v_prediction" and family == "sd2" else 512
    parts = {
        "unet": _unet(_Within(shapes, UNET), side, shapes.get(f"{XL_OPEN_CLIP}text_projection")),
        "vae": _vae(_Within(shapes, VAE), side, xl=family == "sdxl"),
        "scheduler": _scheduler(family, prediction),
    }
    if family == "sd1":
        parts["text_encoder"] = _clip(_Within(shapes, CLIP))
    elif family == "sd2":
        parts["text_encoder"] = _open_clip(_Within(shapes, OPEN_CLIP), whole=False)
    else:
        parts["text_encoder"] = _clip(_Within(shapes, XL_CLIP))
        parts["text_encoder_2"] = _open_clip(_Within(shapes, XL_OPEN_CLIP), whole=True)
    return parts


class _Within(dict[str, tuple[int, ...]]):
    """The shapes of one network, without its prefix, which an error for a missing one has."""

    def __init__(self, shapes: Shapes, prefix: str) -> None:
        super().__init__({name.removeprefix(prefix): shapes[name] for name in shapes if name.startswith(prefix)})
        self.prefix = prefix

    def __missing__(self, name: str) -> tuple[int, ...]:
        raise KeyError(self.prefix + name)


def _count(shapes: Shapes, pattern: str) -> int:
    """How many numbers there are in the place of the pattern's group."""
    return len({match[1] for match in map(re.compile(pattern).match, shapes) if match})


def _unet(shapes: Shapes, side: int, pooled: tuple[int, ...] | None) -> dict[str, Any]:
    levels: list[list[tuple[int, int]]] = [[]]  # of each block at each level: its channels, its transformer's depth
    for i in range(1, _count(shapes, r"input_blocks\.(\d+)\.")):
        if f"input_blocks.{i}.0.op.weight" in shapes:
            levels.append([])
        else:
            depth = _count(shapes, rf"input_blocks\.{i}\.1\.transformer_blocks\.(\d+)\.")
            levels[-1].append((shapes[f"input_blocks.{i}.{_RESNET}"][0], depth))
    depths = [blocks[0][1] for blocks in levels]
    channels = [blocks[0][0] for blocks in levels]
    if any(width % _GROUPS for width in channels):
        raise ValueError(f"a width of {channels}")
    transformer = next(name for name in shapes if name.endswith(READS_TEXT))
    linear = len(shapes[transformer.partition("transformer_blocks")[0] + "proj_in.weight"]) == 2
    middle = _count(shapes, r"middle_block\.1\.transformer_blocks\.(\d+)\.")
    config: dict[str, Any] = {
        "_class_name": "UNet2DConditionModel",
        "sample_size": side // 8,
        "in_channels": shapes["input_blocks.0.0.weight"][1],
        "out_channels": shapes["out.2.weight"][0],
        "block_out_channels": channels,
        "layers_per_block": len(levels[0]),
        "cross_attention_dim": shapes[transformer][1],
        "use_linear_projection": linear,
        "attention_head_dim": [max(1, width // _HEAD_WIDTH) for width in channels] if linear else 8,
        "down_block_types": ["CrossAttnDownBlock2D" if depth else "DownBlock2D" for depth in depths],
        "up_block_types": ["CrossAttnUpBlock2D" if depth else "UpBlock2D" for depth in reversed(depths)],
        # The last one's is the middle's too; where a level has no transformer, the number means nothing.
        "transformer_layers_per_block": [*(depth or 1 for depth in depths[:-1]), depths[-1] or middle],
        "norm_num_groups": _GROUPS,
    }
    if pooled is not None:
        given = shapes["label_emb.0.0.weight"][1]
        config |= {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": (given - pooled[1]) // 6,  # two sizes and a corner
            "projection_class_embeddings_input_dim": given,
        }
    return config


def _vae(shapes: Shapes, side: int, *, xl: bool) -> dict[str, Any]:
    levels = _count(shapes, r"encoder\.down\.(\d+)\.")
    channels = [shapes[f"encoder.down.{i}.block.0.conv2.weight"][0] for i in range(levels)]
    if any(width % _GROUPS for width in channels):
        raise ValueError(f"a width of {channels} in the VAE")
    return {
        "_class_name": "AutoencoderKL",
        "sample_size": side,
        "in_channels": shapes["encoder.conv_in.weight"][1],
        "out_channels": shapes["decoder.conv_out.weight"][0],
        "latent_channels": shapes["decoder.conv_in.weight"][1],
        "block_out_channels": channels,
        "layers_per_block": _count(shapes, r"encoder\.down\.0\.block\.(\d+)\."),
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "norm_num_groups": _GROUPS,
        "scaling_factor": 0.13025 if xl else 0.18215,
        "force_upcast": xl,
    }


def _clip(shapes: Shapes) -> dict[str, Any]:
    vocabulary, width = shapes["embeddings.token_embedding.weight"]
    return _text_encoder(
        "CLIPTextModel",
        "quick_gelu",
        vocab_size=vocabulary,
        hidden_size=width,
        max_position_embeddings=shapes["embeddings.position_embedding.weight"][0],
        num_hidden_layers=_count(shapes, r"encoder\.layers\.(\d+)\."),
        intermediate_size=shapes["encoder.layers.0.mlp.fc1.weight"][0],
        projection_dim=width,
    )


def _open_clip(shapes: Shapes, *, whole: bool) -> dict[str, Any]:
    """OpenCLIP's text tower; SD 2.x reads its last layer but one, and does without the last."""
    vocabulary, width = shapes["token_embedding.weight"]
    layers = _count(shapes, r"transformer\.resblocks\.(\d+)\.")
    if not whole and layers != 23:  # files written back from diffusers have left out the 24th already
        layers -= 1
    return _text_encoder(
        "CLIPTextModelWithProjection" if whole else "CLIPTextModel",
        "gelu",
        vocab_size=vocabulary,
        hidden_size=width,
        max_position_embeddings=shapes["positional_embedding"][0],
        num_hidden_layers=layers,
        intermediate_size=shapes["transformer.resblocks.0.mlp.c_fc.weight"][0],
        projection_dim=shapes["text_projection"][1] if whole else width,
    )


def _text_encoder(name: str, activation: str, **sizes: int) -> dict[str, Any]:
    return {
        "architectures": [name],
        "model_type": "clip_text_model",
        "hidden_act": activation,
        "num_attention_heads": max(1, sizes["hidden_size"] // _HEAD_WIDTH),
        "bos_token_id": 0,  # as published: with an end token of 2, the text's feature is that of its highest token
        "eos_token_id": 2,
        "pad_token_id": 1,
        **sizes,
    }


def _scheduler(family: Family, prediction: Prediction) -> dict[str, Any]:
    return {
        "_class_name": _SCHEDULERS["sd1" if family == "sd2" and prediction == "epsilon" else family],
        "num_train_timesteps": 1000,
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "prediction_type": prediction,
        "steps_offset": 1,
        "set_alpha_to_one": False,
        "skip_prk_steps": True,
        "clip_sample": False,
        "timestep_spacing": "leading",
    }
