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
from realignkit_plugins.micro.train.data import SCENE_SEEDS, scenes, to_tensor
from realignkit_plugins.micro.train.vae_256_data import Latents, prompts, to_pixels
from realignkit_plugins.micro.world import Scene, render

CHECKED = 128
"""Unseen scenes that it is measured on."""
SHOWN, COLUMNS = 24, 4
"""Pictures of the sheet, and how many stand in a row: each by the small decoder, enlarged, and by the large one."""
BATCH = 16


def psnr(made: torch.Tensor, true: torch.Tensor) -> float:
    """In dB, of images in [-1, 1]."""
    return round(float(-10 * torch.log10((made.clamp(-1, 1) - true).square().mean() / 4)), 2)


@torch.no_grad()
def judge(model: AutoencoderKL, latents: Latents, folder: Path) -> dict[str, float]:
    """Numbers of an autoencoder of large pictures, and ``folder/sheet.png``."""
    vae, scale, drawn = latents.pipeline.vae, latents.scaling, latents.validation.float()
    described = scenes(SCENE_SEEDS["check"], CHECKED)
    small, true = (_rendered(described, finer).to(drawn.device) for finer in (1, 4))
    z = vae.encode(small).latent_dist.mean
    encoded = torch.cat([model.encode(part).latent_dist.mean for part in true.split(BATCH)])
    decoded, there_and_back, after = (_decoded(model, each) for each in (z, encoded, drawn / scale))
    before = latents.decode(drawn)
    reduced = avg_pool2d(after, after.shape[-1] // before.shape[-1])
    _sheet(to_pixels(before[:SHOWN]), to_pixels(after[:SHOWN]), folder / "sheet.png")
    asked = prompts(len(drawn))
    right = {"before": _right(before, asked), "after": _right(reduced, asked)}
    return {
        "psnr_decoded": psnr(decoded, true),
        "psnr_encoded_and_decoded": psnr(there_and_back, true),
        "psnr_small": psnr(latents.decode(z * scale), small),
        "psnr_reduced_of_small_picture": psnr(avg_pool2d(decoded, 4), small),
        "latents_error": round(float(((encoded - z) * scale).square().mean().sqrt()), 4),
        "psnr_drawn_reduced": psnr(reduced, before),
        "right_before": round(float(right["before"].mean()), 4),
        "right_after": round(float(right["after"].mean()), 4),
        "right_changed": round(float((right["before"] != right["after"]).mean()), 4),
    }


def _rendered(described: Sequence[Scene], scale: int) -> torch.Tensor:
    return to_tensor(np.stack([render(each, scale).image for each in described])) * 2 - 1


def _decoded(model: AutoencoderKL, latents: torch.Tensor) -> torch.Tensor:
    return torch.cat([model.decode(part).sample.clamp(-1, 1) for part in latents.split(BATCH)])


def _right(images: torch.Tensor, asked: Sequence[str]) -> npt.NDArray[np.bool_]:
    detections = Oracle.load().detect([Image.fromarray(pixels) for pixels in to_pixels(images)])
    return np.array([fully_right(prompt, seen) for prompt, seen in zip(asked, detections, strict=True)])


def _sheet(small: npt.NDArray[np.uint8], large: npt.NDArray[np.uint8], path: Path) -> None:
    scale = large.shape[1] // small.shape[1]
    pairs = np.concatenate([small.repeat(scale, axis=1).repeat(scale, axis=2), large], axis=2)
    rows = [np.concatenate(list(pairs[start : start + COLUMNS]), axis=1) for start in range(0, len(pairs), COLUMNS)]
    missing = rows[0].shape[1] - rows[-1].shape[1]
    rows[-1] = np.pad(rows[-1], ((0, 0), (0, missing), (0, 0)))
    Image.fromarray(np.concatenate(rows)).save(path)
