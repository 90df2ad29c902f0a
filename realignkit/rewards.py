"""From ``"caption"`` or ``"caption:1,clip:0.5"`` to a reward."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from realignkit.assembly import assign_options
from realignkit.errors import OptionError
from realignkit.registry import Registry


def parse_weights(spec: str) -> dict[str, float]:
    """Names and weights of a reward spec: ``"caption:1,clip:0.5"``; a name alone weighs 1.

    Raises:
        OptionError: an empty or repeated name, or a weight that is no positive number.
    """
    weights: dict[str, float] = {}
    for part in spec.split(","):
        name, colon, number = (text.strip() for text in part.partition(":"))
        try:
            weight = float(number) if colon else 1.0
        except ValueError:
            weight = math.nan
        if not name or name in weights or not (math.isfinite(weight) and weight > 0):
            raise OptionError(
                f"'{spec}' is no reward: at '{part.strip()}'. Give names, each once, with positive weights if "
                f"there are several, such as 'caption' or 'caption:1,clip:0.5'."
            )
        weights[name] = weight
    return weights


def make_reward(
    registry: Registry,
    spec: str,
    options: Mapping[str, Any] | None = None,
    beside: Mapping[str, str] | None = None,
) -> Any:
    """Make a reward (:class:`realignkit.contracts.Reward`) by name, or a weighted sum of several.

    Args:
        registry: where names are looked up.
        spec: see :func:`parse_weights`.
        options: option -> value. In a sum an option goes to every reward that knows it; ``"name.option"`` to one.
        beside: a generator's companions: ``"reward:clip" -> "micro_clip"`` stands in for ``clip``.

    Raises:
        OptionError: a bad spec, an unknown option or a bad value.
        PluginError: an unknown or unavailable reward.
    """
    weights, beside = parse_weights(spec), beside or {}
    names = {name: beside.get(f"reward:{name}", name) for name in weights}
    infos = [registry.info("reward", name) for name in names.values()]
    given = {}
    for key, value in (options or {}).items():
        owner, _, option = key.rpartition(".")
        given[f"{names[owner]}.{option}" if owner in names else key] = value
    assigned = assign_options(infos, given)
    if list(weights.values()) == [1.0]:
        return infos[0].create(**assigned[0])
    return registry.create(
        "reward",
        "weighted",
        registry=registry,
        rewards={names[name]: weight for name, weight in weights.items()},
        options={info.name: own for info, own in zip(infos, assigned, strict=True) if own},
    )
