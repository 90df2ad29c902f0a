"""Generators: build diffusers pipelines, and say what the fine stage can do with them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from realignkit import hookimpl

if TYPE_CHECKING:
    from realignkit.registry import Register

_CLASS = "realignkit_plugins.generators.stable_diffusion:StableDiffusionGenerator"


@hookimpl
def register_generators(register: Register) -> None:
    """Stable Diffusion 1.x, 2.x and XL: any checkpoint by name, and presets for the usual ones."""
    register("stable_diffusion", _CLASS, "any Stable Diffusion 1.x, 2.x or XL checkpoint of diffusers (model=…)")
    register("sd15", _CLASS, "Stable Diffusion 1.5, the paper's base model")
    register(
        "sdxl",
        _CLASS,
        "Stable Diffusion XL 1.0, base",
        options={"model": "stabilityai/stable-diffusion-xl-base-1.0", "variant": "fp16"},
    )
