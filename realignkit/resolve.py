"""From names, specs, options and pipelines of diffusers to plugins: defaults, fallback chains, options dealt out."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from realignkit.arguments import mapping, shown
from realignkit.contracts import Generator, Options
from realignkit.errors import ModelError, OptionError, PluginError
from realignkit.named import Named
from realignkit.registry import PluginInfo, Registry

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

LAST_SCORER = "lexical"
"""The scorer that every fallback chain ends with, because it always answers."""

_DEFAULTS = {"tagger": ("ram", "tag2text"), "scorer": (LAST_SCORER,), "segmenter": ("grounded_sam", "clipseg")}


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


def value_of(text: str) -> Any:
    """JSON where it parses as JSON, otherwise the text itself."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def choose_generator(registry: Registry, model: Any) -> PluginInfo:
    """A registered generator by name; any other folder, file or hub id is a ``stable_diffusion`` model.

    A pipeline, or a generator that is made, is taken as it is.

    Raises:
        PluginError: there is no such generator, folder or hub id.
        OptionError: it is nothing of the kind.
        ModelError: the pipeline cannot draw from prompts alone.
    """
    if isinstance(model, os.PathLike):
        model = os.fspath(model)
    if not isinstance(model, str):
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


def companions_of(info: PluginInfo) -> Mapping[str, str]:
    """The plugins that go with a generator (kind -> spec): as registered with it, else as its class declares."""
    declared = info.options.get("companions") or getattr(info.resolve(), "companions", None)
    return declared if isinstance(declared, Mapping) else {}


def choose(registry: Registry, kind: str, spec: str | None, companions: Mapping[str, str]) -> tuple[PluginInfo, ...]:
    """The plugins of a kind that ``spec`` names: one, or for scorers a chain ``"first,second"``.

    Without a spec, the generator's companion (``companions``), else a default. Chains end with ``lexical``.

    Raises:
        PluginError: an unknown name, or no default to fall back on.
    """
    spec = spec or companions.get(kind) or _default(registry, kind)
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


def assemble(
    registry: Registry, model: Any, specs: Mapping[str, Any], options: Mapping[str, Mapping[str, Any]]
) -> dict[str, tuple[Named, ...]]:
    """Make a generator and the plugins beside it: by kind one of them, or the scorers of a chain.

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
    plugins: dict[str, tuple[Named, ...]] = {}
    for kind, spec in {"generator": None, **specs}.items():
        wishes = mapping(f"options['{kind}']", options.get(kind))
        if spec is not None and not isinstance(spec, str):
            if wishes:
                raise OptionError(f"options for a {kind} that is already made: give them when making it.")
            plugins[kind] = (Named.of(kind, spec, "scorers" if kind == "scorer" else kind),)
            continue
        infos = (generator,) if kind == "generator" else choose(registry, kind, spec, companions_of(generator))
        plugins[kind] = make(infos, wishes)
    return plugins


def make(infos: Sequence[PluginInfo], options: Mapping[str, Any]) -> tuple[Named, ...]:
    """Make plugins of one kind, each with those options that it knows; see :func:`assign_options`.

    Raises:
        PluginError: one is unavailable, or its constructor fails.
        OptionError: nobody knows an option, or it has a bad value.
    """
    assigned = assign_options(infos, options)
    return tuple(
        Named(info.kind, info.name, info.create(**own), {**info.options, **own})
        for info, own in zip(infos, assigned, strict=True)
    )


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


class GivenPipeline(Generator):
    """A pipeline as it is: on its device, with its attention, precision and scheduler.

    Raises:
        ModelError: it is no text-to-image pipeline, or a part of it is missing.
    """

    class Options(Options):
        """What goes on record."""

        model: str = Field("", description="where it was loaded from, as far as it knows")

    def __init__(self, pipeline: DiffusionPipeline) -> None:
        from realignkit.pipelines import refusals

        if reason := refusals.why_not_drawn(pipeline):
            raise ModelError(reason)
        super().__init__(model=str(getattr(getattr(pipeline, "config", None), "_name_or_path", "")))
        self._pipeline = pipeline

    @property
    def attention_family(self) -> str | None:  # type: ignore[override]
        """``"unet"``, ``"pixart"``, or None where attention cannot be modulated."""
        from realignkit.pipelines import families

        return families.attention_family(self._pipeline)

    def pipeline(self) -> DiffusionPipeline:
        """The pipeline."""
        return self._pipeline


def generator_info(model: Any) -> PluginInfo:
    """A generator that is already made, or a pipeline, like a registered one.

    Raises:
        OptionError: it is neither.
        ModelError: see :class:`GivenPipeline`.
    """
    if not isinstance(model, type) and callable(getattr(model, "pipeline", None)):
        made = model
    elif _is_pipeline(model):
        made = GivenPipeline(model)
    else:
        raise OptionError(
            f"a model is the name of a generator, a folder or hub id, a pipeline of diffusers, or a generator that is "
            f"made, not {shown(model)}."
        )
    return PluginInfo("generator", type(model).__name__, "given", _Made(made))


class _Made:
    """Stands where the class of a plugin does."""

    def __init__(self, plugin: Any) -> None:
        self.plugin, self.companions = plugin, getattr(plugin, "companions", {})

    def __call__(self, **options: Any) -> Any:
        if options:
            raise OptionError("options for a generator that is already made: give them when making it.")
        return self.plugin


def _is_pipeline(value: Any) -> bool:
    if isinstance(value, type):
        return False
    import diffusers

    from realignkit.pipelines import families

    return isinstance(value, diffusers.DiffusionPipeline) or families.is_text_to_image(value)
