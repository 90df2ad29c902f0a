"""Rewards that users name: which options they have, and made with those."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from realignkit import resolve
from realignkit.errors import OptionError
from realignkit.named import Named
from realignkit.registry import PluginInfo, Registry
from realignkit.suggestions import unknown_option


def named_rewards(
    registry: Registry, model: Any, rewards: Mapping[str, Any], options: Mapping[str, Any]
) -> dict[str, Any]:
    """The rewards that arguments name, made; what is no name is taken as it is.

    Args:
        registry: where names are looked up.
        model: by its companions a name may mean another reward.
        rewards: argument (``select_by``, ``guide_by``) -> a reward, its name, a weighted sum, or None. Two that are
            called alike are one.
        options: of both; each goes to the one that knows it, or to both.

    Raises:
        OptionError: a bad name, an option that neither knows, or options without a name.
        PluginError: an unknown or unavailable reward.
    """
    specs = dict.fromkeys(reward for reward in rewards.values() if isinstance(reward, str))
    if options and not specs:
        raise OptionError("reward options go with select_by or guide_by, a reward's name: give one, or leave them out.")
    made: dict[str, Named] = {}
    if specs:
        companions = resolve.companions_of(resolve.choose_generator(registry, model))
        known = {spec: reward_option_names(registry, spec, companions) for spec in specs}
        for option in options:
            if not any(names is None or option in names for names in known.values()):
                listed = (f"reward.{name}" for names in known.values() for name in names or ())
                raise unknown_option(f"reward.{option}", listed)
        for spec, names in known.items():
            chosen = {name: value for name, value in options.items() if names is None or name in names}
            made[spec] = Named("reward", spec, resolve.make_reward(registry, spec, chosen, companions), chosen)
    return {argument: made[reward] if isinstance(reward, str) else reward for argument, reward in rewards.items()}


def reward_option_names(registry: Registry, spec: str, companions: Mapping[str, str]) -> Collection[str] | None:
    """The option names of a reward, or of all parts of a weighted sum; None if it takes anything."""
    known = option_names_of([registry.info("reward", name) for name in resolve.rewards_in(spec, companions).values()])
    alone = list(resolve.parse_weights(spec).values()) == [1.0]
    return known if known is None or alone else {*known, *resolve.SUM_OPTIONS}


def option_names_of(infos: Sequence[PluginInfo]) -> Collection[str] | None:
    """The option names of several plugins, bare and with their own name; None if one takes anything."""
    names: set[str] = set()
    for info in infos:
        declared = resolve.option_names(info)
        if declared is None:
            return None
        names |= declared | {f"{info.name}.{name}" for name in declared}
    return names
