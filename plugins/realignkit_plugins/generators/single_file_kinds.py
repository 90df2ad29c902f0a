"""What a single file of weights is, by the names in it: a whole Stable Diffusion model, or what it is instead."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping
from itertools import takewhile

from realignkit.errors import ModelError
from realignkit_plugins.generators.single_file_config import (
    CLIP,
    OPEN_CLIP,
    READS_TEXT,
    UNET,
    VAE,
    XL_CLIP,
    XL_OPEN_CLIP,
    Family,
    Shapes,
)

FIRST = f"{UNET}input_blocks.0.0.weight"
_ADAPTERS = (
    ".lora_",
    "lora_up.",
    "lora_down.",
    "lora_A.",
    "lora_B.",
    ".hada_w",
    ".lokr_w",
    "dora_scale",
    ".oft_blocks",
)
_EMBEDDING = "an embedding (textual inversion) of a word, and no model"
_EMBEDDINGS = {"emb_params", "clip_l", "clip_g"}
_WHOLE_FOLDER = "Give the folder of the whole model, the one that has model_index.json."
_NONE = "no Stable Diffusion 1.x, 2.x or XL"
# Parts of names that nothing else has -> what the file then is, and what to do about it; the first found counts.
_MARKED: tuple[tuple[tuple[str, ...], str, str], ...] = (
    (
        ("control_model.", "controlnet_", "input_hint_block.", "zero_convs.", "lllite_", "lora_controlnet"),
        "a ControlNet, which guides a model and is none",
        "",
    ),
    (("ip_adapter.", "ip_adapter_", ".to_k_ip."), "an IP-Adapter, which guides a model and is none", ""),
    (
        _ADAPTERS,
        "adapters (LoRA or the like), which change a model and are none",
        "Give the model that they were made for with --model, and this file with --set generator.lora={file}.",
    ),
    (("motion_modules.",), "a motion module of AnimateDiff, which animates a model and is none", ""),
    (("string_to_param",), _EMBEDDING, ""),
    (("double_blocks.",), f"a FLUX model (or one built like it), {_NONE}", "{folder}"),
    (("joint_blocks.",), f"a Stable Diffusion 3 model (or one built like it), {_NONE}", "{folder}"),
    (("double_layers.",), f"an AuraFlow model (or one built like it), {_NONE}", "{folder}"),
    ((".txt_mod.",), f"a Qwen-Image model (or one built like it), {_NONE}", "{folder}"),
    (("noise_refiner.",), f"a Z-Image or Lumina model (or one built like it), {_NONE}", "{folder}"),
)
_ADDITIONS = 3
"""How many of these, from the first, tools put into one file with a whole model."""
# Beginnings of which a name has one, and those that all other names may have -> the same.
_ALONE: tuple[tuple[str, str, str, str], ...] = (
    (
        "model_ema.",
        "first_stage_model. cond_stage_model. conditioner. alphas betas sqrt_ log_one_ posterior_ lvlb_ logvar scale_",
        "a checkpoint with the moving average of a U-Net (model_ema) in place of the U-Net",
        "Give a file that holds the U-Net too, or a diffusers folder.",
    ),
    (
        "y_embedder.y_proj. caption_projection.",
        "adaln_single. blocks. final_layer. pos_embed proj_out. scale_shift_table t_block. t_embedder. "
        "transformer_blocks. x_embedder. y_embedder. ar_embedder. csize_embedder.",
        "a transformer such as PixArt's, without text encoder and VAE",
        "{folder}",
    ),
    (
        "down_blocks.",
        "add_embedding. class_embedding. conv_in. conv_norm_out. conv_out. mid_block. time_embedding. up_blocks.",
        "one network of a diffusers folder (a U-Net), not the whole model",
        "{whole}",
    ),
    ("model.layers.", "lm_head. model.embed_tokens. model.norm.", "a language model", ""),
    (
        "input_blocks. diffusion_model.input_blocks.",
        "diffusion_model. label_emb. middle_block. out. output_blocks. time_embed.",
        "a U-Net alone, without text encoder and VAE",
        "",
    ),
    (
        "text_model. encoder.block. transformer.resblocks.",
        "encoder.embed_tokens. encoder.final_layer_norm. ln_final. logit_scale positional_embedding shared. "
        "text_projection token_embedding.",
        "a text encoder alone, not the whole model",
        "",
    ),
    (
        "mask_decoder.",
        "image_encoder. pixel_mean pixel_std prompt_encoder.",
        "a Segment Anything model, which finds masks",
        "Set it as segmenter.sam.",
    ),
    (
        "decoder.conv_in. decoder.conv_out. first_stage_model.",
        "decoder. encoder. loss. post_quant_conv. quant_conv.",
        "a VAE alone, not the whole model",
        "",
    ),
)
_ADVICE = "Give a whole checkpoint of Stable Diffusion 1.x, 2.x or XL, or a diffusers folder."
_FOLDER = "Give it as a diffusers folder or hub id; what it can do here is said in docs/models.md."
_SHOWN = 4
"""Beginnings of names in a message."""
_OTHER_INPUTS = {
    5: "draws from a depth map",
    7: "scales images up",
    8: "edits images (InstructPix2Pix or the like)",
    9: "inpaints",
}


def family_of(shapes: Shapes, model: str) -> Family:
    """The family of a whole checkpoint.

    Args:
        shapes: of all weights, by published name.
        model: the user's name of the file, for messages.

    Raises:
        ModelError: it is something else, or a part of it; the message says what.
    """
    if FIRST not in shapes:
        raise ModelError(_other(shapes, model))
    inputs = shapes[FIRST][1]
    if inputs != 4:
        does = _OTHER_INPUTS.get(inputs, f"reads {inputs} channels instead of 4")
        raise ModelError(f"'{model}' is a model that {does}, not one that draws from text alone. {_ADVICE}")
    _refuse_additions(shapes, model)
    if "edm_mean" in shapes:
        raise ModelError(f"'{model}' is Playground 2.5, whose noise has a schedule of its own. {_FOLDER}")
    if any(name.startswith("embedder.model.visual.") for name in shapes):
        raise ModelError(f"'{model}' is a model of the unCLIP kind, which draws from images too. {_ADVICE}")
    if any(".time_stack." in name or ".motion_modules." in name for name in shapes):
        raise ModelError(f"'{model}' is a video model. {_ADVICE}")
    if f"{UNET}label_emb.0.0.weight" in shapes:
        return _complete(shapes, model, "sdxl", (XL_CLIP, XL_OPEN_CLIP))
    if _has(shapes, OPEN_CLIP):
        return _complete(shapes, model, "sd2", (OPEN_CLIP,))
    return _complete(shapes, model, "sd1", (CLIP,))


def _complete(shapes: Shapes, model: str, family: Family, encoders: tuple[str, ...]) -> Family:
    if family == "sdxl" and not _has(shapes, XL_CLIP) and _has(shapes, "conditioner.embedders.0.model."):
        raise ModelError(
            f"'{model}' is the refiner of Stable Diffusion XL, which finishes images that the base model has begun. "
            f"Give the base model."
        )
    lacking = [] if all(_has(shapes, prefix) for prefix in encoders) else ["text encoder"]
    if not _has(shapes, VAE):
        lacking.append("VAE")
    if lacking:
        raise ModelError(f"'{model}' holds a U-Net without {' and '.join(lacking)}. {_ADVICE}")
    if not any(name.startswith(UNET) and name.endswith(READS_TEXT) for name in shapes):
        raise ModelError(f"'{model}' holds a U-Net that reads no text (it has no weights of attn2). {_ADVICE}")
    return family


def _refuse_additions(shapes: Shapes, model: str) -> None:
    """What guides or changes a model, in one file with it, and would be left out without a word."""
    for parts, kind, _ in _MARKED[:_ADDITIONS]:
        if name := next((name for name in shapes if any(part in name for part in parts)), None):
            raise ModelError(
                f"'{model}' holds {kind.partition(',')[0]} beside the model ({name} …), which would have no part in "
                f"the picture. Give a file of the model alone."
            )


def _has(shapes: Mapping[str, object], prefix: str) -> bool:
    return any(name.startswith(prefix) for name in shapes)


def _other(shapes: Shapes, model: str) -> str:
    if shapes.keys() <= _EMBEDDINGS:
        return _named(_EMBEDDING, "", model)
    for parts, kind, advice in _MARKED:
        if any(part in name for name in shapes for part in parts):
            return _named(kind, advice, model)
    for needed, others, kind, advice in _ALONE:
        first, all_ = tuple(needed.split()), tuple(f"{needed} {others}".split())
        if any(name.startswith(first) for name in shapes) and all(name.startswith(all_) for name in shapes):
            return _named(kind, advice, model)
    return f"'{model}' is {_NONE}: its keys begin with {_beginnings(shapes)}. {_ADVICE}"


def _named(kind: str, advice: str, model: str) -> str:
    remedy = advice.format(file=shlex.quote(model), folder=_FOLDER, whole=_WHOLE_FOLDER) or _ADVICE
    return f"'{model}' is {kind}. {remedy}"


def _beginnings(shapes: Shapes) -> str:
    """How most of the names begin: up to the first part in which they differ."""
    names = [name.split(".") for name in sorted(shapes)]
    columns = zip(*(parts[:-1] for parts in names), strict=False)
    shared = len(list(takewhile(lambda column: len(set(column)) == 1, columns)))
    counted = Counter(".".join(parts[: shared + 1]) for parts in names)
    most = [f"'{beginning}'" for beginning, _ in counted.most_common(_SHOWN)]
    return ", ".join(most) + (" …" if len(counted) > len(most) else "")
