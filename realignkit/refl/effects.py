"""Which options have no effect with what is trained: told, and not refused, because records hold all of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from realignkit.named import Named
from realignkit.provenance import flat
from realignkit.refl.algorithms.feedback import FeedbackOptions
from realignkit.refl.config import ALGORITHMS, ReFLConfig
from realignkit.refl.model import Networks


def without_effect(
    config: ReFLConfig,
    algorithm: str,
    options: Any,
    networks: Networks,
    reward: Named,
    validates: bool,
    watching: Iterable[str],
) -> list[str]:
    """A sentence for each option that differs from its default and has no effect.

    Args:
        config: of the training.
        algorithm: that is trained.
        options: of the algorithm; a ``guidance_scale`` is decided.
        networks: of the model.
        reward: that is trained with.
        validates: whether held-out prompts are drawn.
        watching: of what is given for that, that it is not used.
    """
    given, defaults = flat(config.model_dump()), flat(ReFLConfig().model_dump())
    kind = ALGORITHMS[algorithm]
    pairs = kind.needs_pairs or (kind.has_l_pre and config.denoising_weight > 0)
    rated = getattr(options, "pictures", None) is not None
    adapters = f"trainable={config.trainable} has no adapters"
    # name -> (whether it has an effect, why not)
    effects = {
        "gradient_accumulation_steps": (config.total_batch_size is None, "total_batch_size says how many there are"),
        "gradient_ratio": (config.reward_weight == "auto", "reward_weight is not auto"),
        "prior_images": (pairs and config.pairs is None, "the frozen model draws none here"),
        "caption_dropout": (pairs or algorithm == "raft", f"{algorithm} learns from no captions here"),
        "compare_content": (
            rated or algorithm == "reward_weighted" or (pairs and config.pairs is not None),
            "no pairs are given",
        ),
        "lora.rank": (config.adapts, adapters),
        "lora.alpha": (config.adapts, adapters),
        "lora.targets": (config.trainable == "lora", "they are of the U-Net's adapters, and it has none"),
        **_of_rounds(config, algorithm, options, networks),
        **{
            f"validation.{name}": (validates, "nothing is validated")
            for name in ("steps", "seed", "patience", "samples", "diversity")
        },
    }
    sentences = [
        f"{name} has no effect: {why}"
        for name, (has_effect, why) in effects.items()
        if not has_effect and given[name] != defaults[name]
    ]
    if _rounds_of(config, options) == (True, False):
        sentences.append(f"no training prompt is drawn: {algorithm}.pictures has all that is learnt from")
    if getattr(getattr(reward.plugin, "options", None), "normalise", False):
        sentences.append("reward.normalise has no effect: it is for choosing among candidates")
    sentences += [] if validates else [f"{each}: nothing is validated" for each in watching]
    if config.trainable == "lora":
        layers = [f".{name}" for name, _ in networks.unet.named_modules()]
        strangers = [each for each in config.lora.targets if not any(name.endswith(f".{each}") for name in layers)]
        sentences += [f"lora.targets has '{each}', as which no layer is called" for each in strangers]
    return sentences


def _rounds_of(config: ReFLConfig, options: Any) -> tuple[bool, bool]:
    """Whether the pictures of the first round are given, and whether there are rounds after it."""
    rounds = isinstance(options, FeedbackOptions)
    return rounds and options.pictures is not None, rounds and options.draws_later(config.iterations)


def _of_rounds(config: ReFLConfig, algorithm: str, options: Any, networks: Networks) -> dict[str, tuple[bool, str]]:
    """The same of an algorithm that learns from the model's own pictures; nothing of others."""
    if not isinstance(options, FeedbackOptions):
        return {}
    kind, scale = networks.noise.kind, 1.0 if options.guidance_scale is None else options.guidance_scale
    given, later = _rounds_of(config, options)
    drawn = later or not given
    # What the network is told, or what is learnt, depends on these whoever has drawn the pictures.
    scale_is_learnt = algorithm == "grpo" or networks.distilled or getattr(options, "guided", False)
    why = f"{algorithm}.pictures has all that is learnt from"
    no_rounds = "one round lasts to the end"
    rounds = {
        "iterations_per_round": (later, no_rounds),
        "candidates": (drawn, why),
        "prompts_per_round": (drawn, why),
        "solver": (drawn, why),
        "num_inference_steps": (drawn or algorithm == "grpo", why),
        "guidance_scale": (drawn or scale_is_learnt, why),
        "reference": (later, f"{no_rounds}, and what begins it is the frozen model"),
        "guided": (
            not networks.distilled and scale > 1,
            "a distilled model is told its guidance" if networks.distilled else f"guidance_scale is {scale:g}",
        ),
        "max_weight": (
            kind == "epsilon" or (limit := getattr(options, "max_weight", None)) is None or limit < 1,
            f"errors of a model that predicts '{kind}' weigh 1 at most",
        ),
    }
    return {f"{algorithm}.{name}": effect for name, effect in rounds.items() if hasattr(options, name)}
