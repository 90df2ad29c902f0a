"""``--set name=value``: which option of which step is meant."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from realignkit import resolve
from realignkit.arguments import value_of
from realignkit.attention.config import ModulationConfig
from realignkit.contracts import Options
from realignkit.errors import OptionError
from realignkit.registry import Registry
from realignkit.rewards import option_names_of, reward_option_names
from realignkit.suggestions import unknown_option

if TYPE_CHECKING:
    from realignkit.realigner import Realigner

PLUGIN_KINDS = ("generator", "tagger", "scorer", "segmenter", "reward", "judge", "metric")


@dataclass(frozen=True)
class Settings:
    """The values of ``--set``, sorted by what they belong to."""

    modulation: dict[str, Any] = field(default_factory=dict)
    sampling: dict[str, Any] = field(default_factory=dict)
    realigner: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    options: dict[str, dict[str, Any]] = field(default_factory=dict)


def known_options(registry: Registry, model: str, specs: Mapping[str, str | None]) -> dict[str, Collection[str] | None]:
    """The option names of each group; None for a group with a plugin that declares none and takes anything.

    ``specs``: by kind; ``guide_by`` is a further reward beside ``reward``.
    """
    from realignkit.realigner.options import RealignerOptions

    generator = resolve.choose_generator(registry, model)
    known: dict[str, Collection[str] | None] = {
        "modulation": ModulationConfig.model_fields,
        "sampling": resolve.SamplingOptions.model_fields,
        "realigner": RealignerOptions.model_fields,
        "generator": resolve.option_names(generator),
    }
    companions = resolve.companions_of(generator)
    for kind, spec in specs.items():
        if kind not in ("reward", "guide_by"):
            known[kind] = option_names_of(resolve.choose(registry, kind, spec, companions))
            continue
        names = set() if spec is None else reward_option_names(registry, spec, companions)
        earlier = known.get("reward", set())
        known["reward"] = None if names is None or earlier is None else {*earlier, *names}
    return known


def parse(
    assignments: Sequence[str], known: Mapping[str, Collection[str] | None], prefer: str | None = None
) -> Settings:
    """Sort ``name=value`` assignments into groups.

    Names are ``group.option``, or the bare option where only one group has it. Values are JSON where they parse
    as JSON, otherwise text. Later assignments win. A bare option that several groups have means that of ``prefer``.

    Raises:
        OptionError: no '=', an unknown or ambiguous name.
    """
    settings = Settings(options={kind: {} for kind in PLUGIN_KINDS if kind in known})
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        name = name.strip()
        if not equals or not name:
            raise OptionError(f"--set takes name=value, e.g. --set modulation.share=0.5, not '{assignment}'.")
        group, option = _locate(name, known, prefer)
        target = settings.options[group] if group in PLUGIN_KINDS else getattr(settings, group)
        target[option] = value_of(text)
    return settings


def check_guided(settings: Settings, guide_by: str | None) -> None:
    """Refuse options of guided sampling where no reward guides.

    Raises:
        OptionError: there are such.
    """
    from realignkit.realigner.options import GUIDE_OPTIONS

    idle = [name for name in GUIDE_OPTIONS if name in settings.realigner]
    if idle and guide_by is None:
        raise OptionError(f"{idle[0]} has no effect where no reward guides: give --guide-by REWARD, or leave it out.")


def make_realigner(model: str, specs: Mapping[str, Any], settings: Settings, **arguments: Any) -> Realigner:
    """:meth:`realignkit.realigner.Realigner.from_pretrained`, with what ``--set`` says.

    Args:
        model: see there.
        specs: tagger, scorer and segmenter, see there.
        settings: those of the metric are left out.
        arguments: further ones, as they are there.

    Raises:
        PluginError, OptionError: as there.
    """
    from realignkit.contracts import parse_options
    from realignkit.realigner import Realigner
    from realignkit.realigner.options import RealignerOptions
    from realignkit.registry import default_registry

    realigner_options: Any = parse_options(RealignerOptions, settings.realigner, owner="realigner")
    return Realigner.from_pretrained(
        model,
        **specs,
        modulation=settings.modulation,
        sampling=settings.sampling,
        options={kind: options for kind, options in settings.options.items() if kind != "metric"},
        registry=default_registry(),
        **arguments,
        **realigner_options.model_dump(),
    )


def _locate(name: str, known: Mapping[str, Collection[str] | None], prefer: str | None) -> tuple[str, str]:
    group, dot, option = name.partition(".")
    if dot and group in known:
        names = known[group]
        if names is None or option in names:
            return group, option
    else:
        groups = [group for group, names in known.items() if names is not None and name in names]
        if len(groups) == 1:
            return groups[0], name
        if prefer in groups:
            return prefer, name
        if groups:
            raise OptionError(f"'{name}' is ambiguous: say {' or '.join(f'{group}.{name}' for group in groups)}.")
    # An option of a part of a weighted sum has two names; the plain one is enough.
    shown = {
        group: [option for option in names or () if "." not in option or option.partition(".")[0] in (names or ())]
        for group, names in known.items()
    }
    full = [f"{group}.{option}" for group, names in shown.items() for option in names]
    bare = [option for names in shown.values() for option in names]
    owners = sorted({each.partition(".")[0] for each in known.get(group) or () if "." in each})
    raise unknown_option(name, full if dot else bare, groups=known, owners=owners)


def nested_names(options: type[Options], prefix: str = "") -> Iterator[str]:
    """The names of a model's options; those of a group in it dotted (``lora.rank``), after the group's own."""
    for name, about in options.model_fields.items():
        yield f"{prefix}{name}"
        if isinstance(about.annotation, type) and issubclass(about.annotation, Options):
            yield from nested_names(about.annotation, f"{prefix}{name}.")


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values by dotted name as mappings of groups: the inverse of :func:`realignkit.provenance.flat`."""
    groups: dict[str, Any] = {}
    for name, value in values.items():
        group, dot, option = name.partition(".")
        below = nested({option: value}) if dot else value
        merges = isinstance(below, dict) and isinstance(groups.get(group), dict)
        groups[group] = {**groups[group], **below} if merges else below
    return groups
