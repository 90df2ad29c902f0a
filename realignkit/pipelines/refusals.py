"""Why a pipeline cannot draw, or cannot be modulated: a sentence that says what to do, "" where it can."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from diffusers.models.attention_processor import (
    AttnProcessor,
    AttnProcessor2_0,
    FusedAttnProcessor2_0,
    SlicedAttnProcessor,
    XFormersAttnProcessor,
)

from realignkit.errors import in_one_line
from realignkit.pipelines import families
from realignkit.pipelines.families.family import Family

_PLAIN = (AttnProcessor, AttnProcessor2_0, FusedAttnProcessor2_0, SlicedAttnProcessor, XFormersAttnProcessor)
"""Processors that compute plain attention, so that replacing them for some steps loses nothing."""


def why_not_drawn(pipeline: Any) -> str:
    """What keeps a pipeline from drawing images of prompts alone."""
    family = families.family_of(pipeline)
    if why := _why_incomplete(pipeline, family):
        return why
    if family is None:
        return "" if families.is_text_to_image(pipeline) else _why_foreign(pipeline, "draw from a prompt alone")
    return _why_prompts_are_not_enough(pipeline, family.denoiser)


def why_not_modulated(pipeline: Any) -> str:
    """What keeps a pipeline's attention from being modulated, or it from drawing at all."""
    if families.family_of(pipeline) is None:
        return _why_incomplete(pipeline, None) or _why_foreign(pipeline, "be modulated")
    with families.alone(pipeline):  # what another thread has put into it meanwhile keeps nobody from it
        return why_not_drawn(pipeline) or why_not_replaced(families.denoiser(pipeline))


def why_not_guided(pipeline: Any) -> str:
    """What keeps a pipeline's sampling from being guided by a reward, or it from drawing at all."""
    if families.family_of(pipeline) is None:
        return _why_incomplete(pipeline, None) or _why_foreign(pipeline, "be guided")
    if why := why_not_drawn(pipeline):
        return why
    scheduler = pipeline.scheduler
    known = scheduler.config.get("prediction_type") in ("epsilon", "v_prediction", "sample")
    if not known or not hasattr(scheduler, "alphas_cumprod"):
        return (
            f"a {type(scheduler).__name__} does not say where a prediction of noise, v or the sample leads, as those "
            f"of diffusion models do."
        )
    hooks = [getattr(part, "_hf_hook", None) for part in pipeline.components.values()]
    if any(type(hook).__name__ == "CpuOffload" or getattr(hook, "offload", False) for hook in hooks):
        return "its parts are offloaded, and a gradient goes through several of them at once: load it without offload."
    return ""


def why_not_replaced(network: Any) -> str:
    """What would be lost if a network's attention were replaced by modulated attention, or that it has none."""
    processors = families.attention_processors(network)
    if not processors:
        return f"its {type(network).__name__} has no attention to modulate. Use a model whose network attends to text."
    family = families.family_of_network(network)
    joint = None if family is None else family.joint
    for name, processor in processors.items():
        computes = next((kind for kind in type(processor).__mro__ if "__call__" in vars(kind)), None)
        if computes not in _PLAIN if joint is None else not families.is_a(processor, *joint.processors):
            plain = "AttnProcessor2_0" if joint is None else joint.plain
            again = f"go back to plain attention first: set_attn_processor({plain}()) of the network"
            return (
                f"{name} computes attention with {type(processor).__name__}, which modulation would undo. Unload what "
                f"put it there, or {again if plain else 'load the pipeline again'}."
            )
        if (backend := getattr(processor, "_attention_backend", None)) is not None and backend != "native":
            return (
                f"{name} computes attention with the backend {getattr(backend, 'value', backend)}, which modulation "
                f"cannot join. Go back to torch's first: reset_attention_backend() of the network."
            )
    return ""


def why_failed(pipeline: Any, error: Exception) -> str:
    """What an error that a pipeline raised while drawing comes to."""
    kind = type(pipeline).__name__
    weights: Iterable[Any] = getattr(families.denoiser(pipeline), "parameters", list)()
    runs_on = getattr(getattr(pipeline, "_execution_device", None), "type", None)
    if runs_on == "cpu" and any(weight.device.type == "meta" for weight in weights):
        return (
            f"weights of this {kind} are not in memory: they were never loaded, or are offloaded, which needs a GPU. "
            f"Load it again, without offload."
        )
    precisions = {
        name: str(part.dtype).removeprefix("torch.")
        for name in ("text_encoder", "text_encoder_2", "text_encoder_3", families.denoiser_name(pipeline), "vae")
        if hasattr(part := families.unwrapped(getattr(pipeline, name, None)), "dtype")
    }
    if isinstance(error, RuntimeError) and len(set(precisions.values())) > 1:
        listed = ", ".join(f"{name} {precision}" for name, precision in precisions.items())
        return (
            f"this {kind} does not mix the precisions of its parts ({listed}). Bring them into one: "
            f"pipeline.to(torch.float32), say."
        )
    reason = in_one_line(error)
    advice = "try whether it draws on its own, pipeline('a cat'); if not, load it again."
    advice = _why_other_network(pipeline) or advice
    return f"this {kind} failed while drawing ({type(error).__name__}: {reason}): {advice}"


def _why_foreign(pipeline: Any, what: str) -> str:
    import diffusers

    if other := _why_other_network(pipeline):
        return other
    kind, supported = type(pipeline).__name__, ", ".join(families.SUPPORTED)
    for family in families.FAMILIES:
        names = family.pipelines
        fits = isinstance(families.denoiser(pipeline), getattr(diffusers, family.network))
        if fits and isinstance(pipeline, diffusers.DiffusionPipeline):
            near = next((name for name in reversed(names) if kind.startswith(name.removesuffix("Pipeline"))), names[0])
            if not _why_prompts_are_not_enough(pipeline, family.denoiser):
                return (
                    f"a {kind} cannot {what}. Use one of {supported}: {near}.from_pipe(pipeline, dtype=pipeline.dtype) "
                    f"of diffusers makes it of the same parts."
                )
    return f"{kind} has no attention that can be modulated. Use one of {supported}."


def _why_other_network(pipeline: Any) -> str:
    """Of a pipeline of a supported class whose network is of another one, else ""."""
    import diffusers

    for family in families.FAMILIES:
        part = families.unwrapped(getattr(pipeline, family.denoiser, None))
        known = isinstance(pipeline, tuple(getattr(diffusers, name) for name in family.pipelines))
        if known and not isinstance(part, getattr(diffusers, family.network)):
            return (
                f"the {family.denoiser} of this {type(pipeline).__name__} is a {type(part).__name__}, whose attention "
                f"cannot be modulated. Give it the {family.network} that it was made of."
            )
    return ""


def _why_incomplete(pipeline: Any, family: Family | None) -> str:
    optional = getattr(type(pipeline), "_optional_components", ())
    needed = [name for name in ("unet", "transformer") if hasattr(pipeline, name) and name not in optional]
    needed = needed if families.is_a(pipeline, "DiffusionPipeline") else []
    if family is not None:
        # Of SDXL's two text encoders the first may be missing: its refiner has the second alone.
        suffixes = [suffix for suffix in ("_2", "") if hasattr(pipeline, f"text_encoder{suffix}")]
        suffixes = suffixes if family.joint else suffixes[:1]
        needed += ["vae", "scheduler", *(f"{part}{s}" for s in suffixes for part in ("tokenizer", "text_encoder"))]
    missing = [name for name in needed if getattr(pipeline, name, None) is None]
    if not missing:
        return ""
    return f"this {type(pipeline).__name__} has no {' and no '.join(missing)}: load it with all of its parts."


def _why_prompts_are_not_enough(pipeline: Any, denoiser: str) -> str:
    config = families.denoiser(pipeline).config
    if denoiser == "unet" and config.in_channels > config.out_channels:
        return (
            f"its unet reads {config.in_channels} channels and predicts {config.out_channels}: an inpainting, editing "
            f"or upscaling model, which needs an image beside the prompt. Use a text-to-image checkpoint."
        )
    if "image" in (getattr(config, "encoder_hid_dim_type", None) or ""):
        return (
            "an IP-Adapter is loaded, which needs an image beside the prompt. Take it out first: "
            "pipeline.unload_ip_adapter()."
        )
    return ""
