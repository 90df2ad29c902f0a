"""How each family's network is called with what the trainer has: latents (B, C, h, w), and texts as embeddings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from realignkit.pipelines import families


class Conditioning(NamedTuple):
    """What a network is told beside the latents.

    Attributes:
        timestep: () or (B,), as the scheduler counts.
        embeddings: of the texts, (B, K, C).
        pooled: of the texts, (B, P); None where the model has none.
        image_size: (width, height) in pixels.
        guidance: the scale, where the model was distilled from guided predictions.
    """

    timestep: Tensor
    embeddings: Tensor
    pooled: Tensor | None
    image_size: tuple[int, int]
    guidance: float


def unet(network: Any, latents: Tensor, given: Conditioning) -> Tensor:
    """Stable Diffusion 1.x, 2.x and XL, which is told sizes too."""
    extra: dict[str, Any] = {}
    if given.pooled is not None:
        columns, rows = given.image_size
        sizes = torch.tensor([[rows, columns, 0, 0, rows, columns]], device=latents.device, dtype=given.pooled.dtype)
        extra["added_cond_kwargs"] = {"text_embeds": given.pooled, "time_ids": sizes.expand(len(latents), -1)}
    prediction: Tensor = network(
        latents, timestep=given.timestep, encoder_hidden_states=given.embeddings, return_dict=False, **extra
    )[0]
    return prediction


def sd3(network: Any, latents: Tensor, given: Conditioning) -> Tensor:
    """Stable Diffusion 3."""
    prediction: Tensor = network(
        latents,
        timestep=given.timestep.expand(len(latents)),
        encoder_hidden_states=given.embeddings,
        return_dict=False,
        pooled_projections=given.pooled,
    )[0]
    return prediction


def flux(network: Any, latents: Tensor, given: Conditioning) -> Tensor:
    """FLUX.1: latents are packed, the timestep is a share, and FLUX.1-dev is told the guidance scale."""
    from diffusers import FluxPipeline

    count, channels, height, width = latents.shape
    like: dict[str, Any] = {"device": latents.device, "dtype": given.embeddings.dtype}
    guidance = torch.full((count,), given.guidance, device=latents.device) if network.config.guidance_embeds else None
    packed = network(
        FluxPipeline._pack_latents(latents, count, channels, height, width),
        timestep=given.timestep.expand(count) / 1000,
        guidance=guidance,
        encoder_hidden_states=given.embeddings,
        pooled_projections=given.pooled,
        txt_ids=torch.zeros(given.embeddings.shape[1], 3, **like),
        img_ids=FluxPipeline._prepare_latent_image_ids(count, height // 2, width // 2, **like),
        return_dict=False,
    )[0]
    prediction: Tensor = FluxPipeline._unpack_latents(packed, height, width, 1)
    return prediction


@dataclass(frozen=True)
class Denoiser:
    """One family's network.

    Attributes:
        predict: its prediction for latents (B, C, h, w).
        packed: pixels of the latents that make one of its tokens' channels.
        distilled: whether it is told the guidance scale, or knows none, so that nothing else guides it.
    """

    predict: Callable[[Any, Tensor, Conditioning], Tensor]
    packed: int = 1
    distilled: bool = False


DENOISERS = {
    families.UNET: Denoiser(unet),
    families.SD3: Denoiser(sd3),
    families.FLUX: Denoiser(flux, packed=4, distilled=True),
}
"""Of the families that can learn."""
