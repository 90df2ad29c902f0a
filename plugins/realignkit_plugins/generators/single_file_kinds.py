"""What a single file of weights is, by the names in it: a whole Stable Diffusion model, or what it is instead."""

from __future__ import annotations

import shlex
from collections.abc import Mapping

from realignkit.errors import ModelError
from realignkit_plugins.generators.single_file_config import (
    CLIP,
    OPEN_CLIP,
    UNET,
    VAE,
    XL_CLIP,
    XL_OPEN_CLIP,
    Family,
    Shapes,
)

_FIRST = f"{UNET}input_blocks.0.0.weight"
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
_WHOLE_FOLDER = "Give the folder of the whole model, the one that has model_index.json."
# Parts of names -> what the file then is, and what to do about it; the first that is found counts.
_KINDS: tuple[tuple[tuple[str, ...], str, str], ...] = (
    (
        _ADAPTERS,
        "adapters (LoRA or the like), which change a model and are none",
        "Give the model that they were made for with --model, and this file with --set generator.lora={file}.",
    ),
    (
        ("control_model.", "controlnet_", "input_hint_block.", "zero_convs.", "lllite_"),
        "a ControlNet, which guides a model and is none",
        "",
    ),
    (("ip_adapter.", "image_proj."), "an IP-Adapter, which guides a model and is none", ""),
    (("motion_modules.",), "a motion module of AnimateDiff, which animates a model and is none", ""),
    (("emb_params", "string_to_param"), "an embedding (textual inversion) of a word, and no model", ""),
    (("double_blocks.",), "a FLUX model (or one built like it), no Stable Diffusion 1.x, 2.x or XL", "{folder}"),
    (("joint_blocks.",), "a Stable Diffusion 3 model, no 1.x, 2.x or XL", "{folder}"),
    (("double_layers.",), "an AuraFlow model, no Stable Diffusion 1.x, 2.x or XL", "{folder}"),
    (
        ("caption_projection.", "y_embedder."),
        "a transformer such as PixArt's, without text encoder and VAE",
        "{folder}",
    ),
    (
        ("down_blocks.", "time_embedding."),
        "one network of a diffusers folder (a U-Net), not the whole model",
        "{whole}",
    ),
    (("model.layers.", "lm_head."), "a language model", ""),
    (("input_blocks.0.0.",), "a U-Net alone, without text encoder and VAE", ""),
    (("text_model.", "resblocks.", "encoder.block."), "a text encoder alone, not the whole model", ""),
    (("image_encoder.",), "a Segment Anything model, which finds masks", "Set it as segmenter.sam."),
    (("decoder.conv_in.", "decoder.conv_out.", "first_stage_model."), "a VAE alone, not the whole model", ""),
    (("encoder.", "decoder.", "quant_conv."), "an autoencoder alone, not the whole model", ""),
)
_ADVICE = "Give a whole checkpoint of Stable Diffusion 1.x, 2.x or XL, or a diffusers folder."
_FOLDER = "Give it as a diffusers folder or hub id; what it can do here is said in docs/models.md."
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
    if _FIRST not in shapes:
        raise ModelError(_other(shapes, model))
    inputs = shapes[_FIRST][1]
    if inputs != 4:
        does = _OTHER_INPUTS.get(inputs, f"reads {inputs} channels instead of 4")
        raise ModelError(f"'{model}' is a model that {does}, not one that draws from text alone. {_ADVICE}")
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
    return family


def _has(shapes: Mapping[str, object], prefix: str) -> bool:
    return any(name.startswith(prefix) for name in shapes)


def _other(shapes: Shapes, model: str) -> str:
    for parts, kind, advice in _KINDS:
        if any(part in name for name in shapes for part in parts):
            told = advice.format(file=shlex.quote(model), folder=_FOLDER, whole=_WHOLE_FOLDER) or _ADVICE
            return f"'{model}' is {kind}. {told}"
    if len(shapes) <= 4 and all(len(shape) <= 2 for shape in shapes.values()):
        return f"'{model}' is an embedding (textual inversion) of a word, and no model. {_ADVICE}"
    first = min(shapes)
    return f"'{model}' holds no Stable Diffusion model (the first of its {len(shapes)} weights is {first}). {_ADVICE}"
