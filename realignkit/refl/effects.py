"""Which options have no effect with what is trained: told, and not refused, because records hold all of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from realignkit.provenance import flat
from realignkit.refl.config import ALGORITHMS, ReFLConfig
from realignkit.refl.model import Networks


def without_effect(
    config: ReFLConfig, algorithm: str, options: Any, networks: Networks, validates: bool, watching: Iterable[str]
) -> list[str]:
    """A sentence for each option that differs from its default and has no effect.

    Args:
        config: of the training.
        algorithm: that is trained.
        options: of the algorithm; a ``guidance_scale`` is decided.
        networks: of the model.
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
        "dpo.label_smoothing": (given["dpo.loss_type"] != "ipo", "dpo.loss_type is ipo"),
        "nft.guided": (
            not networks.distilled and getattr(options, "guidance_scale", None) != 1.0,
            "a distilled model is told its guidance" if networks.distilled else "guidance_scale is 1",
        ),
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
    sentences += [] if validates else [f"{each}: nothing is validated" for each in watching]
    if config.trainable == "lora":
        layers = [f".{name}" for name, _ in networks.unet.named_modules()]
        strangers = [each for each in config.lora.targets if not any(name.endswith(f".{each}") for name in layers)]
        sentences += [f"lora.targets has '{each}', as which no layer is called" for each in strangers]
    return sentences
