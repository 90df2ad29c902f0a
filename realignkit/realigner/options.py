"""A realigner's own options: what they are, what brings them into form, and the rewards that two of them name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from pydantic import Field

from realignkit import arguments, resolve
from realignkit.attention.config import ModulationConfig
from realignkit.contracts import Options, parse_options
from realignkit.machine import check_threads
from realignkit.named import Named
from realignkit.registry import Registry, default_registry


class RealignerOptions(Options):
    """What is the realigner's own, neither attention nor sampling, and is given with ``--set``."""

    segment_unlikely: bool = Field(
        False, description="segment unlikely objects too: no modulation inside their masks (s_i = 0)"
    )
    guide_strength: float = Field(
        0.1, gt=0, allow_inf_nan=False, description="root mean square of what guide_by takes off the predicted noise"
    )
    guide_margin: float | None = Field(
        None, allow_inf_nan=False, description="the reward that guide_by leaves alone; none: as the reward states"
    )
    guide_share: float = Field(0.65, gt=0, le=1, description="which steps guide_by guides: the first ones, as a share")


GUIDE_OPTIONS = ("guide_strength", "guide_share", "guide_margin")
"""Those that only tell what ``guide_by`` does."""


def _checked(name: str, value: Any) -> Any:
    return getattr(parse_options(RealignerOptions, {name: value}, owner="realigner"), name)


FORMS: Mapping[str, Callable[[Any], Any]] = {
    "batch_size": partial(arguments.whole, "batch_size"),
    "candidates": partial(arguments.whole, "candidates"),
    "heat_maps": partial(arguments.words, "heat_maps"),
    "guide_strength": partial(_checked, "guide_strength"),
    "guide_margin": partial(_checked, "guide_margin"),
    "guide_share": partial(_checked, "guide_share"),
    "threads": check_threads,
    "segment_unlikely": partial(arguments.truth, "segment_unlikely"),
    "modulation": partial(parse_options, ModulationConfig, owner="modulation"),
    "sampling": partial(parse_options, resolve.SamplingOptions, owner="sampling"),
    "registry": lambda registry: arguments.instance("registry", registry, Registry) or default_registry(),
}
"""By name, what checks a realigner's option and brings it into form."""


def over_defaults(generator: Named, sampling: resolve.SamplingOptions | Mapping[str, Any] | None) -> dict[str, Any]:
    """Sampling options laid over those that suit a generator."""
    explicit = sampling.model_dump(exclude_unset=True) if isinstance(sampling, resolve.SamplingOptions) else sampling
    return {**defaults(generator, "sampling_defaults"), **arguments.mapping("sampling", explicit)}


def defaults(generator: Named, name: str) -> Mapping[str, Any]:
    """What a generator says suits it; nothing where it says nothing."""
    values = getattr(generator.plugin, name, None) or {}
    if not isinstance(values, Mapping):
        raise generator.breach(f"its {name} is no mapping but {arguments.shown(values)}")
    return values
