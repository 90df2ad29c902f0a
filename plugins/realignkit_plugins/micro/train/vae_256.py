"""The autoencoder of large pictures: 256 x 256 x 3 images to the latents of the small one, 16 x 16 x 4, and back.

The base model's U-Net draws what the autoencoder of 64 x 64 pictures makes of a scene. This one learns the same latent
space for the scene drawn with four times as many pixels to a side, so that the U-Net need not learn again. It decodes
latents of three kinds:

- the small encoder's, and the same with a little noise: the picture is known;
- what the U-Net makes of those when they are noisy (its estimate of the clean ones): the picture is known, and the
  latents have the U-Net's faults;
- what the U-Net draws from pure noise: known is only what the small decoder makes of them, which the large picture
  must look like when it is reduced.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from torch import nn
from torch.nn.functional import avg_pool2d, l1_loss, mse_loss

from realignkit_plugins.micro.train.data import SCENE_SEEDS, Ahead, scenes
from realignkit_plugins.micro.train.loop import Schedule, console
from realignkit_plugins.micro.train.recipe import Recipe, save
from realignkit_plugins.micro.train.vae_256_data import Latents
from realignkit_plugins.micro.train.vae_256_judge import judge
from realignkit_plugins.micro.world import render

SCALE = 4
"""Pixels of a side for each of the small autoencoder's."""
SCENES, DRAWN, JUDGED = 3000, 1200, 400
"""Scenes and drawn latents to learn from; validation pictures."""
CRITICAL, DOUBT = 270, 0.4
"""Step from which a critic looks at pictures too; how much its gradient counts beside the others'."""


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
        shift_factor=0.0,
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


def build_critic() -> nn.Module:
    """Says of each 8 x 8 square of images (B, 3, 256, 256) whether it is of a rendering: above zero where it is."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 4, stride=2, padding=1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(16, 32, 4, stride=2, padding=1),
        nn.GroupNorm(8, 32),
        nn.LeakyReLU(0.2),
        nn.Conv2d(32, 64, 4, stride=2, padding=1),
        nn.GroupNorm(8, 64),
        nn.LeakyReLU(0.2),
        nn.Conv2d(64, 1, 3, padding=1),
    )


def critic_loss(critic: nn.Module, made: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
    """What the critic minimises, the hinge: renderings above 1, made pictures below -1."""
    return (1 - critic(true)).relu().mean() + (1 + critic(made.detach())).relu().mean()


def doubt_loss(critic: nn.Module, made: torch.Tensor, likeness: torch.Tensor) -> torch.Tensor:
    """What the critic finds wrong with made pictures; it is left as it is.

    Weighted so that its gradient with respect to them is :data:`DOUBT` times as large as another loss's (Esser et al.,
    *Taming Transformers*, 2021, at the pictures in place of the last layer).
    """
    fixed = {name: parameter.detach() for name, parameter in critic.named_parameters()}
    doubt = -torch.func.functional_call(critic, fixed, (made,)).mean()
    norms = [torch.autograd.grad(each, made, retain_graph=True)[0].norm() for each in (likeness, doubt)]
    return DOUBT * norms[0] / norms[1].clamp(min=1e-12) * doubt


class Lesson(NamedTuple):
    """Which scenes a step shows, int64 (B,), and their pictures, uint8 (B, 256, 256, 3)."""

    pick: npt.NDArray[np.int64]
    pixels: npt.NDArray[np.uint8]


class VAE256Recipe(Recipe):
    """Renderings and the U-Net's pictures; late in it, a critic that tells the second from the first.

    It goes on from the checkpoint that is there, if there is one, and then leaves that one's encoder as it is.
    """

    name = "vae_256"
    anywhere = True
    schedule = Schedule(
        steps=900, batch_size=4, learning_rate=1e-3, weight_decay=0.0, warmup=30, ema=0.99, cooldown=0.6
    )

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        device = torch.device(self.machine.device)
        pipeline = StableDiffusionPipeline.from_pretrained(self.out / "base").to(device, torch.float32)
        self.latents = Latents(pipeline, SCENES, DRAWN, JUDGED, self.work / self.name / "latents.safetensors")
        self.model, self.critic = build(), build_critic()
        self.encodes = not (self.out / self.name).is_dir()
        if not self.encodes:
            checkpoint = AutoencoderKL.from_pretrained(self.out / self.name)
            self.model.load_state_dict(checkpoint.float().state_dict())
        self.model.register_to_config(scaling_factor=self.latents.scaling)
        self.learner = nn.ModuleDict({"model": self.model, "critic": self.critic}).to(device)
        self.described = scenes(SCENE_SEEDS["vae"], SCENES)
        self.lessons = Ahead(self._lesson, self.machine.workers)

    def loss(self, step: int, generator: torch.Generator) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Of scenes decoded, and of a drawn picture for every four of them."""
        lesson, device = self.lessons.of(step), self.latents.known.device
        pick = torch.from_numpy(lesson.pick).to(device)
        true = torch.from_numpy(lesson.pixels).to(device).permute(0, 3, 1, 2).float().contiguous() / 127.5 - 1
        some = torch.randint(len(self.latents.drawn), (-(-len(pick) // 4),), generator=generator, device=device)
        latents = torch.cat([self._known(pick, generator), self.latents.drawn[some].float()])
        with torch.autocast(device.type, torch.bfloat16):
            made = self.model.decode(latents / self.latents.scaling).sample.float()
        scenes_made, drawn_made = made.split([len(pick), len(some)])
        parts = {
            "picture": picture_loss(scenes_made, true),
            "likeness": likeness_loss(drawn_made, self.latents.small[some].float()),
        }
        if step >= CRITICAL:
            with torch.autocast(device.type, torch.bfloat16):
                parts["doubt"] = doubt_loss(self.critic, made, _total(parts))
                parts["critic"] = critic_loss(self.critic, made, true)
        if self.encodes:
            parts["latents"] = self._encoding_loss(true[:1], pick[:1])
        error = mse_loss(scenes_made.detach().clamp(-1, 1), true)
        return _total(parts), {**parts, "psnr": -10 * torch.log10(error / 4)}

    def _encoding_loss(self, true: torch.Tensor, pick: torch.Tensor) -> torch.Tensor:
        """How far the encoder's latents of pictures are from the small one's."""
        with torch.autocast(true.device.type, torch.bfloat16):
            mean, logvar = self.model.quant_conv(self.model.encoder(true)).float().chunk(2, dim=1)
        aim = self.latents.known[pick, 0].float() / self.latents.scaling
        return mse_loss(mean, aim) + 0.01 * mse_loss(logvar, self.latents.logvar[pick].float())

    def _known(self, pick: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Latents (B, 4, 16, 16) of scenes: the encoder's with a little noise, or the U-Net's estimate."""
        device = pick.device
        version = torch.randint(2, pick.shape, generator=generator, device=device)
        z = self.latents.known[pick, version].float()
        much = 0.1 * torch.randn((len(pick), 1, 1, 1), generator=generator, device=device)
        noise = torch.randn(z.shape, generator=generator, device=device)
        return z + much * (version == 0)[:, None, None, None] * noise

    def _lesson(self, step: int) -> Lesson:
        pick = np.random.default_rng([self.seed, step]).integers(SCENES, size=self.schedule.batch_size)
        return Lesson(pick, np.stack([render(self.described[i], SCALE).image for i in pick]))

    def finish(self, folder: Path) -> None:
        """Save it, say how good it is, and leave numbers and a sheet of pictures with the log."""
        save(self.model, folder)
        report = judge(self.model.float(), self.latents, self.work / self.name)
        (self.work / self.name / "report.json").write_text(json.dumps(report, indent=2) + "\n")
        console.print(report)


def _total(parts: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.stack(list(parts.values())).sum()
