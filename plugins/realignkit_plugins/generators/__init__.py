"""Generators: build diffusers pipelines, and say what the fine stage can do with them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from realignkit import hookimpl

if TYPE_CHECKING:
    from realignkit.hookspecs import Register

_HOME = "realignkit_plugins.generators"
_CLASS = f"{_HOME}.stable_diffusion:StableDiffusionGenerator"


@hookimpl
def register_generators(register: Register) -> None:
    """Any checkpoint by name, presets for the usual ones, and baselines to compare with."""
    register("stable_diffusion", _CLASS, "any Stable Diffusion 1.x to 3.x, XL, PixArt or FLUX checkpoint (model=…)")
    register("sd15", _CLASS, "Stable Diffusion 1.5, the paper's base model", license="CreativeML OpenRAIL-M")
    register(
        "sdxl",
        _CLASS,
        "Stable Diffusion XL 1.0, base",
        options={"model": "stabilityai/stable-diffusion-xl-base-1.0", "variant": "fp16"},
        license="OpenRAIL++-M",
    )
    register(
        "pixart_alpha",
        _CLASS,
        "PixArt-alpha, 1024 pixels",
        options={"model": "PixArt-alpha/PixArt-XL-2-1024-MS"},
        license="OpenRAIL++-M",
    )
    register(
        "deepfloyd_if",
        f"{_HOME}.deepfloyd:DeepFloydGenerator",
        "DeepFloyd-IF in three stages; coarse images only, its attention cannot be re-weighted",
        options={"variant": "fp16"},
        license="DeepFloyd IF (gated), upscaler OpenRAIL++-M",
    )
    register(
        "structure_diffusion",
        f"{_HOME}.structure_diffusion:StructureDiffusionGenerator",
        "baseline: cross-attention averaged over the prompt and its noun phrases; coarse images only",
        license="CreativeML OpenRAIL-M",
    )
    register(
        "promptist",
        f"{_HOME}.promptist:PromptistGenerator",
        "baseline: prompts adapted by a GPT-2 first; coarse images only",
        license="MIT, with Stable Diffusion 1.5's CreativeML OpenRAIL-M",
    )
