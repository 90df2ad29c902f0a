"""The pipelines of diffusers whose attention can be modulated, and their families (as the engine's are called)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from realignkit_plugins.loading import DTypeName, resolve_dtype

if TYPE_CHECKING:
    import torch

FAMILIES = {
    "StableDiffusionPipeline": "unet",
    "StableDiffusionXLPipeline": "unet",
    "PixArtAlphaPipeline": "pixart",
    "PixArtSigmaPipeline": "pixart",
    "StableDiffusion3Pipeline": "sd3",
    "FluxPipeline": "flux",
    "Flux2Pipeline": "flux2",
    "Flux2KleinPipeline": "flux2",
    "QwenImagePipeline": "qwen_image",
    "ZImagePipeline": "z_image",
}
NETWORKS = {
    "unet": ("unet", "UNet2DConditionModel"),
    "pixart": ("transformer", "PixArtTransformer2DModel"),
    "sd3": ("transformer", "SD3Transformer2DModel"),
    "flux": ("transformer", "FluxTransformer2DModel"),
    "flux2": ("transformer", "Flux2Transformer2DModel"),
    "qwen_image": ("transformer", "QwenImageTransformer2DModel"),
    "z_image": ("transformer", "ZImageTransformer2DModel"),
}
"""Of each family what its pipelines call the network with the attention, and its class."""


def family_of(pipeline: Any) -> str | None:
    """The family of a pipeline that is loaded, if its network is that family's."""
    family = FAMILIES.get(type(pipeline).__name__)
    if family is None:
        return None
    name, network = NETWORKS[family]
    part = getattr(pipeline, name, None)
    return family if type(getattr(part, "_orig_mod", part)).__name__ == network else None  # torch.compile's _orig_mod


def family_in(index: Mapping[str, Any]) -> str | None:
    """The family that a pipeline's model_index.json tells of.

    Raises:
        KeyError: it names no such network.
    """
    kind = index["_class_name"]
    # Image-to-image and the like share their components with text-to-image, and load as that.
    family = FAMILIES.get(kind) or ("unet" if kind.startswith("StableDiffusion") else None)
    return family if family and index[NETWORKS[family][0]][1] == NETWORKS[family][1] else None


def suited_dtype(dtype: DTypeName, device: str, kind: str) -> torch.dtype:
    """:func:`realignkit_plugins.loading.resolve_dtype` for a pipeline of a class: flow models leave fp16's range."""
    flows = FAMILIES.get(kind) not in (None, "unet", "pixart")
    return resolve_dtype("bf16" if flows and dtype == "auto" and device.startswith("cuda") else dtype, device)


def reads_pictures(index: Mapping[str, Any]) -> bool:
    """Whether a pipeline's tokenizer is part of a processor of pictures (FLUX.2 [dev]), which wants torchvision."""
    return "PixtralProcessor" in (index.get("tokenizer") or ())


def give_tokenizer(pipeline: Any, files: Path) -> None:
    """Load the tokenizer of :func:`reads_pictures` alone, which lays out and reads texts as the processor does."""
    from transformers import AutoTokenizer

    pipeline.register_modules(tokenizer=AutoTokenizer.from_pretrained(files / "tokenizer"))
