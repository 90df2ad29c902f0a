"""The embedded world: a tiny trained text-to-image model and its companions, offline, from the installed package.

``micro`` adds checkpoints and a world, not second implementations: the plugins below are the generic classes that
run the full-size models, pointed at checkpoints inside this package.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from realignkit.hookspecs import hookimpl

if TYPE_CHECKING:
    from realignkit.registry import Register

COMPANIONS = {"tagger": "micro", "scorer": "lexical", "segmenter": "micro"}

REFINE_DEFAULTS = {
    "power": 1.0,
    "share": 0.5,
    "cross_weight": 0.1,
    "self_weight": 0.03,
    "isolate_phrases": False,
    "append_missing": False,
}
"""A gentle setting that leaves the text alone; none of the validation sweep gained anything (docs/benchmarks.md)."""


@hookimpl
def register_generators(register: Register) -> None:
    """The embedded base model."""
    register(
        "micro",
        "realignkit_plugins.generators.stable_diffusion:StableDiffusionGenerator",
        "64 x 64 scenes of coloured objects; a 4 M parameter Stable Diffusion, embedded, works offline",
        options={
            "model": "micro:base",
            "companions": COMPANIONS,
            "refine_defaults": REFINE_DEFAULTS,
            "num_inference_steps": 25,
            "guidance_scale": 5.0,
        },
    )


@hookimpl
def register_taggers(register: Register) -> None:
    """The embedded taggers."""
    register(
        "micro",
        "realignkit_plugins.taggers.image_classification:ImageClassificationTagger",
        "names the objects and backgrounds of the embedded world; a ResNet, embedded",
        options={"model": "micro:tagger"},
    )
    register(
        "micro_ram",
        "realignkit_plugins.taggers.recognize_anything:RecognizeAnythingTagger",
        "the same names by RAM's own class at small size, embedded",
        options={"model": "micro:ram"},
    )


@hookimpl
def register_segmenters(register: Register) -> None:
    """The embedded segmenter."""
    register(
        "micro",
        "realignkit_plugins.segmenters.clipseg:CLIPSegSegmenter",
        "finds phrases in pictures of the embedded world; a CLIPSeg, embedded",
        options={"model": "micro:segmenter"},
    )


@hookimpl
def register_metrics(register: Register) -> None:
    """The judge of the embedded world."""
    register(
        "micro_oracle",
        "realignkit_plugins.micro.metrics:FullyRight",
        "share of embedded-world images in which every object is there in its colour, by an independent oracle",
    )


@hookimpl
def register_prompts(register: Register) -> None:
    """Prompts drawn from the world."""
    register(
        "micro",
        "realignkit_plugins.micro.prompts:WorldPrompts",
        "captions of random scenes of the embedded world, by split and number of objects",
    )
