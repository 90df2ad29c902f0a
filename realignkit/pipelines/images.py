"""Between images and clean latents: the one way that training, its pictures and its validation take."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from realignkit.attention.drawing import check_finite


class Autoencoder:
    """A pipeline's VAE, in the precision in which it does not overflow.

    Args:
        vae: ``AutoencoderKL`` or ``AutoencoderTiny``, on its device.
        dtype: of the training; the VAE runs in it.
        upcast: the VAE is kept, and runs, in float32 all the same.
    """

    def __init__(self, vae: Any, dtype: torch.dtype, *, upcast: bool) -> None:
        self.vae, self.dtype, self.upcast = vae, dtype, upcast
        # The pipeline's own pictures come this way too, whatever precision or autocast they are drawn in.
        vae.decode = self._decode_for_pipeline

    def decode(self, latents: Tensor) -> Tensor:
        """Images, float32 (B, 3, H, W) in [0, 1], of clean latents; differentiable.

        Raises:
            ModelError: the decoder computed NaN or infinity.
        """
        shift, scale = self._latent_statistics(latents)
        return (self.decode_raw(latents * scale + shift).float() / 2 + 0.5).clamp(0, 1)

    def decode_raw(self, raw: Tensor) -> Tensor:
        """What the network itself makes of latents as it knows them, in about [-1, 1].

        Raises:
            ModelError: see :meth:`decode`.
        """
        with self._precision() as dtype:
            images: Tensor = type(self.vae).decode(self.vae, raw.to(dtype), return_dict=False)[0]
        check_finite(images, "in the image decoder")
        return images

    def _decode_for_pipeline(self, raw: Tensor, return_dict: bool = True, **_: Any) -> Any:
        from diffusers.models.autoencoders.vae import DecoderOutput

        images = self.decode_raw(raw)
        return DecoderOutput(sample=images) if return_dict else (images,)

    def give_back(self) -> None:
        """Leave the VAE as other networks of its pipeline are, which then decodes by itself again."""
        vars(self.vae).pop("decode", None)
        if self.upcast:
            place(self.vae, next(self.vae.parameters()).device, self.dtype)

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Clean latents, float32, of images (B, 3, H, W) in [0, 1]: the posterior's mode.

        Raises:
            ModelError: the encoder computed NaN or infinity.
        """
        weight = next(self.vae.parameters())
        with self._precision() as dtype:
            found = self.vae.encode((images.to(weight.device) * 2 - 1).to(dtype))
        latents: Tensor = (found.latent_dist.mode() if hasattr(found, "latent_dist") else found.latents).float()
        check_finite(latents, "in the image encoder")
        shift, scale = self._latent_statistics(latents)
        return (latents - shift) / scale

    def _latent_statistics(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """What to add to, and multiply with, normalised latents: ``raw = normalised * scale + shift``."""
        config = self.vae.config
        mean, std = getattr(config, "latents_mean", None), getattr(config, "latents_std", None)
        if mean is None or std is None:
            return like.new_zeros(()), like.new_tensor(1 / config.scaling_factor)
        shape = (1, -1, 1, 1)
        return like.new_tensor(mean).view(shape), like.new_tensor(std).view(shape) / config.scaling_factor

    @contextlib.contextmanager
    def _precision(self) -> Iterator[torch.dtype]:
        device = next(self.vae.parameters()).device.type
        half = self.dtype != torch.float32 and not self.upcast
        with torch.autocast(device, self.dtype if half else None, enabled=half):
            yield self.dtype if half else torch.float32


def place(module: Any, device: torch.device, dtype: torch.dtype) -> None:
    """Move a network and cast its weights; those that its class keeps in float32 (T5's ``wo``, say) are float32."""
    keep = set(getattr(module, "_keep_in_fp32_modules", None) or ())
    torch.nn.Module.to(module, device)
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if tensor.is_floating_point():
            tensor.data = tensor.data.to(torch.float32 if keep.intersection(name.split(".")) else dtype)
