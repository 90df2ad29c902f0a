"""The embedded world: a tiny trained text-to-image model and its companions, offline, from the installed package.

``micro`` adds checkpoints and a world, not second implementations: the plugins below are the generic classes that
run the full-size models, pointed at checkpoints inside this package.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from realignkit.hookspecs import hookimpl
from realignkit_plugins.micro.checkpoints import FOLDER

if TYPE_CHECKING:
    from realignkit.hookspecs import Register

_LICENSE = "Apache-2.0"
"""Of the embedded checkpoints: the package's own."""

_REWARDS = {
    "caption": (
        "caption:CaptionReward",
        {"captioner": "micro:captioner", "text_encoder": "micro:caption_text_encoder"},
        "eq. 4 with an embedded BLIP-2",
    ),
    "clip": ("clip:CLIPReward", {"model": "micro:clip"}, "an embedded CLIP"),
    "blip": ("blip:BLIPReward", {"model": "micro:blip"}, "an embedded BLIP"),
    "image_reward": ("image_reward:ImageReward", {"model": "micro:image_reward"}, "an embedded ImageReward"),
}
REWARDS = {
    name: reward
    for name, reward in _REWARDS.items()
    if all((FOLDER / model.removeprefix("micro:")).is_dir() for model in reward[1].values())
}
"""Reward -> (class, options, what it is), of those whose checkpoints have been trained."""

RECOGNIZE_ANYTHING = {
    name: network for name, network in {"ram": "RAM", "tag2text": "Tag2Text"}.items() if (FOLDER / name).is_dir()
}
"""The paper's taggers at small size -> what they are called, of those that have been trained."""

QUESTION_METRICS = {
    name: metric
    for name, metric in {
        "tifa": ("tifa:TIFA", {"encoder": None}, "TIFA"),
        "vqascore": ("vqascore:VQAScore", {}, "VQAScore"),
        "soft_tifa": ("soft_tifa:SoftTIFA", {}, "Soft-TIFA"),
    }.items()
    if (FOLDER / "vqa").is_dir()
}
"""Metric -> (class, options, what it is), of those that the embedded question answerer answers, once it is trained."""

COMPANIONS = {
    **{"tagger": "micro", "scorer": "lexical", "segmenter": "micro", "metric": "micro_oracle"},
    **{f"reward:{name}": f"micro_{name}" for name in (*REWARDS, *QUESTION_METRICS)},
    **({"vqa": "micro"} if QUESTION_METRICS else {}),
}

REFINE_DEFAULTS = {"isolate_phrases": False, "append_missing": False, "verify": True}
"""The paper's attention, the prompt's own text, and a second look: the best of a sweep on validation prompts
(docs/benchmarks.md)."""
FLOW_REFINE_DEFAULTS = {**REFINE_DEFAULTS, "outside_score": 0.0, "self_weight": 0.0, "text_weight": 2.0}
"""Likewise of the flow model: attention stays as it is outside all objects and between image tokens, and phrases attend
to their objects too (docs/benchmarks.md)."""


@hookimpl
def register_generators(register: Register) -> None:
    """The embedded base model, at two sizes, and the flow model."""
    base = {
        "model": "micro:base",
        "companions": COMPANIONS,
        "refine_defaults": REFINE_DEFAULTS,
        "num_inference_steps": 25,
        "guidance_scale": 7.5,
    }
    register(
        "micro",
        "realignkit_plugins.generators.stable_diffusion:StableDiffusionGenerator",
        "64 x 64 scenes of coloured objects; a 4 M parameter Stable Diffusion, embedded, works offline",
        options=base,
        license=_LICENSE,
    )
    register(
        "micro_256",
        "realignkit_plugins.generators.stable_diffusion:StableDiffusionGenerator",
        "the same scenes at 256 x 256; micro with a larger decoder, embedded, works offline",
        options={**base, "vae": "micro:vae_256"},
        license=_LICENSE,
    )
    register(
        "micro_flow",
        "realignkit_plugins.generators.stable_diffusion:StableDiffusionGenerator",
        "the same scenes by a flow transformer; a 6 M parameter Stable Diffusion 3, embedded, works offline",
        options={
            "model": "micro:flow",
            "companions": COMPANIONS,
            "refine_defaults": FLOW_REFINE_DEFAULTS,
            "num_inference_steps": 20,
            "guidance_scale": 4.0,
            "max_sequence_length": 1,
        },
        license=_LICENSE,
    )


@hookimpl
def register_taggers(register: Register) -> None:
    """The embedded taggers."""
    # Low thresholds: what is half-drawn counts too, and what the prompt does not name is sorted out by the scorer.
    register(
        "micro",
        "realignkit_plugins.taggers.recognize_anything:RecognizeAnythingTagger",
        "names the objects and backgrounds of the embedded world; a small RAM, embedded",
        options={"model": "micro:ram", "threshold": 0.1},
        license=_LICENSE,
    )
    register(
        "micro_resnet",
        "realignkit_plugins.taggers.image_classification:ImageClassificationTagger",
        "the same names by a ResNet, embedded",
        options={"model": "micro:tagger", "threshold": 0.1},
        license=_LICENSE,
    )
    for name, network in RECOGNIZE_ANYTHING.items():
        register(
            f"micro_{name}",
            "realignkit_plugins.taggers.recognize_anything:RecognizeAnythingTagger",
            f"the same names by {network}'s own class at small size and its threshold, embedded",
            options={"model": f"micro:{name}"},
            license=_LICENSE,
        )


@hookimpl
def register_segmenters(register: Register) -> None:
    """The embedded segmenter."""
    register(
        "micro",
        "realignkit_plugins.segmenters.clipseg:CLIPSegSegmenter",
        "finds phrases in pictures of the embedded world; a CLIPSeg, embedded",
        options={"model": "micro:segmenter"},
        license=_LICENSE,
    )


@hookimpl
def register_rewards(register: Register) -> None:
    """The embedded rewards, which stand in for those of the same name when the model is ``micro``."""
    for name, (factory, options, what) in REWARDS.items():
        path = f"realignkit_plugins.rewards.{factory}"
        register(f"micro_{name}", path, f"{what}, for the embedded world", options=options, license=_LICENSE)
    for name, (_, _, what) in QUESTION_METRICS.items():
        register(
            f"micro_{name}",
            "realignkit_plugins.rewards.judged:MetricReward",
            f"{what} by the embedded question answerer, without a gradient",
            options={"metric": f"micro_{name}"},
        )


@hookimpl
def register_vqa(register: Register) -> None:
    """The embedded question answerer."""
    if QUESTION_METRICS:
        register(
            "micro",
            "realignkit_plugins.vqa.blip:BlipVQA",
            "answers questions about pictures of the embedded world; a BLIP, embedded",
            options={"model": "micro:vqa"},
            license=_LICENSE,
        )


@hookimpl
def register_metrics(register: Register) -> None:
    """The judge of the embedded world."""
    register(
        "micro_oracle",
        "realignkit_plugins.micro.metrics:FullyRight",
        "share of embedded-world images in which every object is there in its colour, by an independent oracle",
    )
    for name, (_, _, what) in REWARDS.items():
        register(
            f"micro_{name}",
            "realignkit_plugins.rewards.metric:RewardMetric",
            f"mean reward of {what}, for the embedded world",
            options={"reward": f"micro_{name}"},
        )
    for name, (factory, options, what) in QUESTION_METRICS.items():
        register(
            f"micro_{name}",
            f"realignkit_plugins.metrics.{factory}",
            f"{what} by the embedded question answerer, for the embedded world",
            options={**options, "vqa": "micro"},
        )


@hookimpl
def register_prompts(register: Register) -> None:
    """Prompts drawn from the world."""
    register(
        "micro",
        "realignkit_plugins.micro.prompts:WorldPrompts",
        "captions of random scenes of the embedded world, by split and number of objects",
    )
