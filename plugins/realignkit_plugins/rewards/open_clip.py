"""Checkpoints in open_clip's layout, read into transformers' ``CLIPModel`` without the open_clip package.

open_clip imports torchvision, which realignkit does without, and its plain CLIP is ``CLIPModel`` under other names. A
checkpoint is ``open_clip_config.json`` (``model_cfg`` and ``preprocess_cfg``) beside ``open_clip_model.safetensors`` or
``open_clip_pytorch_model.bin``, in a folder or on the hub. Towers from timm or with a text encoder of transformers, and
CoCa, have no counterpart here and are refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from realignkit.errors import ModelError
from realignkit_plugins.rewards.preprocess import CLIP_MEAN, CLIP_STD, Preprocessing
from realignkit_plugins.weight_files import read_weights

if TYPE_CHECKING:
    from transformers import CLIPConfig, CLIPModel

CONFIG = "open_clip_config.json"
WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")

_TOP = {
    "logit_scale": "logit_scale",
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.ln_pre": "vision_model.pre_layrnorm",  # transformers' own spelling
    "visual.ln_post": "vision_model.post_layernorm",
    "token_embedding": "text_model.embeddings.token_embedding",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final": "text_model.final_layer_norm",
}
_PROJECTIONS = {"visual.proj": "visual_projection.weight", "text_projection": "text_projection.weight"}
_IN_BLOCK = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
_BLOCK = re.compile(r"(visual\.)?transformer\.resblocks\.(\d+)\.(.+)")
_TEXT_NAMES = ("token_embedding", "positional_embedding", "transformer.", "ln_final", "text_projection")

# What a tower may say and still be CLIPModel's; dropping patches is for training alone.
_VISION_SIZES = frozenset({"image_size", "patch_size", "layers", "width", "head_width", "mlp_ratio", "patch_dropout"})
_TEXT_SIZES = frozenset({"context_length", "vocab_size", "layers", "width", "heads", "mlp_ratio", "hf_tokenizer_name"})
_PLAIN = {"pool_type": ("tok", "argmax"), "pos_embed_type": ("learnable",), "proj_type": ("linear",)}


def find(model: str, name: str, revision: str | None) -> Path | None:
    """A file of a folder or of a hub repository; None where it has none of that name."""
    from transformers.utils.hub import cached_file

    path = cached_file(model, name, revision=revision, _raise_exceptions_for_missing_entries=False)
    return None if path is None else Path(path)


def is_open_clip(model: str, revision: str | None) -> bool:
    """Whether a checkpoint is in open_clip's layout and not in transformers' as well (many have both)."""
    config = find(model, "config.json", revision)
    if config is not None and "model_type" in json.loads(config.read_text(encoding="utf-8")):
        return False
    return find(model, CONFIG, revision) is not None


def load(
    model: str, revision: str | None, eos_token_id: int, dtype: torch.dtype = torch.float32
) -> tuple[CLIPModel, Preprocessing]:
    """A checkpoint in open_clip's layout.

    Args:
        model: a folder or a hub id.
        revision: branch, tag or commit on the hub.
        eos_token_id: of the tokenizer; the text's feature is taken there.
        dtype: of the network.

    Returns:
        The network, in evaluation mode, and what it does to images.

    Raises:
        ModelError: it is damaged, or of an architecture that ``CLIPModel`` is not.
    """
    from transformers import AutoModel

    path = find(model, CONFIG, revision)
    if path is None:
        raise ModelError(f"there is no {CONFIG} in '{model}'. Give a checkpoint in open_clip's layout.")
    said = json.loads(path.read_text(encoding="utf-8"))
    known = said.get("model_cfg", {})
    network = AutoModel.from_config(clip_config(known, eos_token_id), dtype=dtype)
    weights = next((file for name in WEIGHTS if (file := find(model, name, revision)) is not None), None)
    if weights is None:
        raise ModelError(f"there are no weights in '{model}'. It should hold one of {', '.join(WEIGHTS)}.")
    load_strictly(network, convert(read_weights(weights, model)), model)
    return network.eval(), preprocessing(said.get("preprocess_cfg", {}), known["vision_cfg"]["image_size"])


def clip_config(known: Mapping[str, Any], eos_token_id: int) -> CLIPConfig:
    """open_clip's ``model_cfg`` as ``CLIPModel``'s configuration.

    Raises:
        ModelError: the architecture has no counterpart.
    """
    from transformers import CLIPConfig

    vision, text = dict(known.get("vision_cfg", {})), dict(known.get("text_cfg", {}))
    _refuse_others("vision", vision, _VISION_SIZES)
    _refuse_others("text", text, _TEXT_SIZES)
    _refuse_others("model", known, {"embed_dim", "vision_cfg", "text_cfg", "quick_gelu", "custom_text"})
    if not isinstance(vision.get("image_size", 224), int):
        raise ModelError("this open_clip model takes images that are not square. Use another checkpoint.")
    width = int(vision.get("width", 768))
    shared = {"hidden_act": "quick_gelu" if known.get("quick_gelu") else "gelu", "projection_dim": known["embed_dim"]}
    return CLIPConfig(
        projection_dim=known["embed_dim"],
        vision_config={
            **shared,
            "image_size": vision.get("image_size", 224),
            "patch_size": vision.get("patch_size", 16),
            "hidden_size": width,
            "num_hidden_layers": vision.get("layers", 12),
            "num_attention_heads": width // int(vision.get("head_width", 64)),
            "intermediate_size": int(width * vision.get("mlp_ratio", 4.0)),
        },
        text_config={
            **shared,
            "vocab_size": text.get("vocab_size", 49408),
            "max_position_embeddings": text.get("context_length", 77),
            "hidden_size": text.get("width", 512),
            "num_hidden_layers": text.get("layers", 12),
            "num_attention_heads": text.get("heads", 8),
            "intermediate_size": int(text.get("width", 512) * text.get("mlp_ratio", 4.0)),
            "eos_token_id": eos_token_id,
            "pad_token_id": eos_token_id,
        },
    )


def _refuse_others(where: str, said: Mapping[str, Any], known: frozenset[str] | set[str]) -> None:
    for name, value in said.items():
        if name not in known and value and value not in _PLAIN.get(name, ()):
            raise ModelError(
                f"this open_clip checkpoint has {name}={value!r} in its {where} configuration, which transformers' "
                f"CLIPModel has not. Use a plain CLIP of open_clip, or a checkpoint in transformers' layout."
            )


def convert(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """open_clip's weights under ``CLIPModel``'s names; unknown ones keep theirs, so that strict loading names them."""
    converted: dict[str, Tensor] = {}
    for name, value in state.items():
        # CustomTextCLIP keeps the text tower in a module of its own.
        plain = name.removeprefix("text.") if name.startswith(tuple(f"text.{n}" for n in _TEXT_NAMES)) else name
        if plain in _PROJECTIONS:
            converted[_PROJECTIONS[plain]] = value.T
        elif block := _BLOCK.fullmatch(plain):
            tower = "vision_model" if block[1] else "text_model"
            converted |= _in_block(f"{tower}.encoder.layers.{block[2]}", block[3], value)
        elif plain != "attn_mask":  # a buffer of old checkpoints
            converted[_renamed(plain, _TOP)] = value
    return converted


def _in_block(prefix: str, name: str, value: Tensor) -> dict[str, Tensor]:
    if name in ("attn.in_proj_weight", "attn.in_proj_bias"):
        kind = name.rpartition("_")[2]
        parts = zip("qkv", value.chunk(3), strict=True)
        return {f"{prefix}.self_attn.{letter}_proj.{kind}": part for letter, part in parts}
    return {f"{prefix}.{_renamed(name, _IN_BLOCK)}": value}


def _renamed(name: str, table: Mapping[str, str]) -> str:
    stem, _, kind = name.rpartition(".")
    return table.get(name) or (f"{table[stem]}.{kind}" if stem in table else name)


def load_strictly(network: Any, state: Mapping[str, Tensor], model: str) -> None:
    """Load converted weights.

    Raises:
        ModelError: names or shapes are not the network's.
    """
    wanted = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    given = {name: tuple(value.shape) for name, value in state.items()}
    # Positions are no weights: transformers counts them itself.
    off = sorted(name for name in wanted.keys() | given.keys() if wanted.get(name) != given.get(name))
    off = [name for name in off if not name.endswith("position_ids")]
    if off:
        some = ", ".join(f"{name} {given.get(name, 'missing')}" for name in off[:3])
        raise ModelError(
            f"the weights of '{model}' do not fit its {CONFIG} ({len(off)} differ: {some}). Download it again, or give "
            f"a plain CLIP of open_clip."
        )
    with torch.no_grad():
        network.load_state_dict(state, strict=False)  # each tensor cast as it is copied


def preprocessing(said: Mapping[str, Any], image_size: int) -> Preprocessing:
    """open_clip's ``preprocess_cfg``: by default the shorter side to the network's size, bicubic, and a centre crop.

    Raises:
        ModelError: it pads images, or interpolates in another way.
    """
    mode, filter_ = said.get("resize_mode", "shortest"), said.get("interpolation", "bicubic")
    if mode not in ("shortest", "squash") or filter_ not in ("bicubic", "bilinear"):
        raise ModelError(
            f"this open_clip checkpoint resizes images with resize_mode={mode}, interpolation={filter_}, which has no "
            f"differentiable form here. Use another checkpoint."
        )
    square = (image_size, image_size)
    return Preprocessing(
        size=square if mode == "squash" else image_size,
        crop=None if mode == "squash" else square,
        resample=filter_,
        mean=tuple(said.get("mean") or CLIP_MEAN),
        std=tuple(said.get("std") or CLIP_STD),
        crop_offset="round",  # as torchvision's, which open_clip uses
    )
