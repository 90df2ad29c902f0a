"""The parts of a pipeline's folder: whether they are there, and whether they fit together."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from realignkit.errors import ModelError
from realignkit_plugins.failures import KNOWN_CLASSES, OWN_CODE, loading
from realignkit_plugins.loading import check_tokenizer, check_vocabulary, load_model
from realignkit_plugins.model_names import resolve_model
from realignkit_plugins.weight_folders import refuse_quantised

_PREDICTIONS = ("epsilon", "sample", "v_prediction", "flow_prediction")
_SAME_MODEL = "Use parts of the same model."
_GIVE_A_VAE = "Give a folder or hub id of an AutoencoderKL alone (of a pipeline, its folder vae)."
_LATENTS = ("scaling_factor", "shift_factor", "latents_mean", "latents_std")
"""What an AutoencoderKL's config says of its latents."""


def check_index(index: Any, model: str) -> None:
    """Refuse what stands in model_index.json where it names no pipeline.

    Args:
        index: what the file holds.
        model: what the user calls the pipeline, for messages.

    Raises:
        ModelError: it is no table, or has no ``_class_name``.
    """
    if not isinstance(index, Mapping) or not index.get("_class_name"):
        raise ModelError(
            f"the text-to-image pipeline '{model}' cannot be loaded (its model_index.json names no pipeline: it has no "
            f"_class_name). Copy or download it again."
        )


def refuse_code(index: Mapping[str, Any], model: str) -> None:
    """Refuse classes from anywhere but diffusers and transformers: a file of the folder, any package that is installed.

    Args:
        index: what the pipeline's model_index.json holds.
        model: what the user calls the pipeline, for messages.

    Raises:
        ModelError: it names one.
    """
    from diffusers import pipelines

    foreign = ["_class_name"] if isinstance(index.get("_class_name"), list | tuple) else []
    for name, entry in index.items():
        if not name.startswith("_") and isinstance(entry, list | tuple) and entry and entry[0] is not None:
            library = str(entry[0])
            if library not in ("diffusers", "transformers") and not hasattr(pipelines, library):
                foreign.append(name)
    if foreign:
        raise ModelError(f"'{model}' {OWN_CODE} ({', '.join(foreign)} in model_index.json). {KNOWN_CLASSES}")


def check_folders(folder: Path, parts: Mapping[str, Any], model: str) -> None:
    """Refuse a pipeline without a part that its index names.

    Args:
        folder: of the pipeline, in diffusers' layout.
        parts: the entries of its model_index.json that are read.
        model: what the user calls it, for messages.

    Raises:
        ModelError: a part has no folder.
    """
    named = [name for name, entry in parts.items() if isinstance(entry, list | tuple) and entry and entry[0]]
    if missing := [f"{name}/" for name in named if not (folder / name).is_dir()]:
        raise ModelError(
            f"the text-to-image pipeline '{model}' cannot be loaded (it has no {' and no '.join(missing)}). Copy or "
            f"download it again, with all of its parts."
        )


def check_tokenizers(pipeline: Any, model: str) -> None:
    """Refuse tokenizers that know no words.

    Raises:
        ModelError: one of the pipeline's does.
    """
    from transformers import PreTrainedTokenizerBase

    for name, part in pipeline.components.items():
        if isinstance(part, PreTrainedTokenizerBase):
            check_tokenizer(part, f"the {name} of '{model}'", f"{name}/")


def check_fit(pipeline: Any, network: str, model: str) -> None:
    """Refuse parts of different models, by their settings, which would fail only while drawing.

    Args:
        pipeline: of a family whose attention can be modulated.
        network: the name of its network: ``unet`` or ``transformer``.
        model: what the user calls it, for messages.

    Raises:
        ModelError: they do not fit together, or do not draw from text alone.
    """
    for suffix in ("", "_2", "_3"):
        tokenizer, encoder = (getattr(pipeline, f"{part}{suffix}", None) for part in ("tokenizer", "text_encoder"))
        if tokenizer is not None and (size := getattr(_text_config(encoder), "vocab_size", None)):
            check_vocabulary(tokenizer, f"{model}/tokenizer{suffix}", size, _SAME_MODEL)
    if why := next(_misfits(pipeline, network), None):
        raise ModelError(f"the parts of '{model}' do not fit together: {why}. {_SAME_MODEL}")
    predicted = pipeline.scheduler.config.get("prediction_type")
    if predicted is not None and predicted not in _PREDICTIONS:
        raise ModelError(
            f"the scheduler of '{model}' has the prediction_type '{predicted}', which is none. Set "
            f"generator.prediction_type to epsilon or v_prediction, as the model was trained."
        )
    config = getattr(pipeline, network).config
    if config.get("num_class_embeds") or config.get("class_embed_type"):
        raise ModelError(
            f"the {network} of '{model}' wants the label of a class beside the prompt. Use a text-to-image checkpoint."
        )


def load_vae(vae: str, folder: str, hub: Mapping[str, Any], index: Mapping[str, Any], model: str, dtype: Any) -> Any:
    """An autoencoder to use instead of a pipeline's own, from safetensors, in evaluation mode.

    Args:
        vae: see :func:`realignkit_plugins.model_names.resolve_model`.
        folder: of the pipeline, or its hub id.
        hub: how that is asked for at the hub.
        index: what the pipeline's model_index.json holds.
        model: what the user calls the pipeline, for messages.
        dtype: of its weights.

    Raises:
        ModelError: it is missing, damaged or no AutoencoderKL, the pipeline's own is none, or their latents differ.
    """
    from diffusers import AutoencoderKL

    _, own = index.get("vae") or (None, None)
    if own != "AutoencoderKL":
        has = f"the vae {own}" if own else "no vae"
        raise ModelError(
            f"'{model}' has {has}, and another can only stand for an AutoencoderKL. Leave the option vae out."
        )
    with loading("vae", vae):
        files = resolve_model(vae)
        if Path(files).is_dir():
            if not (Path(files) / "config.json").is_file():
                raise ModelError(f"'{vae}' has no config.json. {_GIVE_A_VAE}")
            refuse_quantised(Path(files), ["."], None, vae)
        config = AutoencoderKL.load_config(files)
        if (kind := config.get("_class_name")) != "AutoencoderKL":
            raise ModelError(
                f"'{vae}' is {f'a {kind}' if kind else 'of another library'}, no AutoencoderKL. {_GIVE_A_VAE}"
            )
        loaded = load_model(AutoencoderKL, files, vae, dtype)
    try:
        replaced = AutoencoderKL.load_config(folder, subfolder="vae", **hub)
    except OSError:  # a pipeline may come without one of its own
        return loaded
    _check_latents(vae, config, model, replaced)
    return loaded


def _check_latents(vae: str, config: Mapping[str, Any], model: str, replaced: Mapping[str, Any]) -> None:
    """Refuse an autoencoder of other latents, which would draw something else, or noise, of what a network predicts."""
    from diffusers import AutoencoderKL

    defaults = inspect.signature(AutoencoderKL).parameters
    for name in _LATENTS:
        # No shift and one of zero are the same.
        decodes, made = (each.get(name, defaults[name].default) or None for each in (config, replaced))
        if decodes != made:
            raise ModelError(
                f"'{vae}' decodes other latents than '{model}' draws: its {name} is {decodes}, that of the model's own "
                f"vae {made}. Set the option vae to null, with which the model's own is used."
            )


def _misfits(pipeline: Any, network: str) -> Iterator[str]:
    config, vae = getattr(pipeline, network).config, getattr(pipeline, "vae", None)
    if "pooled_projection_dim" in config:
        yield from _joint_misfits(pipeline, config, vae)
        return
    if network == "transformer" and {"joint_attention_dim", "cap_feat_dim"} & set(config):
        yield from _chat_misfits(pipeline, config, vae)
        return
    reads, predicts = config.in_channels, config.out_channels
    if network == "unet" and reads > predicts:
        return  # inpainting, editing …, of which drawing tells
    if vae is not None and (made := vae.config.get("latent_channels", reads)) != reads:
        yield f"its {network} reads {reads} channels, and its vae makes {made}"
    learned = network != "unet" or str(pipeline.scheduler.config.get("variance_type")).startswith("learned")
    if predicts != reads and not (learned and predicts == 2 * reads):
        yield f"its {network} reads {reads} channels and predicts {predicts}"
    if (width := _text_width(pipeline)) is None:
        return
    if network == "transformer":
        wanted = config.get("caption_channels") or width
    elif config.get("encoder_hid_dim") is None:
        wanted = config.cross_attention_dim
    else:
        wanted = config.encoder_hid_dim if config.get("encoder_hid_dim_type") in (None, "text_proj") else width
    for one in wanted if isinstance(wanted, list | tuple) else [wanted]:
        if one != width:
            yield f"its {network} reads texts of width {one}, and its text encoder makes {width}"


def _joint_misfits(pipeline: Any, config: Any, vae: Any) -> Iterator[str]:
    """Of Stable Diffusion 3, with CLIP twice and T5, or of FLUX, with CLIP and T5, whose latents are packed by four."""
    packed = 1 if hasattr(pipeline, "text_encoder_3") else 4
    if vae is not None and (made := packed * vae.config.latent_channels) != config.in_channels:
        yield f"its transformer reads {config.in_channels} channels, and its vae makes {made}"
    names = [name for name in ("text_encoder", "text_encoder_2", "text_encoder_3") if hasattr(pipeline, name)]
    encoders: list[Any] = [getattr(pipeline, name) for name in names]
    *clip, t5 = encoders
    if t5 is not None and (width := t5.config.hidden_size) != config.joint_attention_dim:
        yield f"its transformer reads texts of width {config.joint_attention_dim}, and its text encoder makes {width}"
    if all(each is not None for each in clip):
        pooled = sum(
            each.config.projection_dim if hasattr(each, "text_projection") else each.config.hidden_size for each in clip
        )
        if pooled != config.pooled_projection_dim:
            yield f"its transformer reads a text of width {config.pooled_projection_dim}, and CLIP makes {pooled}"


def _chat_misfits(pipeline: Any, config: Any, vae: Any) -> Iterator[str]:
    """Of flow models whose texts a language model reads; FLUX.2 reads three of its layers."""
    packed = 1 if "cap_feat_dim" in config else 4
    if vae is not None:
        made = packed * (vae.config.get("latent_channels") or vae.config.z_dim)
        if made != config.in_channels:
            yield f"its transformer reads {config.in_channels} channels, and its vae makes {made}"
    read = inspect.signature(pipeline.encode_prompt).parameters.get("text_encoder_out_layers")
    width = getattr(_text_config(pipeline.text_encoder), "hidden_size", 0) * (len(read.default) if read else 1)
    wanted = config.get("cap_feat_dim") or config.joint_attention_dim
    if width and width != wanted:
        yield f"its transformer reads texts of width {wanted}, and its text encoder makes {width}"


def _text_config(encoder: Any) -> Any:
    """Of a text encoder, or of the part of it that reads texts."""
    config = getattr(encoder, "config", None)
    return getattr(config, "text_config", config)


def _text_width(pipeline: Any) -> int | None:
    """Of a token as the network reads it, which SDXL puts together from two encoders; None where it is not known."""
    encoders = [getattr(pipeline, name, None) for name in ("text_encoder", "text_encoder_2")]
    widths = [getattr(encoder.config, "hidden_size", 0) for encoder in encoders if encoder is not None]
    return sum(widths) if widths and all(widths) else None
