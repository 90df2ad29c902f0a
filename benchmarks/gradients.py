"""How much of a reward's gradient is about the prompt? Why eq. 5 alone teaches the embedded model so little.

    python benchmarks/gradients.py            # about eight minutes on one core
    python benchmarks/gradients.py --smoke    # a minute; checks that it runs

A gradient is compared with what *true captions* teach: the denoising loss (eq. 3) of scenes of the embedded world under
their own caption, less that under the caption with its two colours swapped. Learning from true captions raises "fully
right" by 17 points (docs/explanation/reward-gradients.md), so this direction is known to be worth following. The
reward's gradients are those of eq. 5 at the jump: of ``relu(margin - R)`` for the embedded model's own pictures, noised
to a step and denoised with guidance 7.5.

For the text encoder, the cross-attention and the rest of the U-Net, two shares of the power (squared norm) of one
batch's gradient, averaged over batches, from products of *different* batches, which chance does not add to:

- common: what all batches agree on, whatever it is;
- useful: what points the way that true captions teach; negative when it points away.

95 % intervals by bootstrap over batches, the length of what is taught held fixed. Prints Markdown and writes
``benchmarks/results/gradients.md``.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from rich.progress import track
from torch import Tensor

from realignkit.calls import rewards_of
from realignkit.files import atomic_write
from realignkit.named import Named
from realignkit.refl import losses
from realignkit.refl.model import Networks
from realignkit.refl.rollout import Rollout
from realignkit.registry import default_registry
from realignkit_plugins.micro.oracle import expected
from realignkit_plugins.micro.prompts import WorldPrompts
from realignkit_plugins.micro.world.scenes import render, sample_scene
from realignkit_plugins.micro.world.vocabulary import article

RESULTS = Path(__file__).parent / "results"
GUIDANCE, STEPS = 7.5, 25
REWARDS: dict[str, tuple[str, dict[str, str], float, bool]] = {
    "caption, likelihood": ("micro_caption", {"estimator": "likelihood"}, -0.75, False),
    "caption, likelihood, less the swapped prompt's": ("micro_caption", {"estimator": "likelihood"}, 0.4, True),
    "ImageReward": ("micro_image_reward", {}, 0.5, False),
    "CLIP": ("micro_clip", {}, 0.8, False),
    "BLIP, ITM": ("micro_blip", {}, 0.99, False),
}
"""Name -> plugin, its options, margin, and whether the colour-swapped prompt's reward is taken off."""
TIMES = {"early steps (600 to 950)": (600, 950), "late steps (50 to 400)": (50, 400)}


def say(*things: str) -> str:
    """A prompt for colours and nouns in turn."""
    return " and ".join(f"{article(c)} {c} {n}" for c, n in zip(things[::2], things[1::2], strict=True))


def swapped(prompt: str) -> str:
    """The prompt with each other's colours: "a red car and a blue dog" -> "a blue car and a red dog"."""
    (noun, first, _), (other, second, _) = expected(prompt)
    return say(second, noun, first, other)


def cells_of(batches: dict[str, Tensor], teacher: dict[str, Tensor], draws: int) -> dict[str, list[str]]:
    """Per part of the model: the common share and the useful one, in per cent with their 95 % intervals.

    Args:
        batches: gradients per part, (B, parameters).
        teacher: what true captions teach, likewise (T, parameters).
        draws: of the bootstrap.
    """
    cells = {}
    for part, rows in batches.items():
        lessons, rng = teacher[part], np.random.default_rng(0)
        own, cross, taught = (
            (a @ b.T).double().numpy() for a, b in ((rows, rows), (rows, lessons), (lessons, lessons))
        )
        known = between(taught, np.arange(len(taught)))
        estimates = [shares(own, cross, known, np.arange(len(rows)), np.arange(len(taught)))]
        for _ in range(draws):
            picks = [rng.integers(n, size=n) for n in (len(rows), len(taught))]
            estimates.append(shares(own, cross, known, *picks))
        low, high = np.nanpercentile(estimates[1:], [2.5, 97.5], axis=0)
        cells[part] = [
            f"{100 * value:.2f} [{100 * a:.2f}, {100 * b:.2f}]" if np.isfinite(value) else "unknown"
            for value, a, b in zip(estimates[0], low, high, strict=True)
        ]
    return cells


def between(gram: np.ndarray, picks: np.ndarray) -> float:
    """The mean product of two different batches, an unbiased estimate of the squared norm of their expectation.

    A batch that was drawn twice is no second batch: its products with itself are left out.
    """
    apart = picks[:, None] != picks[None, :]
    return float(gram[np.ix_(picks, picks)][apart].mean()) if apart.any() else float("nan")


def shares(own: np.ndarray, cross: np.ndarray, taught: float, i: np.ndarray, j: np.ndarray) -> tuple[float, float]:
    """Common and useful share of a batch's power; the latter NaN where the teacher's batches do not agree.

    Args:
        own: products of batches (B, B).
        cross: products with the teacher's batches (B, T).
        taught: squared norm of the teacher's expectation.
        i: own batches to use.
        j: the teacher's.
    """
    power, along = float(np.diag(own)[i].mean()), float(cross[np.ix_(i, j)].mean())
    useful = np.sign(along) * along**2 / (power * taught) if taught > 0 else float("nan")
    return between(own, i) / power, useful


class Measurement:
    """The embedded model with gradients in U-Net and text encoder."""

    def __init__(self, seed: int) -> None:
        self.pipeline = default_registry().create("generator", "micro").pipeline()
        self.networks = Networks(self.pipeline, torch.device("cpu"), "no", learns=("unet", "text_encoder"))
        self.parameters: list[Tensor] = []
        self.parts: dict[str, list[int]] = {"text encoder": [], "cross-attention": [], "rest of the U-Net": []}
        for module, of_text in ((self.pipeline.text_encoder, True), (self.pipeline.unet, False)):
            for name, parameter in module.requires_grad_(True).named_parameters():
                part = "text encoder" if of_text else "cross-attention" if "attn2" in name else "rest of the U-Net"
                self.parts[part].append(len(self.parameters))
                self.parameters.append(parameter)
        self.rng, self.generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)

    def gradient(self, loss: Tensor) -> dict[str, Tensor]:
        """Of all parameters, flat, per part."""
        found = torch.autograd.grad(loss, self.parameters, allow_unused=True)
        zeros = [torch.zeros_like(p) if g is None else g for p, g in zip(self.parameters, found, strict=True)]
        return {part: torch.cat([zeros[i].flatten() for i in at]) for part, at in self.parts.items()}

    def noised(self, clean: Tensor, low: int, high: int) -> tuple[Tensor, Tensor, Tensor]:
        """Latents at random timesteps in [low, high), the noise, the timesteps."""
        timesteps = torch.from_numpy(self.rng.integers(low, high, len(clean)))
        noise = torch.randn(clean.shape, generator=self.generator)
        return losses.add_noise(clean, noise, self.networks.noise.level(timesteps)), noise, timesteps

    def taught(self, count: int) -> dict[str, Tensor]:
        """What ``count`` scenes' true captions teach, against swapped ones."""
        images, captions = [], []
        while len(images) < count:
            scene = sample_scene(np.random.default_rng([9300, int(self.rng.integers(2**31))]), "train", 2)
            first, second = scene.things[:2]
            if first.colour != second.colour and first.noun != second.noun:
                images.append(render(scene).image)
                captions.append(say(first.colour, first.noun, second.colour, second.noun))
        clean = self.networks.encode(torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255)
        noisy, noise, timesteps = self.noised(clean, 0, self.networks.noise.timesteps)
        text = self.networks.text([*captions, *map(swapped, captions)])
        prediction = self.networks.predict(torch.cat([noisy, noisy]), torch.cat([timesteps, timesteps]), text)
        true, wrong = (prediction - torch.cat([noise, noise])).square().mean((1, 2, 3)).chunk(2)
        return self.gradient((true - wrong).mean())

    @torch.no_grad()
    def drawn(self, prompts: Sequence[str]) -> Tensor:
        """Clean latents of the model's own pictures."""
        rollout, parts = Rollout(self.networks, "ddim", STEPS, GUIDANCE), []
        for start in track(range(0, len(prompts), 32), description="own pictures"):
            part = prompts[start : start + 32]
            noise = torch.randn((len(part), *self.networks.latent_shape), generator=self.generator)
            parts.append(rollout.sample(noise, self.networks.text(part)))
        return torch.cat(parts)

    def eq5(
        self, reward: Callable[[Tensor, list[str]], Tensor], margin: float, clean: Tensor, prompts: list[str],
        times: tuple[int, int],
    ) -> dict[str, Tensor]:  # fmt: skip
        """The gradient of eq. 5's reward term at the jump, for own pictures noised to steps of ``times``."""
        noisy, _, timesteps = self.noised(clean, *times)
        text = self.networks.text([""] * len(noisy)).followed_by(self.networks.text(prompts))
        both = self.networks.predict(torch.cat([noisy, noisy]), torch.cat([timesteps, timesteps]), text)
        prediction = losses.guide(*both.chunk(2), GUIDANCE)
        jump = losses.predict_x0(noisy, prediction, self.networks.noise.level(timesteps), self.networks.noise.kind)
        return self.gradient(losses.phi(reward(self.networks.decode(jump), prompts), margin).mean())


def _stack(batches: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {part: torch.stack([batch[part] for batch in batches]) for part in batches[0]}


def _reward(plugin: str, options: dict[str, str], contrast: bool) -> Callable[[Tensor, list[str]], Tensor]:
    made = Named("reward", plugin, default_registry().create("reward", plugin, **options))

    def rate(images: Tensor, prompts: list[str]) -> Tensor:
        if not contrast:
            return rewards_of(made, images, prompts, gradient=True)
        asked = [*prompts, *map(swapped, prompts)]
        own, other = rewards_of(made, torch.cat([images, images]), asked, gradient=True).chunk(2)
        return own - other

    return rate


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, default=16)
    parser.add_argument(
        "--size", type=int, default=32, help="pictures in a batch of own ones, and half a batch of scenes"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--smoke", action="store_true")
    arguments = parser.parse_args()
    batches, size = (3, 2) if arguments.smoke else (arguments.batches, arguments.size)
    rewards = dict(list(REWARDS.items())[:2]) if arguments.smoke else REWARDS
    measurement = Measurement(arguments.seed)
    listed = WorldPrompts(purpose="train", objects=2, size=4 * batches * size)
    prompts = [prompt for prompt in listed if len({colour for _, colour, _ in expected(prompt)}) == 2]
    prompts = prompts[: batches * size]
    taught = _stack([measurement.taught(2 * size) for _ in track(range(2 * batches), description="true captions")])
    own = measurement.drawn(prompts)
    parts = list(measurement.parts)
    draws = 50 if arguments.smoke else 1000
    lines = [
        f"{batches} batches of {size} own pictures, {2 * batches} of {2 * size} scenes, seed {arguments.seed}; per "
        "cent of a batch's power [95 %].",
        "",
        "| gradient | " + " | ".join(f"{part}: common | useful" for part in parts) + " |",
        "| --- |" + " --- |" * (2 * len(parts)),
    ]

    def row(name: str, cells: dict[str, list[str]]) -> None:
        lines.append(f"| {name} | " + " | ".join(cell for part in parts for cell in cells[part]) + " |")
        print(lines[-1], flush=True)

    # Half of the teacher's batches against the other half: what a batch of the same kind would show.
    halves = [{part: rows[start::2] for part, rows in taught.items()} for start in (0, 1)]
    row("true captions themselves", cells_of(halves[0], halves[1], draws))
    for name, (plugin, options, margin, contrast) in rewards.items():
        reward = _reward(plugin, options, contrast)
        for when, times in TIMES.items():
            found = []
            for start in track(range(0, len(prompts), size), description=f"{name}, {when}"):
                part = slice(start, start + size)
                found.append(measurement.eq5(reward, margin, own[part], prompts[part], times))
            row(f"{name}; {when}", cells_of(_stack(found), taught, draws))
    text = "\n".join(lines) + "\n"
    print(text)
    if not arguments.smoke:
        atomic_write(RESULTS / "gradients.md", text)


if __name__ == "__main__":
    main()
