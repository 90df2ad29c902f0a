"""The autoencoder: 64 x 64 x 3 images to 16 x 16 x 4 latents (AutoencoderKL)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import nn
from torch.nn.functional import l1_loss, mse_loss

from realignkit_plugins.micro.train.data import SCENE_SEEDS, images, to_tensor
from realignkit_plugins.micro.train.loop import Schedule, console
from realignkit_plugins.micro.train.recipe import Recipe

CROP = 32


def build() -> AutoencoderKL:
    """A fresh model, f4 with 4 latent channels, no attention: convolutions carry over from crops to images."""
    model = AutoencoderKL(
        block_out_channels=(16, 32, 64),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        mid_block_add_attention=False,
        sample_size=64,
    )
    for name, parameter in model.named_parameters():
        # Residual branches start at zero: the network begins as a plain chain of convolutions, and learns faster.
        if ".conv2." in name:
            nn.init.zeros_(parameter)
    return model


class VAERecipe(Recipe):
    """Random crops with L1 + L2 + gradient loss and a little KL."""

    name = "vae"
    schedule = Schedule(steps=1700, batch_size=32, learning_rate=6e-3, weight_decay=0.0, warmup=50, ema=0.99)

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.model = self.learner = build().to(memory_format=torch.channels_last)
        self.pixels = images(SCENE_SEEDS["vae"], 8000)

    def loss(self, step: int, generator: torch.Generator) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Of two random windows an image: cheaper than whole images, and as informative for convolutions."""
        pick = torch.randint(len(self.pixels), (self.schedule.batch_size,), generator=generator)
        top, left = (int(torch.randint(0, 64 - CROP + 1, (1,), generator=generator)) for _ in range(2))
        x = to_tensor(self.pixels[pick.numpy(), top : top + CROP, left : left + CROP]) * 2 - 1
        x = x.contiguous(memory_format=torch.channels_last)
        posterior = self.model.encode(x).latent_dist
        y = self.model.decode(posterior.sample(generator)).sample
        error = mse_loss(y, x)
        edges = sum(l1_loss(y.diff(dim=axis), x.diff(dim=axis)) for axis in (2, 3))
        kl = posterior.kl().mean() / posterior.mean[0].numel()
        value = l1_loss(y, x) + error + 0.5 * edges + 5e-4 * kl
        return value, {"psnr": -10 * torch.log10(error.detach() / 4), "kl": kl}

    def finish(self, folder: Path) -> None:
        """Say how well unseen images come back, and how large latents are."""
        check = to_tensor(images(SCENE_SEEDS["check"], 256)) * 2 - 1
        with torch.no_grad():
            latents = self.model.encode(check).latent_dist.mean
            error = mse_loss(self.model.decode(latents).sample.clamp(-1, 1), check)
        # The pipeline divides by this, so that the U-Net sees latents of unit variance.
        self.model.register_to_config(scaling_factor=round(float(1 / latents.std()), 4))
        psnr = float(-10 * torch.log10(error / 4))
        console.print(f"PSNR on unseen images: {psnr:.1f} dB; latents std {float(latents.std()):.3f}")
        self.model.to(memory_format=torch.contiguous_format).save_pretrained(folder)
