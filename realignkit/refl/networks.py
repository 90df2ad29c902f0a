"""A pipeline's networks as functions of tensors: read a prompt, predict noise, decode and encode images.

SD-1.x, SD-2.x and SDXL text-to-image pipelines; everything is differentiable unless its caller switches that off.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from realignkit.attention import spans
from realignkit.attention.sampler import attention_family
from realignkit.errors import ModelError
from realignkit.inputs import image_size
from realignkit.refl import losses

TEXT_ENCODERS = ("text_encoder", "text_encoder_2")
"""A pipeline's own names for them; SDXL has both."""


@dataclass(frozen=True, eq=False)
class Text:
    """What the U-Net reads: ``embeddings`` (B, K, C) and, for SDXL, ``pooled`` (B, P)."""

    embeddings: Tensor
    pooled: Tensor | None = None

    def beside(self, other: Text) -> Text:
        """Both, one after the other along the batch."""
        pooled = None if self.pooled is None or other.pooled is None else torch.cat([self.pooled, other.pooled])
        return Text(torch.cat([self.embeddings, other.embeddings]), pooled)


class Networks:
    """The networks of a pipeline, frozen, on its device, in the training's precision.

    Args:
        pipeline: SD-1.x/2.x or SDXL; it is changed: moved, frozen, cast.
        device: where to compute.
        precision: ``no``, ``fp16`` or ``bf16``.
        train_unet: the U-Net itself will learn, so it stays in float32 (and runs in ``precision`` all the same).
        train_text_encoder: so will the text encoders; :meth:`text` is differentiable then.

    Attributes:
        unet: what :meth:`predict` runs; may be exchanged.
        latent_shape: (C, h, w).
        kind: what the U-Net predicts: ``epsilon``, ``v_prediction`` or ``sample``.
        alphas_cumprod: ``abar`` by training timestep, float32 (T_train,).

    Raises:
        ModelError: another kind of pipeline.
    """

    def __init__(
        self,
        pipeline: Any,
        device: torch.device,
        precision: str,
        *,
        train_unet: bool = False,
        train_text_encoder: bool = False,
    ) -> None:
        if attention_family(pipeline) is None:
            raise ModelError(
                f"a {type(pipeline).__name__} cannot be fine-tuned here. Use a Stable Diffusion 1.x, 2.x or XL "
                f"text-to-image pipeline."
            )
        from diffusers import DDIMScheduler

        self.pipeline, self.device = pipeline, device
        self.dtype = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[precision]
        self._upcast_vae = self.dtype == torch.float16 and bool(getattr(pipeline.vae.config, "force_upcast", False))
        modules = {name: part for name, part in pipeline.components.items() if isinstance(part, torch.nn.Module)}
        for name, module in modules.items():
            keep = (name == "vae" and self._upcast_vae) or (name == "unet" and train_unet)
            keep = keep or (name in TEXT_ENCODERS and train_text_encoder)
            module.requires_grad_(False).eval()
            dtype = torch.float32 if keep else self.dtype
            if next(module.parameters()).dtype != dtype or next(module.parameters()).device != device:
                module.to(device, dtype)
        self.unet: Any = pipeline.unet
        self._learns_text = train_text_encoder
        size = image_size(pipeline)
        scale = pipeline.vae_scale_factor
        self.latent_shape = (int(self.unet.config.in_channels), size[1] // scale, size[0] // scale)
        self.kind = str(pipeline.scheduler.config.get("prediction_type", "epsilon"))
        schedule = DDIMScheduler.from_config(pipeline.scheduler.config)
        self.alphas_cumprod: Tensor = schedule.alphas_cumprod.to(device, torch.float32)
        self._texts: dict[str, tuple[Tensor, Tensor | None]] = {}

    @contextlib.contextmanager
    def autocast(self) -> Iterator[None]:
        """Half precision where the training uses it."""
        if self.dtype == torch.float32:
            yield
            return
        with torch.autocast(self.device.type, self.dtype):
            yield

    def alpha_bar(self, timesteps: Tensor) -> Tensor:
        """``abar`` of timesteps (B,) or (), shaped to multiply latents."""
        return self.alphas_cumprod[timesteps.long()].view(-1, 1, 1, 1)

    def text(self, prompts: Sequence[str]) -> Text:
        """Embeddings of prompts; the empty prompt is what guidance steers away from.

        Each is computed once and kept; where the text encoder learns, anew, with a gradient.
        """
        return self._live_text(prompts) if self._learns_text else self._kept_text(prompts)

    def _live_text(self, prompts: Sequence[str]) -> Text:
        with self.autocast():
            embeddings, pooled = spans.encode_texts(self.pipeline, list(prompts))
        if pooled is not None and getattr(self.pipeline.config, "force_zeros_for_empty_prompt", False):
            told = torch.tensor([bool(prompt) for prompt in prompts], device=pooled.device)
            embeddings, pooled = embeddings * told.view(-1, 1, 1), pooled * told.view(-1, 1)
        return Text(embeddings.to(self.device), None if pooled is None else pooled.to(self.device))

    @torch.no_grad()
    def _kept_text(self, prompts: Sequence[str]) -> Text:
        for prompt in prompts:
            if prompt not in self._texts:
                # One by one: rounding depends on what shares a batch, and a resumed run must not notice.
                embeddings, pooled = spans.encode(self.pipeline, [spans.Conditioning(prompt)])
                # As the pipeline does: SDXL was trained with zeros for the empty prompt.
                zero = bool(getattr(self.pipeline.config, "force_zeros_for_empty_prompt", False)) and pooled is not None
                factor = 0 if zero and not prompt else 1
                self._texts[prompt] = (
                    (embeddings[0] * factor).cpu(),
                    None if pooled is None else (pooled[0] * factor).cpu(),
                )
        found = [self._texts[prompt] for prompt in prompts]
        both = [[item[part] for item in found if item[part] is not None] for part in (0, 1)]
        stacked = [torch.stack(rows).to(self.device) if rows else None for rows in both]  # type: ignore[arg-type]
        assert stacked[0] is not None
        return Text(stacked[0], stacked[1])

    def predict(self, latents: Tensor, timestep: Tensor, text: Text) -> Tensor:
        """The U-Net's prediction for latents (B, C, h, w) at a timestep () or (B,); float32."""
        extra: dict[str, Any] = {}
        if text.pooled is not None:
            rows, columns = (side * self.pipeline.vae_scale_factor for side in self.latent_shape[1:])
            sizes = torch.tensor([[rows, columns, 0, 0, rows, columns]], device=self.device, dtype=text.pooled.dtype)
            extra["added_cond_kwargs"] = {"text_embeds": text.pooled, "time_ids": sizes.expand(len(latents), -1)}
        with self.autocast():
            prediction: Tensor = self.unet(
                latents, timestep, encoder_hidden_states=text.embeddings, return_dict=False, **extra
            )[0]
        return prediction.float()

    def guided(self, latents: Tensor, timestep: Tensor, text: Text, guidance_scale: float) -> tuple[Tensor, Tensor]:
        """The guided prediction and the conditional one, gradients flowing through both halves of the guidance."""
        if guidance_scale <= 1:
            prediction = self.predict(latents, timestep, text)
            return prediction, prediction
        empty = self.text([""] * len(latents))
        both = self.predict(torch.cat([latents, latents]), timestep, empty.beside(text))
        unconditional, conditional = both.chunk(2)
        return losses.guide(unconditional, conditional, guidance_scale), conditional

    def denoised(self, latents: Tensor, noise: Tensor, timestep: Tensor, text: Text) -> Tensor:
        """Clean latents that one prediction, without guidance, makes of ``latents`` (B, C, h, w) with noise added.

        What a network could not have drawn does not survive it (Nie et al., 2022: adversarial purification).
        """
        alpha_bar = self.alpha_bar(timestep)
        noisy = losses.add_noise(latents, noise, alpha_bar)
        return losses.predict_x0(noisy, self.predict(noisy, timestep, text), alpha_bar, self.kind)

    def decode(self, latents: Tensor) -> Tensor:
        """Images, float32 (B, 3, H, W) in [0, 1], of clean latents; differentiable."""
        shift, scale = self._latent_statistics(latents)
        with self._vae_precision() as dtype:
            images: Tensor = self.pipeline.vae.decode((latents * scale + shift).to(dtype), return_dict=False)[0]
        return (images.float() / 2 + 0.5).clamp(0, 1)

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Clean latents, float32, of images (B, 3, H, W) in [0, 1]: the posterior's mode."""
        with self._vae_precision() as dtype:
            pixels = (images.to(self.device) * 2 - 1).to(dtype)
            latents: Tensor = self.pipeline.vae.encode(pixels).latent_dist.mode().float()
        shift, scale = self._latent_statistics(latents)
        return (latents - shift) / scale

    def _latent_statistics(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """What to add to, and multiply with, normalised latents: ``raw = normalised * scale + shift``."""
        config = self.pipeline.vae.config
        mean, std = getattr(config, "latents_mean", None), getattr(config, "latents_std", None)
        if mean is None or std is None:
            return like.new_zeros(()), like.new_tensor(1 / config.scaling_factor)
        shape = (1, -1, 1, 1)
        return like.new_tensor(mean).view(shape), like.new_tensor(std).view(shape) / config.scaling_factor

    @contextlib.contextmanager
    def _vae_precision(self) -> Iterator[torch.dtype]:
        if self._upcast_vae:  # a decoder that overflows in half precision
            with torch.autocast(self.device.type, enabled=False):
                yield torch.float32
        else:
            with self.autocast():
                yield self.dtype
