"""Which layer of a pipeline an adapter's key means, in any of the spellings that adapters are published in."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from realignkit.errors import ModelError

DENOISERS = ("unet", "transformer")
TEXT_ENCODERS = ("text_encoder", "text_encoder_2", "text_encoder_3")
_PREFIX = re.compile(
    r"(?:base_model\.model\.|module\.|_orig_mod\.)*"
    r"(?:lora_(?P<kohya>unet|transformer|te\d?)_"
    r"|(?:model\.)?(?P<dotted>unet|transformer|diffusion_model|text_encoder(?:_\d)?|te\d?)\.)?"
    r"(?:base_model\.model\.|module\.|_orig_mod\.)*(?P<name>.+)"
)
_SHORT = {"te": "text_encoder", "te1": "text_encoder", "te2": "text_encoder_2", "te3": "text_encoder_3"}
_PROCESSOR = re.compile(r"[._]processor(?=[._])")
_CLIP_ATTENTION = {"q_proj": "to_q", "k_proj": "to_k", "v_proj": "to_v", "out_proj": "to_out"}
_RESNET = {"conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "conv2": "out_layers.3"}
_RESNET |= {"conv_shortcut": "skip_connection"}
_STEM = {"conv_in": "input_blocks.0.0", "conv_out": "out.2", "time_embedding.linear_1": "time_embed.0"}
_STEM |= {"time_embedding.linear_2": "time_embed.2", "add_embedding.linear_1": "label_emb.0.0"}
_STEM |= {"add_embedding.linear_2": "label_emb.0.2"}
_BLOCK = re.compile(
    r"(?P<side>down|mid|up)_blocks?\.(?:(?P<i>\d+)\.)?"
    r"(?P<part>attentions|resnets|downsamplers|upsamplers)\.(?P<j>\d+)\.(?P<rest>.+)"
)


class Layer(NamedTuple):
    """A layer of a pipeline: the component's name, and the module's in it."""

    component: str
    name: str


class Layers:
    """The linear and convolutional layers of a pipeline's denoising network and text encoders, by any spelling.

    Args:
        pipeline: of diffusers.
    """

    def __init__(self, pipeline: Any) -> None:
        import torch

        networks = {name: getattr(pipeline, name, None) for name in (*DENOISERS, *TEXT_ENCODERS)}
        self.networks = {name: part for name, part in networks.items() if isinstance(part, torch.nn.Module)}
        self.denoiser = next((name for name in DENOISERS if name in self.networks), DENOISERS[0])
        self._names: dict[str, dict[str, str]] = {}

    def module(self, layer: Layer) -> Any:
        """The ``nn.Linear`` or ``nn.Conv2d``."""
        return self.networks[layer.component].get_submodule(layer.name)

    def find(self, key: str, folder: str | None = None) -> tuple[Layer | None, str]:
        """The layer that the front of a key names, or None; and the component that it names or lies in ("" if none).

        Args:
            key: without its end (``.lora_A.weight`` …): a dotted path, perhaps behind ``unet.``, ``text_encoder.``,
                ``base_model.model.`` …, or one joined by underscores behind ``lora_unet_``, ``lora_te1_`` ….
            folder: the component that the file's folder names, for keys that name none.

        Raises:
            ModelError: it names no component, and a layer of several.
        """
        match = _PREFIX.fullmatch(key)
        if match is None:
            return None, folder or ""
        named = match["kohya"] or match["dotted"]
        component = _SHORT.get(named, named) if named else folder
        # kohya's tools call every denoising network a U-Net.
        if named == "diffusion_model" or (match["kohya"] == "unet" and "unet" not in self.networks):
            component = self.denoiser
        name = _PROCESSOR.sub("", match["name"]).replace(".", "_")
        places = [component] if component else list(self.networks)
        layers = [
            Layer(place, self.names(place)[name])
            for place in places
            if place in self.networks and name in self.names(place)
        ]
        if len(layers) > 1:
            raise ModelError(
                f"the key '{key}' does not say whether it is of {' or of '.join(layer.component for layer in layers)}. "
                f"Put the file into a folder of that name and give the folder around it."
            )
        return (layers[0], layers[0].component) if layers else (None, component or "")

    def names(self, component: str) -> dict[str, str]:
        """Every spelling of a component's layers, dots as underscores -> the module's name."""
        if component not in self._names:
            network = self.networks[component]
            modules = layer_names(network)
            pairs = [(spelling, name) for name in modules for spelling in spellings(network, name)]
            pairs += [(name, name) for name in modules]  # last: a layer's own name is nobody else's
            self._names[component] = {spelling.replace(".", "_"): name for spelling, name in pairs}
        return self._names[component]


def layer_names(network: Any) -> list[str]:
    """Names of the modules that low-rank adapters can be merged into exactly."""
    from torch import nn

    return [name for name, module in network.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)]


def spellings(network: Any, name: str) -> Iterator[str]:
    """What other programs and older versions call a layer."""
    if name.endswith(".to_out.0"):
        yield name.removesuffix(".0")  # attention processors of old
    if _is_unet(network) and (original := _original(network, name)):
        yield original
    # Text encoders have had and lost an outer "text_model", and their attention the names of a U-Net's.
    bare = name.removeprefix("text_model.")
    front, _, last = bare.rpartition(".")
    for spelling in (bare, f"{front}.{_CLIP_ATTENTION[last]}") if last in _CLIP_ATTENTION else (bare,):
        yield spelling
        yield f"text_model.{spelling}"


def _is_unet(network: Any) -> bool:
    blocks = getattr(network, "down_blocks", None) or [None]
    return hasattr(network, "up_blocks") and hasattr(blocks[0], "resnets")


def _original(network: Any, name: str) -> str | None:
    """What Stability's own code calls a layer of a U-Net: the names of most adapters for SDXL."""
    if name in _STEM:
        return _STEM[name]
    block = _BLOCK.fullmatch(name)
    if block is None:
        return None
    i, j, part, rest = int(block["i"] or 0), int(block["j"]), block["part"], block["rest"]
    attentive = part == "attentions"
    step = len(network.down_blocks[0].resnets) + 1  # a down block's own layers and the one that resizes
    if part == "resnets":
        rest = _RESNET.get(rest, rest)
    if block["side"] == "mid":
        return f"middle_block.{1 if attentive else 2 * j}.{rest}"
    if part.endswith("samplers") and rest != "conv":
        return None
    if part == "downsamplers":
        return f"input_blocks.{(i + 1) * step}.0.op"
    if part == "upsamplers":
        return f"output_blocks.{i * step + step - 1}.{2 if hasattr(network.up_blocks[i], 'attentions') else 1}.conv"
    if block["side"] == "down":
        return f"input_blocks.{1 + i * step + j}.{int(attentive)}.{rest}"
    return f"output_blocks.{i * step + j}.{int(attentive)}.{rest}"
