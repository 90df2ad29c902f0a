"""The autoencoder of large pictures: 256 x 256 x 3 images to the latents of the small one, 16 x 16 x 4, and back.

The base model's U-Net draws what the autoencoder of 64 x 64 pictures makes of a scene. This one learns the same latent
space for the scene drawn with four times as many pixels to a side, so that the U-Net need not learn again. It decodes
latents of three kinds:

- the small encoder's, and the same with a little noise: the picture is known;
- what the U-Net makes of those when they are noisy (its estimate of the clean ones): the picture is known, and the
  latents have the U-Net's faults;
- what the U-Net draws from pure noise: known is only what the small decoder makes of them, which the large picture
  must look like when it is reduced.

``python -m realignkit_plugins.micro.train.vae_256 OUT --device cuda`` takes a number of minutes, not of steps.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from diffusers import AutoencoderKL
from torch import nn
from torch.nn.functional import avg_pool2d, l1_loss, mse_loss

from realignkit_plugins.micro.train.data import SCENE_SEEDS
from realignkit_plugins.micro.train.loop import console
from realignkit_plugins.micro.train.muon import orthogonalise
from realignkit_plugins.micro.train.vae_256_data import Latents, Pictures, captions, draw, prompts
from realignkit_plugins.micro.train.vae_256_judge import judge

SCALE = 4
"""Pixels of a side for each of the small autoencoder's."""
RENDERED, ENCODED, DRAWN = 48, 32, 24
"""Pictures of a step: whose latents are decoded, the first of them encoded too; and latents that the U-Net drew."""
LEARNING_RATE, WARMUP, COOLDOWN, EMA, CLIP = 4e-3, 100, 0.6, 0.998, 1.0
"""Cooldown: the last share of the time, in which the rate falls to zero."""
OUTSIDE = 40
"""Seconds of the whole time that are kept for judging and saving."""


def build() -> AutoencoderKL:
    """A fresh model, f16 with 4 latent channels: little width where pixels are many, most of it at 16 x 16."""
    model = AutoencoderKL(
        block_out_channels=(16, 16, 32, 64, 128),
        down_block_types=("DownEncoderBlock2D",) * 5,
        up_block_types=("UpDecoderBlock2D",) * 5,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        mid_block_add_attention=False,
        sample_size=256,
    )
    for name, parameter in model.named_parameters():
        if ".conv2." in name:
            nn.init.zeros_(parameter)
    return model


def picture_loss(made: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
    """L1 and L2 of pixels, and L1 of edges at full, half and quarter size; images (B, 3, H, W)."""
    value = l1_loss(made, true) + mse_loss(made, true)
    for octave in range(3):
        if octave:
            made, true = avg_pool2d(made, 2), avg_pool2d(true, 2)
        value = value + 0.5 * sum(l1_loss(made.diff(dim=axis), true.diff(dim=axis)) for axis in (2, 3))
    return value


def likeness_loss(made: torch.Tensor, small: torch.Tensor) -> torch.Tensor:
    """How far a large picture, reduced, is from what the small decoder draws.

    That draws edges softer than they are; so it counts most at half its size.
    """
    reduced = avg_pool2d(made, SCALE)
    halves = avg_pool2d(reduced, 2), avg_pool2d(small, 2)
    return l1_loss(*halves) + mse_loss(*halves) + 0.25 * (l1_loss(reduced, small) + mse_loss(reduced, small))


class StackedMuon:
    """Muon for a model of convolutions on a GPU, where many small operations take longer than a few large ones.

    Weights of one shape are updated together; there is no weight decay.
    """

    def __init__(self, model: nn.Module, momentum: float = 0.95, betas: tuple[float, float] = (0.9, 0.98)) -> None:
        self._momentum = momentum
        shapes: dict[torch.Size, list[torch.Tensor]] = {}
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                shapes.setdefault(parameter.shape, []).append(parameter)
        self._stacks = list(shapes.values())
        self._velocities = [torch.zeros_like(torch.stack(list(stack)).flatten(2)) for stack in self._stacks]
        vectors = [parameter for parameter in model.parameters() if parameter.ndim < 2]
        self._adam = torch.optim.AdamW(vectors, betas=betas, weight_decay=0.0, foreach=True)

    def zero_grad(self) -> None:
        """Forget the gradients."""
        self._adam.zero_grad()
        for stack in self._stacks:
            for parameter in stack:
                parameter.grad = None

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """Update every parameter, all of which have a gradient."""
        self._adam.param_groups[0]["lr"] = lr
        self._adam.step()
        for stack, velocity in zip(self._stacks, self._velocities, strict=True):
            gradient = torch.stack([parameter.grad for parameter in stack]).flatten(2)  # type: ignore[misc]
            nesterov = gradient.lerp(velocity.lerp_(gradient, 1 - self._momentum), self._momentum)
            update = torch.vmap(orthogonalise)(nesterov) * (0.2 * max(nesterov.shape[1:]) ** 0.5)
            torch._foreach_add_(stack, list(update.view(len(stack), *stack[0].shape).unbind()), alpha=-lr)


class Training:
    """The model, what it learns from, and its loss.

    Args:
        pictures: scenes as pictures, being rendered.
        latents: theirs, and those that the U-Net drew.
        device: where to train.
    """

    def __init__(self, pictures: Pictures, latents: Latents, device: torch.device) -> None:
        torch.manual_seed(0)
        self.device, self.latents = device, latents
        self.large = torch.from_numpy(pictures.large).to(device)
        self.model = build().to(device)
        self.model.register_to_config(scaling_factor=latents.scaling)
        self.average = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
        self.optimizer = StackedMuon(self.model)
        self.layout = torch.contiguous_format

    def loss(self) -> dict[str, torch.Tensor]:
        """Of a random batch: ``picture``, ``likeness`` and ``latents``, whose sum is to be small."""
        known, drawn = self.latents.known, self.latents.drawn
        pick = torch.randint(len(self.large), (RENDERED,), device=self.device)
        true = self.large[pick].permute(0, 3, 1, 2).float().contiguous(memory_format=self.layout) / 127.5 - 1
        version = torch.randint(known.shape[1], (RENDERED,), device=self.device)
        z = known[pick, version].float()
        noise = torch.randn((RENDERED, 1, 1, 1), device=self.device) * 0.1
        z = z + noise * (version == 0)[:, None, None, None] * torch.randn_like(z)
        some = torch.randint(len(drawn), (DRAWN,), device=self.device)
        with torch.autocast(self.device.type, torch.bfloat16):
            made = self.decode(torch.cat([z, drawn[some].float()])).float()
            moments = self.model.quant_conv(self.model.encoder(true[:ENCODED])).float()
        mean, logvar = moments.chunk(2, dim=1)
        aim = known[pick[:ENCODED], 0].float() / self.latents.scaling
        spread = mse_loss(logvar, self.latents.logvar[pick[:ENCODED]].float())
        return {
            "picture": picture_loss(made[:RENDERED], true),
            "likeness": likeness_loss(made[RENDERED:], self.latents.small[some].float()),
            "latents": mse_loss(mean, aim) + 0.01 * spread,
        }

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        """Images (B, 3, 256, 256) in about [-1, 1] of latents of unit variance."""
        return self.model.decode(z / self.latents.scaling).sample

    def learn(self, step: int, progress: float) -> dict[str, torch.Tensor]:
        """One step, at this share of the time."""
        parts = self.loss()
        sum(parts.values()).backward()  # type: ignore[union-attr]
        parts["norm"] = nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
        rate = LEARNING_RATE * min((step + 1) / WARMUP, max(0.0, 1 - progress) / COOLDOWN, 1.0)
        self.optimizer.step(rate)
        self.optimizer.zero_grad()
        mine = list(self.average.values())
        torch._foreach_lerp_(mine, list(self.model.state_dict().values()), 1 - min(EMA, (step + 1) / (step + 10)))
        return parts

    def averaged(self) -> AutoencoderKL:
        """A model with the moving average of the weights, in their half precision."""
        model = build()
        model.register_to_config(scaling_factor=self.latents.scaling)
        model.load_state_dict({name: tensor.half().float() for name, tensor in self.average.items()})
        return model.to(self.device).eval()

    def fit(self, until: float, folder: Path) -> None:
        """Train until a time of ``time.monotonic``; a checkpoint is left in the folder now and then."""
        self._choose_format()
        began = saved = time.monotonic()
        step = 0
        while (now := time.monotonic()) < until:
            parts = self.learn(step, (now - began) / (until - began))
            if step % 50 == 0:
                shown = "  ".join(f"{name} {float(value.detach()):.4f}" for name, value in parts.items())
                if not all(math.isfinite(value) for value in parts.values()):
                    raise RuntimeError(f"step {step}: {shown}")
                console.print(f"step {step}  {(step + 1) / (time.monotonic() - began):.1f}/s  {shown}")
            if now - saved > 100:
                save(self.averaged(), folder)
                saved = now
            step += 1
        console.print(f"{step} steps in {time.monotonic() - began:.0f} s")

    def _choose_format(self) -> None:
        """The memory format in which steps are faster on this device."""
        if self.device.type == "cpu":
            return
        seconds = {}
        for self.layout in (torch.contiguous_format, torch.channels_last):
            self.model.to(memory_format=self.layout)
            for step in range(12):
                if step == 4:
                    torch.cuda.synchronize()
                    began = time.monotonic()
                sum(self.loss().values()).backward()  # type: ignore[union-attr]
                self.optimizer.zero_grad()
            torch.cuda.synchronize()
            seconds[self.layout] = (time.monotonic() - began) / 8
        self.layout = min(seconds, key=seconds.__getitem__)
        self.model.to(memory_format=self.layout)
        torch.cuda.empty_cache()
        console.print(f"seconds a step: {seconds}; {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB")


def save(model: AutoencoderKL, folder: Path) -> None:
    """Write it in half precision."""
    copy = build()
    copy.register_to_config(scaling_factor=model.config.scaling_factor)
    copy.load_state_dict(model.state_dict())
    copy.half().save_pretrained(folder, safe_serialization=True)


def main(
    out: Annotated[Path, typer.Argument(help="Folder for vae_256.zip.")],
    minutes: Annotated[float, typer.Option(help="For everything: rendering, training, judging.")] = 8.0,
    device: Annotated[str, typer.Option(help="torch's name of it.")] = "cpu",
    scenes: Annotated[int, typer.Option(help="To learn from.")] = 24_000,
    drawn: Annotated[int, typer.Option(help="Latents that the U-Net draws.")] = 6_000,
    judged: Annotated[int, typer.Option(help="Validation pictures.")] = 400,
    processes: Annotated[int, typer.Option(help="That render.")] = 4,
) -> None:
    """Train the autoencoder of large pictures, measure it, and pack it with a sheet of pictures."""
    until = time.monotonic() + minutes * 60 - min(OUTSIDE, minutes * 30)
    place = torch.device(device)
    if place.type == "cuda":
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.benchmark = True
    # Before anything runs on the device: processes that are forked must not have touched it.
    described = captions(SCENE_SEEDS["vae_256"], drawn, processes)
    pictures = Pictures(SCENE_SEEDS["vae"], scenes, SCALE, processes)
    unseen = Pictures(SCENE_SEEDS["check"], min(256, scenes), SCALE, 1)
    latents = Latents.made(place, described)
    told = prompts("validation", judged)
    validation = draw(latents.pipeline, told, "base", seed=7)
    pictures.wait()
    unseen.wait()
    latents.encode(pictures)
    work = out / "vae_256"
    training = Training(pictures, latents, place)
    training.fit(until, work)
    model = training.averaged()
    save(model, work)
    report = judge(model, latents, unseen, told, validation, work)
    (work / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    console.print(report)
    np.save(work / "validation.npy", validation.half().cpu().numpy())
    (work / "validation.json").write_text(json.dumps(told, indent=0) + "\n")
    shutil.make_archive(str(out / "vae_256"), "zip", work)
    shutil.rmtree(work)


if __name__ == "__main__":
    typer.run(main)
