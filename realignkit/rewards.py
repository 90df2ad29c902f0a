"""From ``"caption"`` or ``"caption:1,clip:0.5"`` to a reward."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from realignkit.arguments import instance, mapping, shown
from realignkit.errors import OptionError
from realignkit.registry import Registry
from realignkit.resolve import assign_options, option_names

SUM_OPTIONS = ("normalise",)
"""Options of a weighted sum itself; the others are its parts'."""


def parse_weights(spec: str) -> dict[str, float]:
    """Names and weights of a reward spec: ``"caption:1,clip:0.5"``; a name alone weighs 1.

    Raises:
        OptionError: an empty or repeated name, or a weight that is no positive number.
    """
    instance("a reward's name", spec, str)
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
    companions: Mapping[str, str] | None = None,
) -> Any:
    """Make a reward (:class:`realignkit.contracts.Reward`) by name, or a weighted sum of several.

    Args:
        registry: where names are looked up.
        spec: see :func:`parse_weights`.
        options: option -> value. In a sum an option goes to every reward that knows it; ``"name.option"`` to one;
            ``normalise`` is the sum's own.
        companions: a generator's companions: ``"reward:clip" -> "micro_clip"`` stands in for ``clip``.

    Raises:
        OptionError: a bad spec, an unknown option or a bad value, or no registry.
        PluginError: an unknown or unavailable reward.
    """
    weights, companions = parse_weights(spec), mapping("companions", companions)
    if not isinstance(registry, Registry):
        raise OptionError(f"registry takes a Registry (default_registry() is one), not {shown(registry)}.")
    names = {name: companions.get(f"reward:{name}", name) for name in weights}
    infos = [registry.info("reward", name) for name in names.values()]
    alone = list(weights.values()) == [1.0]
    given, of_sum = {}, {}
    for key, value in mapping("options", options).items():
        owner, _, option = key.rpartition(".")
        if key in SUM_OPTIONS and not alone:
            of_sum[key] = value
        else:
            given[f"{names[owner]}.{option}" if owner in names else key] = value
    assigned = assign_options(infos, given)
    if alone:
        return infos[0].create(**assigned[0])
    return registry.create(
        "reward",
        "weighted",
        registry=registry,
        rewards={names[name]: weight for name, weight in weights.items()},
        options={info.name: own for info, own in zip(infos, assigned, strict=True) if own},
        **of_sum,
    )


def measuring_reward(
    registry: Registry,
    spec: str,
    options: Mapping[str, Any] | None = None,
    companions: Mapping[str, str] | None = None,
) -> Any:
    """:func:`make_reward`, to measure with: in float32 on every device, unless the option ``dtype`` says otherwise.

    Raises:
        OptionError, PluginError: as there.
    """
    names = ((companions or {}).get(f"reward:{name}", name) for name in parse_weights(spec))
    known = any("dtype" in (option_names(registry.info("reward", name)) or ()) for name in names)
    return make_reward(registry, spec, {**({"dtype": "fp32"} if known else {}), **(options or {})}, companions)
