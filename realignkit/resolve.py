"""From names, specs, options and pipelines of diffusers to plugins: defaults, fallback chains, sums of rewards."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import Field

from realignkit.arguments import instance, mapping, shown
from realignkit.contracts import Options
from realignkit.errors import OptionError, PluginError
from realignkit.named import Named
from realignkit.pipelines import families
from realignkit.registry import PluginInfo, Registry
from realignkit.suggestions import unknown_option

LAST_SCORER = "lexical"
"""The scorer that every fallback chain ends with, because it always answers."""

SUM_OPTIONS = ("normalise",)
"""Options of a weighted sum of rewards itself; the others are its parts'."""

_DEFAULTS = {
    "tagger": ("ram", "tag2text"),
    "scorer": (LAST_SCORER,),
    "segmenter": ("grounded_sam", "clipseg"),
    "vqa": ("blip_vqa",),
}


class SamplingOptions(Options):
    """How both images are sampled; None leaves a value to the model."""

    num_inference_steps: int | None = Field(None, ge=1, le=1000, description="denoising steps")
    guidance_scale: float | None = Field(None, ge=0, allow_inf_nan=False, description="classifier-free guidance")
    height: int | None = Field(None, ge=8, multiple_of=8, description="image height in pixels")
    width: int | None = Field(None, ge=8, multiple_of=8, description="image width in pixels")
    negative_prompt: str | None = Field(None, description="what to steer away from")


_FILES = (".safetensors", ".ckpt")
"""What a name that ends so means, also where nothing is there: the loader then says that."""


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
    path = "/" in model or bool(model and Path(model).exists()) or Path(model).suffix.lower() in _FILES
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
    spec = companions.get(kind) or _default(registry, kind) if spec is None else spec
    names = [name.strip() for name in spec.split(",") if name.strip()] if kind == "scorer" else []
    infos = [registry.info(kind, name) for name in dict.fromkeys(names or [spec])]
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
        Named(info.kind, info.name, info.create(**chosen), {**info.options, **chosen})
        for info, chosen in zip(infos, assigned, strict=True)
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
        takers = [
            i
            for i, (info, names) in enumerate(zip(infos, known, strict=True))
            if owner in ("", info.name) and (names is None or option in names)
        ]
        if not takers:
            kind = infos[0].kind
            options = (f"{kind}.{name}" for names in known for name in names or ())
            raise unknown_option(f"{kind}.{key}", options, owners=[info.name for info in infos])
        for i in takers:
            assigned[i][option] = value
    return assigned


# --- rewards ----------------------------------------------------------------------------------------------------------


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


def rewards_in(spec: str, companions: Mapping[str, str] | None) -> dict[str, str]:
    """The rewards that a spec means: by its own names those that stand for them.

    Args:
        spec: see :func:`parse_weights`.
        companions: a generator's companions: ``"reward:clip" -> "micro_clip"`` stands in for ``clip``.

    Raises:
        OptionError: a bad spec, or two of its names mean the same.
    """
    meant = {name: (companions or {}).get(f"reward:{name}", name) for name in parse_weights(spec)}
    for name, other in meant.items():
        if name != other and other in meant:
            raise OptionError(f"'{spec}' has one reward twice: with this model '{name}' means '{other}'. Give it once.")
    return meant


def make_reward(
    registry: Registry,
    spec: str = "",
    options: Mapping[str, Any] | None = None,
    companions: Mapping[str, str] | None = None,
) -> Any:
    """Make a reward (:class:`realignkit.contracts.Reward`) by name, or a weighted sum of several.

    Args:
        registry: where names are looked up.
        spec: see :func:`parse_weights`.
        options: option -> value. In a sum an option goes to every reward that knows it; ``"name.option"`` to one;
            ``normalise`` is the sum's own.
        companions: see :func:`rewards_in`.

    Raises:
        OptionError: a bad spec, an unknown option or a bad value, or no registry.
        PluginError: an unknown or unavailable reward.
    """
    if not isinstance(registry, Registry):
        raise OptionError(f"registry takes a Registry (default_registry() is one), not {shown(registry)}.")
    weights, names = parse_weights(spec), rewards_in(spec, mapping("companions", companions))
    infos = [registry.info("reward", name) for name in names.values()]
    alone = list(weights.values()) == [1.0]
    of_parts, of_sum = {}, {}
    for key, value in mapping("options", options).items():
        owner, _, option = key.rpartition(".")
        if key in SUM_OPTIONS and not alone:
            of_sum[key] = value
        else:
            of_parts[f"{names[owner]}.{option}" if owner in names else key] = value
    assigned = assign_options(infos, of_parts)
    if alone:
        return infos[0].create(**assigned[0])
    return registry.create(
        "reward",
        "weighted",
        registry=registry,
        rewards={names[name]: weight for name, weight in weights.items()},
        options={info.name: chosen for info, chosen in zip(infos, assigned, strict=True) if chosen},
        **of_sum,
    )


def measuring_reward(
    registry: Registry,
    spec: str,
    options: Mapping[str, Any] | None = None,
    companions: Mapping[str, str] | None = None,
    *,
    as_trained: bool = False,
) -> Any:
    """:func:`make_reward`, to measure with: in float32 on every device, unless the option ``dtype`` says otherwise.

    Raises:
        OptionError: as there, or (unless what it is trained with is measured, ``as_trained``) an option on which
            nothing that the reward reports depends.
    """
    infos = (registry.info("reward", name) for name in rewards_in(spec, companions).values())
    known = any("dtype" in (option_names(info) or ()) for info in infos)
    reward = make_reward(registry, spec, {**({"dtype": "fp32"} if known else {}), **(options or {})}, companions)
    parts = [part.plugin for part, _ in reward.parts] if hasattr(reward, "parts") else [reward]
    in_vain = {option for part in parts if not as_trained for option in getattr(part, "training_options", ())}
    if given := [key for key in options or {} if key.rpartition(".")[2] in in_vain]:
        raise OptionError(
            f"'{given[0]}' says what a training with '{spec}' learns from; what it reports is the same whatever that "
            f"is. Leave it out, or measure what is learnt from: a metric of a reward takes as_trained=true."
        )
    return reward


# --- models that are made already -------------------------------------------------------------------------------------


def made_generator(model: Any) -> Any:
    """A generator that is already made as it is, a pipeline as one; None for anything else.

    Raises:
        ModelError: the pipeline cannot draw from prompts alone.
    """
    if not isinstance(model, type):
        if callable(getattr(model, "pipeline", None)):
            return model
        if families.is_a(model, "DiffusionPipeline") or families.is_text_to_image(model):
            from realignkit.pipelines.generate import GivenPipeline

            return GivenPipeline(model)
    return None


def generator_info(model: Any) -> PluginInfo:
    """A generator that is already made, or a pipeline, like a registered one.

    Raises:
        OptionError: it is neither.
        ModelError: the pipeline cannot draw from prompts alone.
    """
    made = made_generator(model)
    if made is None:
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
