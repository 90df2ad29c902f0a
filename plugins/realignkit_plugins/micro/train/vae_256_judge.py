"""How good the autoencoder of large pictures is, beside the small one: numbers, and a sheet to look at."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from diffusers import AutoencoderKL
from PIL import Image
from torch.nn.functional import avg_pool2d

from realignkit_plugins.micro.oracle import Oracle, fully_right
from realignkit_plugins.micro.train.vae_256_data import Latents, Pictures, to_images, to_pixels

SHOWN, COLUMNS = 24, 4
"""Pictures of the sheet, and how many stand in a row: each by the small decoder, enlarged, and by the large one."""


def psnr(made: torch.Tensor, true: torch.Tensor) -> float:
    """In dB, of images in [-1, 1]."""
    return round(float(-10 * torch.log10((made.clamp(-1, 1) - true).square().mean() / 4)), 2)


@torch.no_grad()
def judge(
    model: AutoencoderKL, latents: Latents, unseen: Pictures, told: Sequence[str], drawn: torch.Tensor, folder: Path
) -> dict[str, float]:
    """Numbers of a model, and ``folder/sheet.png``.

    Args:
        model: the autoencoder of large pictures.
        latents: with the small one.
        unseen: rendered scenes that it has not learned from.
        told, drawn: prompts and the latents of unit variance (B, 4, 16, 16) that the U-Net drew of them.
        folder: where the sheet goes.
    """
    device, scale = drawn.device, latents.scaling
    small, large = to_images(unseen.small, device), (to_images(part, device) for part in _parts(unseen.large))
    z = latents.vae.encode(small).latent_dist.mean
    rows = []
    for part, true in zip(z.split(32), large, strict=True):
        posterior = model.encode(true).latent_dist.mean
        rows.append((model.decode(part).sample, model.decode(posterior).sample, posterior, true))
    decoded, there_and_back, encoded, true = (torch.cat(column) for column in zip(*rows, strict=True))
    before = latents.decode(drawn)
    after = torch.cat([model.decode(part / scale).sample.clamp(-1, 1) for part in drawn.split(32)])
    reduced = avg_pool2d(after, after.shape[-1] // before.shape[-1])
    _sheet(to_pixels(before[:SHOWN]), to_pixels(after[:SHOWN]), folder / "sheet.png")
    right = {"before": _right(before, told), "after": _right(reduced, told)}
    return {
        "psnr_decoded": psnr(decoded, true),
        "psnr_encoded_and_decoded": psnr(there_and_back, true),
        "psnr_small": psnr(latents.decode(z * scale), small),
        "psnr_reduced_of_small_picture": psnr(avg_pool2d(decoded.clamp(-1, 1), 4), small),
        "latents_error": round(float(((encoded - z) * scale).square().mean().sqrt()), 4),
        "psnr_drawn_reduced": psnr(reduced, before),
        "right_before": round(float(right["before"].mean()), 4),
        "right_after": round(float(right["after"].mean()), 4),
        "right_changed": round(float((right["before"] != right["after"]).mean()), 4),
    }


def _parts(pixels: npt.NDArray[np.uint8]) -> list[npt.NDArray[np.uint8]]:
    return [pixels[start : start + 32] for start in range(0, len(pixels), 32)]


def _right(images: torch.Tensor, told: Sequence[str]) -> npt.NDArray[np.bool_]:
    detections = Oracle.load().detect([Image.fromarray(pixels) for pixels in to_pixels(images)])
    return np.array([fully_right(prompt, seen) for prompt, seen in zip(told, detections, strict=True)])


def _sheet(small: npt.NDArray[np.uint8], large: npt.NDArray[np.uint8], path: Path) -> None:
    scale = large.shape[1] // small.shape[1]
    pairs = np.concatenate([small.repeat(scale, axis=1).repeat(scale, axis=2), large], axis=2)
    rows = [np.concatenate(list(pairs[start : start + COLUMNS]), axis=1) for start in range(0, len(pairs), COLUMNS)]
    missing = rows[0].shape[1] - rows[-1].shape[1]
    rows[-1] = np.pad(rows[-1], ((0, 0), (0, missing), (0, 0)))
    Image.fromarray(np.concatenate(rows)).save(path)
