"""From names and options to the plugins of a realigner: defaults, fallback chains, what goes on record."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, SecretStr

from realignkit._version import __version__
from realignkit.arguments import mapping
from realignkit.contracts import Options
from realignkit.errors import OptionError, PluginError
from realignkit.redaction import REDACTED, redacted_urls, url_secrets
from realignkit.registry import PluginInfo, Registry

LAST_SCORER = "lexical"
"""The scorer that every fallback chain ends with, because it always answers."""

_DEFAULTS = {"tagger": ("ram", "tag2text"), "scorer": (LAST_SCORER,), "segmenter": ("grounded_sam", "clipseg")}
_SECRET_WORDS = ("key", "token", "secret", "password", "credential")


class SamplingOptions(Options):
    """How both images are sampled; None leaves a value to the model."""

    num_inference_steps: int | None = Field(None, ge=1, le=1000, description="denoising steps")
    guidance_scale: float | None = Field(None, ge=0, allow_inf_nan=False, description="classifier-free guidance")
    height: int | None = Field(None, ge=8, multiple_of=8, description="image height in pixels")
    width: int | None = Field(None, ge=8, multiple_of=8, description="image width in pixels")
    negative_prompt: str | None = Field(None, description="what to steer away from")


class RealignerOptions(Options):
    """What is the realigner's own, neither attention nor sampling."""

    segment_unlikely: bool = Field(
        False, description="segment unlikely objects too: no modulation inside their masks (s_i = 0)"
    )


_FILES = (".safetensors", ".ckpt")
"""What a name that ends so means, also where nothing is there: the loader then says that."""


def unknown_option(name: str, known: Iterable[str]) -> OptionError:
    """The error for an option that nobody takes, with the nearest known names."""
    names = sorted(set(known))
    near = get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f"Did you mean {' or '.join(near)}? " if near else ""
    return OptionError(f"there is no option '{name}'. {hint}Known: {', '.join(names) or 'none'}.")


def choose_generator(registry: Registry, model: Any) -> PluginInfo:
    """A registered generator by name; any other folder, file or hub id is a ``stable_diffusion`` model.

    A pipeline, or a generator that is made, is taken as it is (see :mod:`realignkit.given`).

    Raises:
        PluginError: there is no such generator, folder or hub id.
        OptionError: it is nothing of the kind.
        ModelError: the pipeline cannot draw from prompts alone.
    """
    if isinstance(model, os.PathLike):
        model = os.fspath(model)
    if not isinstance(model, str):
        from realignkit.given import generator_info  # which imports torch

        return generator_info(model)
    known = {info.name for info in registry.infos("generator")}
    path = "/" in model or Path(model).exists() or Path(model).suffix.lower() in _FILES
    if model not in known and path and "stable_diffusion" in known:
        info = registry.info("generator", "stable_diffusion")
        return replace(info, name=model, options={**info.options, "model": model})
    try:
        return registry.info("generator", model)
    except PluginError as error:
        raise PluginError(
            f"{error} A folder, a file or a hub id (owner/name) of a Stable Diffusion model will do too."
        ) from None


def companions(info: PluginInfo) -> Mapping[str, str]:
    """The plugins that go with a generator (kind -> spec): as registered with it, else as its class declares."""
    declared = info.options.get("companions") or getattr(info.resolve(), "companions", None)
    return declared if isinstance(declared, Mapping) else {}


def choose(registry: Registry, kind: str, spec: str | None, beside: Mapping[str, str]) -> tuple[PluginInfo, ...]:
    """The plugins of a kind that ``spec`` names: one, or for scorers a chain ``"first,second"``.

    Without a spec, the generator's companion (``beside``), else a default. Chains end with ``lexical``.

    Raises:
        PluginError: an unknown name, or no default to fall back on.
    """
    spec = spec or beside.get(kind) or _default(registry, kind)
    names = [name.strip() for name in spec.split(",") if name.strip()] if kind == "scorer" else [spec]
    infos = [registry.info(kind, name) for name in dict.fromkeys(names)]
    if kind == "scorer":
        chosen = {info.name for info in infos}
        infos += [i for i in registry.infos(kind) if i.name == LAST_SCORER and i.name not in chosen and i.available]
    return tuple(infos)


def _default(registry: Registry, kind: str) -> str:
    available = [info.name for info in registry.infos(kind) if info.available]
    for name in _DEFAULTS[kind]:
        if name in available:
            return name
    if len(available) == 1:
        return available[0]
    raise PluginError(
        f"this model names no {kind} that goes with it: choose one with {kind}= (--{kind}). "
        f"Available: {', '.join(available) or 'none; install one'}."
    )


@dataclass(frozen=True)
class Assembly:
    """Plugins made and named: what :meth:`realignkit.Realigner.from_pretrained` puts together.

    ``given`` has the options that each was made with, ``(kind, name) -> options``.
    """

    plugins: Mapping[str, tuple[tuple[str, Any], ...]]
    given: Mapping[tuple[str, str], Mapping[str, Any]] = field(default_factory=dict)


def assemble(
    registry: Registry, model: Any, specs: Mapping[str, Any], options: Mapping[str, Mapping[str, Any]]
) -> Assembly:
    """Make a generator and the plugins beside it.

    Args:
        registry: where names are looked up.
        model: see :func:`choose_generator`.
        specs: tagger, scorer and segmenter: a name, a plugin, or None for what goes with the model.
        options: kind -> option -> value.

    Raises:
        PluginError: an unknown or unavailable plugin.
        OptionError: an unknown option or a bad value.
    """
    if unknown := options.keys() - {"generator", *specs}:
        raise OptionError(f"options go by kind ({', '.join(('generator', *specs))}), not {sorted(unknown)}.")
    generator = choose_generator(registry, model)
    plugins: dict[str, tuple[tuple[str, Any], ...]] = {}
    given: dict[tuple[str, str], Mapping[str, Any]] = {}
    for kind, spec in {"generator": None, **specs}.items():
        wishes = mapping(f"options['{kind}']", options.get(kind))
        if spec is not None and not isinstance(spec, str):
            if wishes:
                raise OptionError(f"options for a {kind} that is already made: give them when making it.")
            plugins[kind] = ((type(spec).__name__, spec),)
            continue
        infos = (generator,) if kind == "generator" else choose(registry, kind, spec, companions(generator))
        assigned = assign_options(infos, wishes)
        plugins[kind] = tuple((info.name, info.create(**own)) for info, own in zip(infos, assigned, strict=True))
        given |= {(kind, info.name): {**info.options, **own} for info, own in zip(infos, assigned, strict=True)}
    return Assembly(plugins, given)


def option_names(info: PluginInfo) -> frozenset[str] | None:
    """The options that a plugin declares; None when it declares nothing and takes what it is given."""
    model = info.options_model()
    return None if model is None else frozenset(model.model_fields)


def assign_options(infos: Sequence[PluginInfo], given: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Hand options to the plugins of one kind that know them.

    In a scorer chain an option goes to every scorer that knows it; ``"name.option"`` means that scorer alone.

    Raises:
        OptionError: nobody knows an option.
    """
    known = [option_names(info) for info in infos]
    assigned: list[dict[str, Any]] = [{} for _ in infos]
    for key, value in given.items():
        owner, _, option = key.rpartition(".")
        takers = [i for i, info in enumerate(infos) if owner in ("", info.name) and _takes(known[i], option)]
        if not takers:
            kind = infos[0].kind
            raise unknown_option(f"{kind}.{key}", (f"{kind}.{name}" for names in known for name in names or ()))
        for i in takers:
            assigned[i][option] = value
    return assigned


def _takes(names: frozenset[str] | None, option: str) -> bool:
    return names is None or option in names


def effective_options(plugin: object, given: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """All options of a plugin as JSON values, defaults included, secrets redacted."""
    options = getattr(plugin, "options", None)
    values = options.model_dump(mode="python") if isinstance(options, BaseModel) else dict(given or {})
    return {name: _recordable(name, value) for name, value in values.items()}


def secrets_of(plugin: object, given: Mapping[str, Any] | None = None) -> tuple[str, ...]:
    """The values of a plugin's secret options and the keys in its addresses, to be kept out of messages."""
    options = getattr(plugin, "options", None)
    # Not dict(options): an option may be called 'keys'.
    values = {**options.__dict__} if isinstance(options, BaseModel) else dict(given or {})
    found = []
    for name, value in values.items():
        if isinstance(value, SecretStr):
            found.append(value.get_secret_value())
        elif isinstance(value, str | list | tuple):
            texts = [text for text in ([value] if isinstance(value, str) else value) if isinstance(text, str)]
            found += texts if _secret(name) else [secret for text in texts for secret in url_secrets(text)]
    return tuple(secret for secret in found if secret)


def _secret(name: str) -> bool:
    return any(word in name.lower() for word in _SECRET_WORDS)


def _recordable(name: str, value: Any) -> Any:
    if value is None or isinstance(value, bool | int):
        return value  # a number is no secret: 'max_tokens' stays readable
    if isinstance(value, float):
        return value if value - value == 0 else str(value)  # JSON has no infinities
    if isinstance(value, SecretStr) or (value and _secret(name)):  # that no key is set may be known
        return REDACTED
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="python")
    if isinstance(value, Mapping):
        return {str(key): _recordable(str(key), item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        items = sorted(value, key=str) if isinstance(value, set | frozenset) else value
        return [_recordable(name, item) for item in items]
    return redacted_urls(str(value))


def versions() -> dict[str, str]:
    """Versions of realignkit, Python and the libraries that results depend on."""
    found = {"realignkit": __version__, "python": platform.python_version()}
    for name in ("torch", "diffusers", "transformers", "numpy", "pillow"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
