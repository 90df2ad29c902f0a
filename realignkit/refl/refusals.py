"""Why a pipeline cannot learn here: said before any work, with what to do about it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from realignkit.errors import ModelError, with_article
from realignkit.pipelines import families
from realignkit.refl.denoisers import DENOISERS
from realignkit.refl.noise import is_flow

ADAPTER = "realignkit"
"""The name of the adapters that training adds."""
TEXT_ENCODERS = ("text_encoder", "text_encoder_2")
"""A pipeline's own names for them; SDXL has both."""
PREDICTIONS = ("epsilon", "v_prediction", "sample")
"""What a U-Net may predict, by diffusers' names (Salimans & Ho, 2022, for v)."""
_AUTOENCODERS = ("AutoencoderKL", "AutoencoderTiny", "AsymmetricAutoencoderKL")
_FEW_STEPS = ("LCMScheduler", "TCDScheduler")
_USE = "Use a Stable Diffusion 1.x, 2.x, XL or 3 text-to-image pipeline, or one of FLUX.1."
TRAINABLE = tuple(DENOISERS)
"""The families that can learn."""


def text_encoders(pipeline: Any) -> tuple[str, ...]:
    """The text encoders that can learn; FLUX's second, T5, is left as it is."""
    return TEXT_ENCODERS[:1] if families.attention_family(pipeline) == families.FLUX else TEXT_ENCODERS


def check_trainable(pipeline: Any) -> None:
    """Refuse a pipeline that cannot learn here; it is not changed.

    Raises:
        ModelError: it is of another kind; the message says which.
    """
    reason = why_not_trainable(pipeline)
    if reason is not None:
        raise ModelError(f"{with_article(type(pipeline).__name__)} {reason}")


def why_not_trainable(pipeline: Any) -> str | None:
    """The rest of a sentence that begins with the pipeline's name, with what to do; None where it can learn."""
    checks: tuple[Callable[[Any], str | None], ...] = (
        _compiled,
        _kind,
        _parts,
        _unet,
        _transformer,
        _schedule,
        _weights,
    )
    return next((reason for check in checks if (reason := check(pipeline)) is not None), None)


def _compiled(pipeline: Any) -> str | None:
    parts = (families.denoiser_name(pipeline), "vae", *TEXT_ENCODERS)
    name = next((name for name in parts if hasattr(getattr(pipeline, name, None), "_orig_mod")), None)
    return None if name is None else f"whose {name} is compiled cannot be fine-tuned here: give it uncompiled."


def _kind(pipeline: Any) -> str | None:
    family = families.attention_family(pipeline)
    if family in TRAINABLE:
        return None
    name = type(pipeline).__name__
    if family is not None:
        return f"cannot be fine-tuned here: its transformer can be sampled and refined, but not trained. {_USE}"
    kinds = {
        "ControlNet": "it needs a control image beside the prompt",
        "Adapter": "it needs a control image beside the prompt",
        "Inpaint": "it fills a hole in an image that it is given",
        "Img2Img": "it starts from an image that it is given",
        "Pix2Pix": "it edits an image that it is given",
        "Upscale": "it enlarges an image that it is given",
        "Animate": "it makes videos",
        "Video": "it makes videos",
        "LatentConsistency": "it is distilled for a few steps",
        "IF": "it works on pixels, not on latents",
    }
    why = next((text for part, text in kinds.items() if part in name), "it has no U-Net of the Stable Diffusion kind")
    return f"cannot be fine-tuned here: {why}. {_USE}"


def _parts(pipeline: Any) -> str | None:
    import diffusers

    vae = getattr(pipeline, "vae", None)
    if not isinstance(vae, tuple(getattr(diffusers, name) for name in _AUTOENCODERS)):
        decoder = "no image decoder" if vae is None else f"a decoder of the kind {type(vae).__name__}"
        return f"with {decoder} cannot be fine-tuned here. Load it with its AutoencoderKL."
    second = type(pipeline).__name__.startswith("StableDiffusionXL")
    if second and getattr(pipeline, "text_encoder_2", None) is not None and pipeline.text_encoder is None:
        return "without its first text encoder, as SDXL's refiner is, cannot be fine-tuned here. Use SDXL's base model."
    for name in TEXT_ENCODERS[: 2 if second or families.is_joint(pipeline) else 1]:
        tokenizer = name.replace("text_encoder", "tokenizer")
        if getattr(pipeline, name, None) is None or getattr(pipeline, tokenizer, None) is None:
            return f"without its {name} or {tokenizer} cannot be fine-tuned here: load it with all of its parts."
    return None


def _transformer(pipeline: Any) -> str | None:
    if not families.is_joint(pipeline):
        return None
    family = families.attention_family(pipeline)
    channels, latents = int(pipeline.transformer.config.in_channels), int(pipeline.vae.config.latent_channels)
    if channels != latents * DENOISERS[str(family)].packed:
        return f"whose transformer reads {channels} channels for {latents} of latents cannot be fine-tuned here. {_USE}"
    if family == families.SD3 and pipeline.scheduler.config.get("use_dynamic_shifting", False):
        return (
            "whose noise levels are shifted by the picture's size (use_dynamic_shifting) cannot be fine-tuned here. "
            "Give its scheduler a fixed shift."
        )
    if not is_flow(pipeline.scheduler):
        return (
            f"with {type(pipeline.scheduler).__name__} cannot be fine-tuned here: it was trained by flow matching. "
            f"Load it with its own scheduler."
        )
    return None


def _unet(pipeline: Any) -> str | None:
    if families.attention_family(pipeline) != families.UNET:
        return None
    config, latents = pipeline.unet.config, int(pipeline.vae.config.latent_channels)
    if config.in_channels != latents:
        return (
            f"whose U-Net reads {config.in_channels} channels for {latents} of latents is an inpainting, editing or "
            f"upscaling model and cannot be fine-tuned here. {_USE}"
        )
    if config.out_channels != latents:
        return f"whose U-Net predicts {config.out_channels} channels for {latents} cannot be fine-tuned here. {_USE}"
    if getattr(config, "time_cond_proj_dim", None) is not None:
        return (
            "whose U-Net is told the guidance scale (time_cond_proj_dim) is a latent consistency model, distilled for "
            "a few steps, and cannot be fine-tuned here. Fine-tune the model that it was distilled from."
        )
    if config.class_embed_type is not None or config.num_class_embeds is not None:
        return f"whose U-Net needs a class or noise level beside the prompt cannot be fine-tuned here. {_USE}"
    if config.encoder_hid_dim_type is not None:
        return (
            f"whose U-Net reads '{config.encoder_hid_dim_type}' beside the text cannot be fine-tuned here. Without it, "
            f"after unload_ip_adapter() say, it can."
        )
    wanted = "text_time" if type(pipeline).__name__.startswith("StableDiffusionXL") else None
    if config.addition_embed_type != wanted:
        return f"whose U-Net reads '{config.addition_embed_type}', not '{wanted}', cannot be fine-tuned here. {_USE}"
    if wanted is not None:
        width = int(pipeline.unet.add_embedding.linear_1.in_features)
        known = 6 * int(config.addition_time_embed_dim) + int(pipeline.text_encoder_2.config.projection_dim)
        if width != known or getattr(pipeline.config, "requires_aesthetics_score", False):
            return "whose U-Net needs an aesthetic score is SDXL's refiner and cannot be fine-tuned here. Use its base."
    return None


def _schedule(pipeline: Any) -> str | None:
    """The loss and the rollouts compute with ``abar`` at whole timesteps: the model's own noise must be that."""
    if families.attention_family(pipeline) != families.UNET:
        return None
    from diffusers import DDIMScheduler

    scheduler = pipeline.scheduler
    name, config = type(scheduler).__name__, scheduler.config
    kind = config.get("prediction_type", "epsilon")
    if kind not in PREDICTIONS or config.get("use_flow_sigmas", False) or "FlowMatch" in name:
        return (
            f"that predicts '{kind}' on the path of flow matching ({name}) cannot be fine-tuned here, where noise is "
            f"added by the diffusion formula. {_USE}"
        )
    if "Inverse" in name or "RePaint" in name:
        return f"with {name} draws no images from noise and cannot be fine-tuned here. Load it with scheduler=ddim."
    if name in _FEW_STEPS:
        return (
            f"with {name} is distilled for a few steps and cannot be fine-tuned here. If its U-Net is not, load it "
            f"with another scheduler (scheduler=ddim)."
        )
    levels = getattr(scheduler, "alphas_cumprod", None)
    try:
        rolled = DDIMScheduler.from_config(config).alphas_cumprod if levels is not None else None
    except (NotImplementedError, ValueError):
        rolled = None
    continuous = config.get("timestep_type", "discrete") == "continuous"
    if levels is None or rolled is None or continuous or levels.shape != rolled.shape:
        return (
            f"with {name} cannot be fine-tuned here: its noise levels are no schedule of training timesteps "
            f"(alphas_cumprod). Use a model with one, or the scheduler that it was trained with."
        )
    if not torch.allclose(levels.float().cpu(), rolled.float(), atol=1e-5):
        return (
            f"with {name} cannot be fine-tuned here: its noise levels are not those that its configuration states "
            f"for the training rollouts. Load it with scheduler=ddim."
        )
    if kind == "epsilon" and float(rolled[-1]) == 0:
        return (
            "that predicts 'epsilon' at zero signal (rescale_betas_zero_snr) cannot be fine-tuned here: noise alone "
            "says nothing of the image. Use prediction_type=v_prediction, which such models are trained with."
        )
    return None


def _weights(pipeline: Any) -> str | None:
    network = families.denoiser_name(pipeline)
    if getattr(getattr(pipeline, network), "_hf_hook", None) is not None or getattr(pipeline, "hf_device_map", None):
        return "whose parts are offloaded cannot be fine-tuned. Load it with offload=none."
    for name in (network, *TEXT_ENCODERS):
        part = getattr(pipeline, name, None)
        if part is None:
            continue
        if set(getattr(part, "peft_config", {})) - {ADAPTER}:
            return (
                f"has LoRA adapters in its {name} already, which would be lost: make them part of the model first, "
                f"with pipeline.fuse_lora() and pipeline.unload_lora_weights()."
            )
        if getattr(part, "is_quantized", False) or not all(p.is_floating_point() for p in part.parameters()):
            return f"whose {name} is quantized cannot be fine-tuned here. Load it in float32, bf16 or fp16."
    return None
