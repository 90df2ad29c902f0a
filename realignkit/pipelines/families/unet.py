"""``unet``: Stable Diffusion 1.x, 2.x and XL, whose U-Nets attend to image and text in layers of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from realignkit.pipelines.families.family import Family

if TYPE_CHECKING:
    from torch import Tensor


def encode(pipeline: Any, texts: list[str]) -> tuple[Tensor, Tensor | None]:
    """Embeddings (B, K, C), and SDXL's pooled ones (B, P)."""
    out = pipeline.encode_prompt(
        prompt=texts, device=pipeline._execution_device, num_images_per_prompt=1, do_classifier_free_guidance=False
    )
    # (text, None), SDXL: (text, negative, pooled, negative pooled)
    return out[0], out[2] if len(out) > 2 else None


FAMILY = Family(
    name="unet",
    pipelines=("StableDiffusionPipeline", "StableDiffusionXLPipeline"),
    network="UNet2DConditionModel",
    denoiser="unet",
    patch=1,
    encode=encode,
    text_extra={"StableDiffusionXLPipeline": "pooled_prompt_embeds"},
)
