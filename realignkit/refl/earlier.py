"""Training options as version 0.1 named them: refused where somebody sets one, translated where a record has them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from realignkit.errors import OptionError

REMOVED: Mapping[str, Any] = {"purify": None, "purify_draws": 1, "hold_style": False, "style_weight": 0.0}
"""Those that are gone, with the values at which they did nothing."""

_ROLLOUT = ("solver", "num_inference_steps", "guidance_scale", "gradients_per_rollout")
RENAMED: Mapping[str, tuple[str, ...]] = {
    **{name: (f"refl.{name}", f"raft.{name}") for name in _ROLLOUT},
    **{name: (f"refl.{name}",) for name in ("rated_image", "gradient_steps", "kl_weight")},
    "margin": ("refl.margin", "reward_weighted.margin"),
    "candidates": ("raft.candidates",),
    "reward_temperature": ("reward_weighted.temperature",),
    "pair_sampling": ("reward_weighted.pair_sampling",),
    **{f"lora_{name}": (f"lora.{name}",) for name in ("rank", "alpha", "targets")},
    **{name: (f"optimizer.{name}",) for name in ("betas", "weight_decay", "max_gradient_norm")},
    "validate_every": ("validation.every",),
    **{f"validation_{name}": (f"validation.{name}",) for name in ("prompts", "steps", "seed")},
    **{name: (f"validation.{name}",) for name in ("patience", "samples")},
}
"""Those that are called otherwise; several algorithms have an option each for what was one."""


def refuse_former(name: str) -> None:
    """Refuse the name of an option that version 0.1 had.

    Raises:
        OptionError: it is one; the message has the new name.
    """
    if name in REMOVED:
        raise OptionError(
            f"training option {name} was removed in version 0.2, because nothing was gained with it: "
            f"docs/explanation/reward-hacking.md says what was seen."
        )
    if name in RENAMED:
        raise OptionError(f"training option {name} is now {' or '.join(f'training.{now}' for now in RENAMED[name])}.")


def translated(config: Mapping[str, Any], algorithm: str) -> dict[str, Any]:
    """A recorded configuration, flat, by today's dotted names; what its algorithm did not use is left out.

    Args:
        config: of whatever version; of today's nothing is changed.
        algorithm: that was trained.
    """
    options: dict[str, Any] = {}
    for name, value in config.items():
        names = () if name in REMOVED else RENAMED.get(name, (name,))
        shared = ("lora", "optimizer", "validation", "")
        options |= {now: value for now in names if now.rpartition(".")[0] in (*shared, algorithm)}
    return options
