"""Low-rank adapters (LoRA), merged into a loaded pipeline: every key of their files accounted for."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from realignkit.errors import ModelError
from realignkit_plugins.failures import loading
from realignkit_plugins.generators.lora_files import PEFT_CONFIG, AdapterFile, find
from realignkit_plugins.generators.lora_keys import LowRank, low_rank, some
from realignkit_plugins.generators.lora_layers import Layer, Layers, layer_names

if TYPE_CHECKING:
    from torch import Tensor

# Of PEFT's ways to begin, those that change the model's own weights too: the adapters alone are then not the change.
_CHANGES_THE_MODEL = ("pissa", "olora", "corda", "loftq", "lora_ga")
# PEFT's settings that make more of an adapter than a product of two matrices.
_MORE_THAN_LORA = ("lora_bias", "layer_replication", "target_parameters", "alora_invocation_tokens")


def merge_lora(
    pipeline: Any, lora: str, scale: float = 1.0, revision: str | None = None, *, partial: bool = False
) -> None:
    """Add an adapter to the pipeline's weights for good: ``W + scale * (alpha / r) * B A``.

    Merged, it costs nothing at sampling, and attention layers stay plain ones that can be modulated. Formats are those
    of diffusers, PEFT and kohya's tools, for the denoising network and the text encoders. ``alpha`` is the file's, or
    that of the ``adapter_config.json`` beside it; without one, r.

    Args:
        pipeline: with a ``unet`` or ``transformer``; changed in place.
        lora: a folder, a ``.safetensors`` file, a hub id, or a file of one (``owner/name:file.safetensors``).
        scale: 0 leaves the pipeline as it is.
        revision: branch, tag or commit on the hub.
        partial: merge what fits where not everything does.

    Raises:
        ModelError: it is missing, damaged, in pickle form, of a kind that is no sum of such products (DoRA, LoHa, LoKr
            …), fits no layer, or (unless ``partial``) not every key of it does; a shape or a rank is wrong; or merging
            changes nothing, or makes weights infinite.
    """
    whole = Path(lora).expanduser() / "model"
    if (whole / "model_index.json").is_file():
        raise ModelError(
            f"'{lora}' holds a whole model, no adapters, as its training changed weights of the model itself. Use it "
            f"in place of the one that it was trained from: --set generator.model={whole}"
        )
    with loading("LoRA", lora):
        layers = Layers(pipeline)
        contents = _Contents(lora, f"this {type(pipeline).__name__}", layers)
        for file in find(lora, revision):
            contents.add(file)
        contents.check(partial)
        contents.merge(scale)


class _Contents:
    """What the files of an adapter hold: what goes into which layer, and what goes nowhere."""

    def __init__(self, lora: str, model: str, layers: Layers) -> None:
        self.lora, self.model, self.layers = lora, model, layers
        self.adapters: dict[Layer, tuple[LowRank, float]] = {}
        self.total = self.matched = 0
        self.left: defaultdict[str, list[str]] = defaultdict(list)
        self.lacking: list[str] = []
        self.made_for = ""

    def add(self, file: AdapterFile) -> None:
        """Sort a file's keys."""
        self.total += len(file.tensors)
        self.made_for = self.made_for or file.made_for
        for config in file.configs.values():
            _refuse_config(config, self.lora)
        adapters, others = low_rank(file.tensors, self.lora)
        if others:
            self.left["of no adapter"] += others
        reached: dict[str, set[str]] = {}
        for front, adapter in adapters.items():
            layer, component = self.layers.find(front, file.component)
            if layer is None:
                self.left[self._foreign(component)] += adapter.keys
            elif adapter.down is None or adapter.up is None:
                self.left["half of a pair"] += adapter.keys
            elif layer in self.adapters:
                raise ModelError(f"'{self.lora}' holds two adapters for {layer.component}.{layer.name}. Give one file.")
            else:
                config = file.configs.get(component) or file.configs.get("", {})
                self.adapters[layer] = adapter, _factor(adapter, layer.name, config, self.lora)
                self.matched += len(adapter.keys)
                reached.setdefault(component, set()).add(layer.name)
        for component, names in reached.items():
            config = file.configs.get(component) or file.configs.get("", {})
            targets = _targets(config, layer_names(self.layers.networks[component]))
            if missing := [name for name in targets if name not in names]:
                self.lacking.append(
                    f"it holds {len(targets) - len(missing)} of the {len(targets)} layers of the {component} that its "
                    f"settings name (not {missing[0]})"
                )

    def _foreign(self, component: str) -> str:
        if not component:
            return "of layers that it does not have"
        if component not in self.layers.networks:
            return f"of {component}, which it does not have"
        return f"of layers that its {component} does not have"

    def check(self, partial: bool) -> None:
        """Refuse what does not fit in full, or at all."""
        for layer, (adapter, _) in self.adapters.items():
            self._fits(layer, adapter)
        reasons = [f"{len(keys)} are {why} ({some(keys, 1)})" for why, keys in self.left.items()]
        made_for = f" It says that it was made for {self.made_for}." if self.made_for else ""
        if not self.adapters:
            raise ModelError(
                f"'{self.lora}' fits no layer of {self.model}: of its {self.total} keys {' and '.join(reasons)}."
                f"{made_for} Use adapters that were trained for this kind of model."
            )
        if partial:
            return
        if reasons:
            reasons = [f"only {self.matched} of its {self.total} keys are of its layers; {' and '.join(reasons)}"]
        if reasons or self.lacking:
            raise ModelError(
                f"'{self.lora}' fits {self.model} in part: {'; '.join([*reasons, *self.lacking])}.{made_for} Use "
                f"adapters that were trained for this model, or take what fits with the option lora_partial=true."
            )

    def _fits(self, layer: Layer, adapter: LowRank) -> None:
        weight = self.layers.module(layer).weight
        down, up = tuple(adapter.down.shape), tuple(adapter.up.shape)  # type: ignore[union-attr]
        wide = _trimmed(down[1:]) != _trimmed(weight.shape[1:]) or up[:1] != tuple(weight.shape[:1])
        if wide or len(down) < 2 or len(_trimmed(up[1:])) > 1 or len(up) < 2 or up[1] != down[0]:
            raise ModelError(
                f"'{self.lora}' does not fit {self.model}: the layer {layer.component}.{layer.name} has a weight of "
                f"{list(weight.shape)}, the adapter's two are {list(up)} and {list(down)}. Use adapters that were "
                f"trained for this kind of model."
            )

    def merge(self, scale: float) -> None:
        """Change the layers' weights."""
        import torch

        if scale == 0:
            return
        changed, zero = 0, True
        for layer, (adapter, factor) in self.adapters.items():
            weight = self.layers.module(layer).weight
            with torch.no_grad():
                change = _product(adapter, weight) * (factor * scale)
                # The sum in the weights' own precision, as diffusers and PEFT merge.
                new = weight + change.to(weight.dtype)
                if not torch.isfinite(new).all():
                    raise ModelError(
                        f"with '{self.lora}' the weights of {layer.component}.{layer.name} become infinite or NaN. "
                        f"Check the file, use a smaller lora_scale, or load the model with dtype=fp32."
                    )
                zero = zero and not change.any()
                changed += not torch.equal(new, weight)
                weight.copy_(new)
        if not changed:
            why = "all that it would add is zero" if zero else f"what it adds is lost in rounding to {weight.dtype}"
            advice = "Give adapters that were trained." if zero else "Use a larger lora_scale, or load with dtype=fp32."
            raise ModelError(f"'{self.lora}' changes nothing: {why}. {advice}")


def _product(adapter: LowRank, weight: Tensor) -> Tensor:
    """``B A`` in float32, of the weight's shape; a convolution's are matrices over channels and window."""
    up, down = adapter.up, adapter.down
    assert up is not None and down is not None
    return (up.float().flatten(1) @ down.float().flatten(1)).view(weight.shape).to(weight.device)


def _factor(adapter: LowRank, name: str, config: Mapping[str, Any], lora: str) -> float:
    """``alpha / r``, from the keys before the settings."""
    from peft.utils.other import get_pattern_key

    rank = adapter.down.shape[0] if adapter.down is not None and adapter.down.ndim else 0
    ranks, alphas = config.get("rank_pattern") or {}, config.get("alpha_pattern") or {}
    stated = ranks.get(get_pattern_key(ranks, name), config.get("r", rank))
    if stated != rank:
        raise ModelError(
            f"'{lora}' is damaged or put together wrongly: at the layer {name} it has rank {rank}, its settings say "
            f"{stated!r}. Take the weights and {PEFT_CONFIG} from the same training."
        )
    alpha = adapter.alpha
    if alpha is None:
        alpha = alphas.get(get_pattern_key(alphas, name), config.get("lora_alpha", rank))
    if not isinstance(alpha, int | float) or not math.isfinite(alpha) or alpha == 0 or rank == 0:
        raise ModelError(
            f"'{lora}' has rank {rank} and alpha = {alpha!r} at the layer {name}. Get the file again from its authors."
        )
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _refuse_config(config: Mapping[str, Any], lora: str) -> None:
    kind = config.get("peft_type") or "LORA"
    begun = str(config.get("init_lora_weights"))
    more = [name for name in config if name.startswith("use_") and name != "use_rslora"]
    more = [name for name in (*more, *_MORE_THAN_LORA) if config.get(name)]
    if kind != "LORA" or more:
        what = "DoRA" if "use_dora" in more else f"LoRA with {more[0]}" if more else kind
        raise ModelError(
            f"'{lora}' is a {what} adapter, which cannot be merged exactly as a plain LoRA is. Merge it with PEFT "
            f"(merge_and_unload) and use the merged model, or train a plain LoRA."
        )
    if begun.startswith(_CHANGES_THE_MODEL):
        raise ModelError(
            f"'{lora}' was begun with init_lora_weights={begun}, which changes the model's weights too. Save it with "
            f"PEFT's path_initial_model_for_weight_conversion, which makes a plain LoRA of it."
        )


def _targets(config: Mapping[str, Any], names: list[str]) -> list[str]:
    """The layers that PEFT's settings name; none where they name none."""
    from peft import LoraConfig
    from peft.tuners.tuners_utils import check_target_module_exists

    options = ("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "modules_to_save")
    chosen = LoraConfig(**{name: config[name] for name in options if config.get(name)})
    if chosen.target_modules in (None, "all-linear"):
        return []
    return [name for name in names if check_target_module_exists(chosen, name)]


def _trimmed(shape: Any) -> tuple[int, ...]:
    """Without the trailing ones of a 1 x 1 convolution."""
    sizes = tuple(shape)
    while len(sizes) > 1 and sizes[-1] == 1:
        sizes = sizes[:-1]
    return sizes
