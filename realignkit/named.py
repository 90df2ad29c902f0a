"""A plugin under the name that messages and records call it by: who is to blame, and what it was made with."""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import BaseModel, SecretStr

from realignkit.arguments import mapping, shown
from realignkit.contracts import Options
from realignkit.errors import (
    REDACTED,
    ModelError,
    OptionError,
    PluginError,
    blame,
    breach,
    option_secrets,
    redacted_urls,
    secret_name,
)
from realignkit.machine import networks, suited_threads
from realignkit.provenance import MACHINE, without

DIGITS = 16
"""Of a SHA-256 that are kept."""


@dataclass(frozen=True, eq=False)
class Named:
    """A plugin, and what messages and records call it.

    Attributes:
        kind: one of :data:`realignkit.contracts.KINDS`.
        name: as it is registered, or its class's.
        plugin: the object itself.
        given: the options that it was made with, for one that keeps none in ``options``.
    """

    kind: str
    name: str
    plugin: Any
    given: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, kind: str, value: Any, argument: str | None = None, name: str | None = None) -> Named:
        """What a user hands in as a plugin; one that is named already is taken as it is.

        Args:
            value: a plugin that is called, or a :class:`Named`.
            argument: what the user knows it by; None: the kind.
            name: of the plugin; None: its class's.

        Raises:
            OptionError: it cannot be called, or is a class.
        """
        if isinstance(value, Named):
            return value
        return cls(kind, name or type(value).__name__, _made(argument or kind, value))

    @property
    def whose(self) -> str:
        """Kind and name, as messages have them."""
        return f"{'prompt set' if self.kind == 'prompts' else self.kind} '{self.name}'"

    def has(self, method: str) -> bool:
        """Whether the plugin has a method that its contract leaves open."""
        return callable(getattr(self.plugin, method, None))

    def by(self, method: str) -> Named:
        """This plugin, asked by a method of its contract instead of being called; itself where it has none such."""
        return replace(self, plugin=_Asked(self.plugin, method)) if self.has(method) else self

    def blame(self) -> contextlib.AbstractContextManager[None]:
        """See :func:`realignkit.errors.blame`."""
        return blame(self.whose, self.secrets)

    def breach(self, problem: str) -> PluginError:
        """See :func:`realignkit.errors.breach`."""
        return breach(self.whose, problem)

    @contextlib.contextmanager
    def calling(self) -> Iterator[None]:
        """:meth:`blame`, with as many threads as suit its networks."""
        with self.blame(), suited_threads(self.plugin):
            yield

    def out_of_reach(self) -> str:
        """See :meth:`realignkit.contracts.Plugin.out_of_reach`; empty for one that does not say.

        Raises:
            PluginError: it failed.
        """
        with self.blame():
            return str(self.plugin.out_of_reach()) if self.has("out_of_reach") else ""

    def check_reach(self, remedy: str) -> None:
        """Refuse to begin what it could not go on with. May ask the network.

        Args:
            remedy: how another one is chosen, a sentence.

        Raises:
            ModelError: its weights are neither on this machine nor to be had.
            PluginError: it failed.
        """
        if why := self.out_of_reach():
            raise ModelError(f"{self.whose} cannot work: {why} {remedy}")

    @property
    def margin(self) -> float:
        """The margin of ``phi(R)`` (eq. 5) that a reward states; 1 where it states none.

        Raises:
            PluginError: it is no finite number.
        """
        stated = getattr(self.plugin, "margin", 1.0)
        try:
            margin = float(stated)
        except (TypeError, ValueError):
            margin = math.nan
        if not math.isfinite(margin):
            raise self.breach(f"its margin must be a finite number, not {shown(stated)}")
        return margin

    @property
    def parts(self) -> tuple[tuple[Named, float], ...]:
        """The rewards that a sum consists of, each with its weight; any other plugin is its own only part."""
        parts = getattr(self.plugin, "parts", ())
        of_a_sum = isinstance(parts, tuple) and all(isinstance(part, tuple) and len(part) == 2 for part in parts)
        return parts if of_a_sum and parts and isinstance(parts[0][0], Named) else ((self, 1.0),)

    @property
    def options(self) -> dict[str, Any]:
        """All its options as JSON values, defaults included, secrets redacted."""
        return {name: _recordable(name, value) for name, value in self._values("python").items()}

    @property
    def settings(self) -> dict[str, Any] | None:
        """What beside its name decides what it says: its options as JSON, but for where it runs; None without any."""
        made = isinstance(getattr(self.plugin, "options", None), Options)
        return without(self._values("json"), MACHINE) if made else None

    @property
    def secrets(self) -> tuple[str, ...]:
        """The values of its secret options and the keys in its addresses, to be kept out of messages."""
        options = getattr(self.plugin, "options", None)
        # Not dict(options): an option may be called 'keys'.
        return option_secrets({**options.__dict__} if isinstance(options, BaseModel) else dict(self.given))

    def _values(self, mode: str) -> dict[str, Any]:
        options = getattr(self.plugin, "options", None)
        return options.model_dump(mode=mode) if isinstance(options, BaseModel) else dict(self.given)


@dataclass(frozen=True, eq=False)
class _Asked:
    """Stands where a plugin does, in calls alone."""

    plugin: Any
    method: str

    def __call__(self, *arguments: Any) -> Any:
        return getattr(self.plugin, self.method)(*arguments)


def weights_digest(plugin: Any) -> str:
    """What stands for the weights of the networks that a plugin has loaded; "" where there are none yet.

    A plugin that computes in another process says it by a method of this name.
    """
    if callable(elsewhere := getattr(plugin, "weights_digest", None)):
        return str(elsewhere())
    import torch

    digest = hashlib.sha256()
    tensors = [tensor for network in networks([plugin]) for tensor in network.state_dict().values()]
    for tensor in tensors:
        values = tensor.detach().cpu().contiguous()
        digest.update(f"{values.dtype} {tuple(values.shape)}".encode())
        digest.update(values.reshape(-1).view(torch.uint8).numpy().tobytes() if values.numel() else b"")
    return digest.hexdigest()[:DIGITS] if tensors else ""


def checked_names(names: Mapping[str, str] | None, **plugins: Any) -> dict[str, str]:
    """Names for plugins that are handed in without one, by kind.

    Raises:
        OptionError: a name is no text, or of a kind that there is not, or that is not handed in or has a name.
    """
    called = mapping("names", names)
    for kind, name in called.items():
        if kind not in plugins:
            raise OptionError(f"names go by kind ({', '.join(plugins)}), and '{kind}' is none.")
        if not isinstance(name, str) or not name.strip():
            raise OptionError(f"names takes texts, and {shown(name)} for the {kind} is none.")
        if plugins[kind] is None or isinstance(plugins[kind], Named | Sequence):
            raise OptionError(
                f"names has '{name[:60]}' for a {kind}, but none is handed in that has no name yet. Give it together "
                f"with the {kind}."
            )
    return called


def chain(scorers: Any, name: str | None = None) -> tuple[Named, ...]:
    """One scorer, or several as ``(name, scorer)``, each under its name; named ones are taken as they are.

    ``name``: of one scorer; None: its class's.

    Raises:
        OptionError: it is neither, or empty.
    """
    if isinstance(scorers, Named):
        return (scorers,)
    if isinstance(scorers, tuple) and scorers and all(isinstance(scorer, Named) for scorer in scorers):
        return scorers
    if callable(scorers):
        return (Named.of("scorer", scorers, "scorers", name),)
    pairs = tuple(scorers) if isinstance(scorers, Iterable) and not isinstance(scorers, str | bytes) else (scorers,)
    if not pairs:
        raise OptionError("a realigner needs at least one scorer; 'lexical' always answers.")
    for pair in pairs:
        if not isinstance(pair, tuple | list) or len(pair) != 2 or not isinstance(pair[0], str):
            raise OptionError(f"scorers takes a plugin, or a list of (name, plugin), not {shown(pair)}.")
    return tuple(Named("scorer", name, _made("scorers", scorer)) for name, scorer in pairs)


def _made(argument: str, value: Any) -> Any:
    """A plugin that can be called, and no class of plugins."""
    if isinstance(value, type) or not callable(value):
        by_name = " (Realigner.from_pretrained and Registry.create take names)" if isinstance(value, str) else ""
        raise OptionError(f"{argument} takes a plugin that is made, not {shown(value)}{by_name}.")
    return value


@dataclass(frozen=True, eq=False)
class Parts:
    """The plugins of a realigner. Who only draws needs a generator alone.

    Attributes:
        generator: draws.
        tagger: names objects.
        scorers: judge them, tried in order.
        segmenter: finds them.
        reward: chooses among candidates.
        guide: the reward that guides sampling.
    """

    generator: Named
    tagger: Named | None = None
    scorers: tuple[Named, ...] = ()
    segmenter: Named | None = None
    reward: Named | None = None
    guide: Named | None = None

    @classmethod
    def of(cls, generator: Named, names: Mapping[str, str], **plugins: Any) -> Parts:
        """The parts as users hand them in: plugins or :class:`Named`, scorers as for :func:`chain`; None where missing.

        Raises:
            OptionError: one cannot be called, or is a class.
        """

        def part(kind: str, argument: str) -> Named | None:
            plugin = plugins[argument]
            return None if plugin is None else Named.of(kind, plugin, argument, names.get(kind))

        scorers = plugins["scorers"]
        return cls(
            generator,
            part("tagger", "tagger"),
            () if scorers is None else chain(scorers, names.get("scorer")),
            part("segmenter", "segmenter"),
            part("reward", "select_by"),
            None if plugins["guide_by"] is None else Named.of("reward", plugins["guide_by"], "guide_by"),
        )

    def needed(self, kind: str) -> Named:
        """The tagger, segmenter or reward.

        Raises:
            OptionError: there is none.
        """
        part: Named | None = getattr(self, kind)
        if part is None:
            raise _missing(kind, "select_by" if kind == "reward" else kind)
        return part

    @property
    def chain(self) -> tuple[Named, ...]:
        """The scorers.

        Raises:
            OptionError: there is none.
        """
        if not self.scorers:
            raise _missing("scorer", "scorers")
        return self.scorers

    def check_complete(self) -> None:
        """Refuse to realign without a plugin for each step.

        Raises:
            OptionError: one is missing.
        """
        self.needed("tagger"), self.chain, self.needed("segmenter")

    @property
    def single(self) -> tuple[Named, ...]:
        """Those that are there, but for the scorers, of which there may be several."""
        return tuple(part for part in (self.generator, self.tagger, self.segmenter, self.reward) if part is not None)


def _missing(kind: str, argument: str) -> OptionError:
    lacks = "cannot choose among candidates" if kind == "reward" else "all that it can do is draw coarse images"
    return OptionError(f"this realigner was made without a {kind}, so {lacks}. Give {argument}=… when making it.")


def _recordable(name: str, value: Any) -> Any:
    if value is None or isinstance(value, bool | int):
        return value  # a number is no secret: 'max_tokens' stays readable
    if isinstance(value, float):
        return value if value - value == 0 else str(value)  # JSON has no infinities
    if isinstance(value, SecretStr) or (value and secret_name(name)):  # that no key is set may be known
        return REDACTED
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="python")
    if isinstance(value, Mapping):
        return {str(key): _recordable(str(key), item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        items = sorted(value, key=str) if isinstance(value, set | frozenset) else value
        return [_recordable(name, item) for item in items]
    return redacted_urls(str(value))
