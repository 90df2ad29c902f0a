"""``pixart``: PixArt-alpha and PixArt-Sigma, transformers with cross-attention to T5's tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from realignkit.pipelines.families.family import Family

if TYPE_CHECKING:
    from torch import Tensor

PIPELINES = ("PixArtAlphaPipeline", "PixArtSigmaPipeline")


def encode(pipeline: Any, texts: list[str]) -> tuple[Tensor, Tensor]:
    """Embeddings (B, K, C) and their mask (B, K)."""
    embeddings, mask, _, _ = pipeline.encode_prompt(
        prompt=texts, device=pipeline._execution_device, num_images_per_prompt=1, do_classifier_free_guidance=False
    )
    return embeddings, mask


FAMILY = Family(
    name="pixart",
    pipelines=PIPELINES,
    network="PixArtTransformer2DModel",
    denoiser="transformer",
    patch=2,
    encode=encode,
    text_extra=dict.fromkeys(PIPELINES, "prompt_attention_mask"),
    # Embeddings come ready-made; binning would draw another size than the masks have, and crop.
    options={"clean_caption": False, "use_resolution_binning": False},
)
