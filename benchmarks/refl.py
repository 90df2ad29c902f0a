"""Reward gradients per second and peak memory: a plain re-creation of the published ReFL loop against this trainer.

    python benchmarks/refl.py                   # the embedded model
    python benchmarks/refl.py --model sd15      # Stable Diffusion 1.5's size, random weights; wants a GPU
    python benchmarks/refl.py --smoke           # seconds; checks that everything runs

All three loops train the same adapters on the same model with the same reward (a mean colour: it costs nothing, so
the loop is what is measured), the same batch and guidance, in turn in one run:

- published: 40 steps, one gradient at a step in [30, 39] of each rollout, the text encoded anew each time;
- trainer: the same schedule and solver, embeddings kept, several gradients per rollout;
- trainer, faster solver: DPM-Solver++ in 20 steps, several gradients per rollout.

A reward gradient is that of one image at one step. Rates are medians (and the range) over rounds; the loops take turns
round by round, each round beginning with another one, so that whatever else the machine does hits all three alike.
Memory is what tensors take at the peak of two rounds, above the loaded model, as the allocator counts it (on a CPU: as
torch's profiler does, so that no rounding up to pages is in it); what gradients are summed up in is part of it, in the
published loop too, which accumulates over micro-batches. Prints a Markdown table and writes
``benchmarks/results/refl-<model>.json``, with every round's rate.
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from attention import synchronize  # the script beside this one

from realignkit.contracts import Reward
from realignkit.files import atomic_write
from realignkit.named import Named
from realignkit.refl import ReFLConfig
from realignkit.refl.algorithms import MicroBatch
from realignkit.refl.algorithms.refl import ReFL, ReFLOptions
from realignkit.refl.model import Networks
from realignkit.refl.trainable import Trainable

LOOPS = ("published", "trainer", "trainer, faster solver")
PROMPTS = ("a red book", "a yellow pen", "a blue cup", "a green car and a pink vase")


@dataclass(frozen=True)
class Setting:
    """What is the same for all loops."""

    model: str
    device: str
    precision: str
    batch: int
    guidance: float
    points: int
    steps: tuple[int, int] = (40, 20)


class Redness(Reward):
    """Mean red minus the mean of the others."""

    def __call__(self, images: torch.Tensor, prompts: Any) -> torch.Tensor:
        return images[:, 0].mean((1, 2)) - images[:, 1:].mean((1, 2, 3))


def pipeline(setting: Setting) -> Any:
    from realignkit.registry import default_registry

    made = default_registry().create("generator", "micro", device=setting.device).pipeline()
    if setting.model == "sd15":
        made = sd15_sized(made.tokenizer).to(setting.device)
    return made


def sd15_sized(tokenizer: Any) -> Any:
    """Stable Diffusion 1.5's networks with random weights; its size is what matters here."""
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(0)
    tokenizer.model_max_length = 77
    widths = (128, 256, 512, 512)
    text = CLIPTextConfig(
        hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    return StableDiffusionPipeline(
        vae=AutoencoderKL(
            block_out_channels=widths, latent_channels=4, layers_per_block=2, sample_size=512,
            down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        ),
        text_encoder=CLIPTextModel(text),
        tokenizer=tokenizer,
        unet=UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8),
        scheduler=DDIMScheduler(
            beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, clip_sample=False, steps_offset=1
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )  # fmt: skip


def make(loop: str, setting: Setting, made: Any = None) -> Callable[[int], int]:
    """A function that does one round and says how many reward gradients it made."""
    total, fast = setting.steps
    steps = fast if loop == LOOPS[2] else total
    late = (3 * steps // 4, steps - 1)
    rollout = ReFLOptions(
        solver="dpmpp" if loop == LOOPS[2] else "ddim",
        num_inference_steps=steps,
        gradient_steps=late,
        gradients_per_rollout=1 if loop == LOOPS[0] else setting.points,
        guidance_scale=setting.guidance,
    )
    config = ReFLConfig(denoising_weight=0, reward_weight=1.0, refl=rollout)
    networks = Networks(made or pipeline(setting), torch.device(setting.device), setting.precision)
    trainable = Trainable(networks, config)
    if loop == LOOPS[0]:
        return lambda number: published(networks, setting, late, steps, number)
    reward = Named("reward", "redness", Redness())
    algorithm = ReFL(networks, trainable, config, rollout, reward, PROMPTS, None)

    def one_round(number: int) -> int:
        places = range(number * setting.batch, (number + 1) * setting.batch)
        algorithm.add(algorithm.zero(), MicroBatch(number, places))
        return setting.batch * rollout.gradients_per_rollout

    return one_round


def published(networks: Networks, setting: Setting, late: tuple[int, int], steps: int, number: int) -> int:
    """One round of the loop as published: nothing kept but the gradients' sum, one gradient per rollout."""
    from diffusers import DDIMScheduler

    generator = torch.Generator().manual_seed(number)
    prompts = [PROMPTS[(number * setting.batch + i) % len(PROMPTS)] for i in range(setting.batch)]
    pipe, unet, guided = networks.pipeline, networks.unet, setting.guidance > 1
    text, empty = pipe.encode_prompt(prompts, setting.device, 1, guided)
    text = torch.cat([empty, text]) if guided else text
    scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    scheduler.set_timesteps(steps, device=setting.device)
    latents = torch.randn(setting.batch, *networks.latent_shape, generator=generator).to(setting.device)
    middle = int(torch.randint(late[0], late[1] + 1, (), generator=generator))

    def predict(timestep: Any) -> torch.Tensor:
        with networks.autocast():
            both = torch.cat([latents, latents]) if guided else latents
            noise = unet(both, timestep, encoder_hidden_states=text).sample.float()
        if not guided:
            return noise
        unconditional, conditional = noise.chunk(2)
        return unconditional + setting.guidance * (conditional - unconditional)

    with torch.no_grad():
        for timestep in scheduler.timesteps[:middle]:
            latents = scheduler.step(predict(timestep), timestep, latents).prev_sample
    timestep = scheduler.timesteps[middle]
    clean = scheduler.step(predict(timestep), timestep, latents).pred_original_sample
    with networks.autocast():
        images = pipe.vae.decode(clean.to(networks.dtype) / pipe.vae.config.scaling_factor).sample
    rewards = Redness()((images.float() / 2 + 0.5).clamp(0, 1), prompts)
    torch.relu(2 - rewards).mean().backward()  # summed up in .grad: its script accumulates micro-batches
    return setting.batch


def added_peak(loop: str, setting: Setting) -> int:
    """Bytes of tensors at the peak of two rounds, above the loaded model; to be run in a fresh process."""
    one_round = make(loop, setting)
    if setting.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        for number in range(2):
            one_round(number)
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        for number in range(2):
            one_round(number)
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    return max(itertools.accumulate(e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())))


def rates(setting: Setting, rounds: int) -> dict[str, list[float]]:
    """Reward gradients per second of each loop, by round."""
    made = {loop: make(loop, setting) for loop in LOOPS}
    for one_round in made.values():
        one_round(0)  # warms up
    found: dict[str, list[float]] = {loop: [] for loop in LOOPS}
    for number in range(1, rounds + 1):
        first = number % len(LOOPS)
        for loop in (*LOOPS[first:], *LOOPS[:first]):
            synchronize(setting.device)
            start = time.perf_counter()
            gradients = made[loop](number)
            synchronize(setting.device)
            found[loop].append(gradients / (time.perf_counter() - start))
    return found


def table(rows: list[dict[str, Any]]) -> str:
    """The results as Markdown."""
    base = rows[0]
    lines = ["| loop | reward gradients a second | range | against published | peak MB |"]
    lines += ["| --- | --: | --: | --: | --: |"]
    lines += [
        f"| {row['loop']} | {row['rate']:.2f} | {min(row['rates']):.2f} – {max(row['rates']):.2f} | "
        f"{row['rate'] / base['rate']:.1f} x | {row['peak_bytes'] / 1e6:.0f} |"
        for row in rows
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=("micro", "sd15"), default="micro")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", choices=("no", "fp16", "bf16"), default=None, help="bf16 on a GPU unless said")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--guidance", type=float, default=1.0, help="at most 1: none, as published")
    parser.add_argument("--points", type=int, default=3, help="gradients per rollout of the trainer's loops")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--smoke", action="store_true", help="few steps, one round; written only with --out")
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument("--job", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.job:
        job = json.loads(options.job)
        print(added_peak(job["loop"], Setting(**{**job["setting"], "steps": tuple(job["setting"]["steps"])})))
        return
    precision = options.precision or ("bf16" if options.device == "cuda" else "no")
    steps = (8, 8) if options.smoke else (40, 20)
    points = min(options.points, steps[1] // 4)
    setting = Setting(options.model, options.device, precision, options.batch, options.guidance, points, steps)
    rate = rates(setting, 1 if options.smoke else options.rounds)
    rows = []
    for loop in LOOPS:
        job = json.dumps({"loop": loop, "setting": vars(setting)})
        done = subprocess.run([sys.executable, __file__, "--job", job], capture_output=True, text=True, check=True)
        peak = int(done.stdout.split()[-1])
        rows.append({"loop": loop, "rate": statistics.median(rate[loop]), "rates": rate[loop], "peak_bytes": peak})
    print(table(rows))
    out = options.out
    if out is None and not options.smoke:
        out = Path(__file__).parent / "results" / f"refl-{options.model}.json"
    if out is not None:
        machine = torch.cuda.get_device_name() if options.device == "cuda" else platform.processor() or "CPU"
        about = {
            "machine": machine,
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "rounds": 1 if options.smoke else options.rounds,
        }
        atomic_write(out, json.dumps({"setting": {**vars(setting), **about}, "rows": rows}, indent=1) + "\n")
        print(f"written to {out}", file=sys.stderr)


if __name__ == "__main__":
    main()
