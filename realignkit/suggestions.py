"""What is said of an option that nobody takes: the nearest ones, or all that there are."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from difflib import get_close_matches

from realignkit.attention.config import DENSE_DIFFUSION_NAMES
from realignkit.errors import OptionError


def unknown_option(
    name: str, known: Iterable[str], groups: Collection[str] = (), owners: Collection[str] = ()
) -> OptionError:
    """The error for an option that nobody takes, with the nearest known names.

    Args:
        name: as it was given.
        known: those that there are, under their groups where the name has one.
        groups: what they belong to, where there are too many to list: then those of the group that is meant are listed.
        owners: the plugins that were asked, where ``name`` may say one of them: ``metric.micro_clip.batch_size``.
    """
    names = sorted(set(known))
    prefix, _, option = name.rpartition(".")
    group = prefix.partition(".")[0]
    of_group = [each for each in names if group in groups and each.startswith(f"{group}.")]
    of_group.sort(key=lambda each: not each.startswith(f"{prefix}."))
    # A group within a group, such as an algorithm of the training: raft.candidates is training.raft.candidates.
    of_group = of_group or [each for each in names if prefix and f".{prefix}." in each]
    elsewhere = [each for each in names if each.partition(".")[2] == option]
    owner = prefix.partition(".")[2]
    if owners and owner and owner not in owners:
        asked = ", ".join(owners)
        return OptionError(f"'{name}' is for '{owner}', which is not asked for here, only {asked}. Leave it out.")
    ours = DENSE_DIFFUSION_NAMES.get(option)
    if near := [each for each in names if each.rpartition(".")[2] == ours]:
        hint = f"DenseDiffusion's {option} is {near[0]} here. "
    else:
        near = elsewhere or get_close_matches(name, of_group or names, n=3, cutoff=0.5)
        hint = f"Did you mean {' or '.join(near)}? " if near else ""
    if f"{group}.options" in names:
        hint += f"What it works with has its options in '{prefix}.options', as {{\"{option}\": …}}. "
    if groups and group not in groups and not of_group:
        listed = f"Groups of options here: {', '.join(groups)}; a wrong name within a group lists what it has."
    else:
        listed = f"Known: {', '.join(of_group if groups else names) or 'none'}."
    return OptionError(f"there is no option '{name}'. {hint}{listed}")
