"""What the tensors of an adapter file are: pairs of low-rank weights, in every form that can be merged exactly."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from realignkit.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor

_LOW_RANK = re.compile(
    r"(?P<layer>.+?)(?:\.lora_(?P<letter>A|B|down|up)(?:\.(?P<adapter>[^.]+))?"
    r"|(?:\.lora_linear_layer|\.lora|_lora)\.(?P<word>down|up))\.weight"
)
_ALPHA = re.compile(r"(?P<layer>.+?)(?:\.lora_linear_layer|\.lora|_lora)?\.(?:lora_)?alpha")
_ROLES = {"A": "down", "B": "up"}
# What else adapters are made of. None of it is a low-rank product alone, so merging that would be wrong.
_OTHER_KINDS = {
    "DoRA": r"\.(dora_scale|lora_magnitude_vector)\b",
    "LoHa": r"\.hada_[wt]\d",
    "LoKr": r"\.lokr_[wt]\d",
    "LoCon with a middle weight (CP decomposition)": r"\.lora_mid\b",
    "AdaLoRA": r"\.(lora_E|ranknum)\b",
    "VeRA": r"\bvera_",
    "IA3": r"\.(ia3_l|on_input)\b",
    "OFT or BOFT": r"\.b?oft_",
    "GLoRA": r"\.[ab][12]\.weight$",
    "LyCORIS of whole weights": r"\.(diff|diff_b|w_norm|b_norm)$",
    "LoRA with adapters of an embedding": r"\.lora_embedding_[AB]\b",
    "LoRA with adapters of biases": r"\.lora_([AB]|up|down)(\.[^.]+)?\.bias$",
}
_TEXTUAL_INVERSION = re.compile(r"^emb_params$|string_to_param|^clip_[lg]$|^<[^>]+>$")


@dataclass
class LowRank:
    """The weights that are added to one layer, ``alpha / r * up @ down``, as a file has them.

    Attributes:
        down: (r, in) or, of a convolution, (r, in, height, width); None where the file lacks it.
        up: (out, r), perhaps with trailing ones.
        alpha: None where the file does not say.
        keys: of the file, that say so.
    """

    down: Tensor | None = None
    up: Tensor | None = None
    alpha: float | None = None
    keys: list[str] = field(default_factory=list)


def low_rank(tensors: Mapping[str, Tensor], file: str) -> tuple[dict[str, LowRank], list[str]]:
    """Sort a file's tensors into adapters by the front of their keys, and the keys of none.

    Args:
        tensors: by key.
        file: its name, for messages.

    Raises:
        ModelError: it is of a kind that is no sum of low-rank products, or is no adapter at all, or holds two.
    """
    refuse_other_kinds(tensors, file)
    adapters: dict[str, LowRank] = {}
    alphas: dict[str, tuple[str, float]] = {}
    others = []
    for key, tensor in tensors.items():
        if match := _LOW_RANK.fullmatch(key):
            adapter = adapters.setdefault(match["layer"], LowRank())
            role = _ROLES.get(match["letter"], match["letter"] or match["word"])
            if getattr(adapter, role) is not None:
                raise ModelError(
                    f"'{file}' holds two adapters for one layer ({adapter.keys[-1]}, {key}). Save each to a file of "
                    f"its own."
                )
            if not tensor.is_floating_point():
                raise ModelError(
                    f"'{file}' is quantised ({key} is {tensor.dtype}). Use the file in fp16, bf16 or fp32."
                )
            setattr(adapter, role, tensor)
            adapter.keys.append(key)
        elif (match := _ALPHA.fullmatch(key)) and tensor.numel() == 1:
            alphas[match["layer"]] = key, float(tensor)
        else:
            others.append(key)
    for layer, (key, alpha) in alphas.items():
        if layer in adapters:
            adapters[layer].alpha = alpha
            adapters[layer].keys.append(key)
        else:
            others.append(key)
    if not adapters:
        kind = "no LoRA but a textual inversion" if any(map(_TEXTUAL_INVERSION.search, tensors)) else "no LoRA"
        raise ModelError(
            f"'{file}' is {kind}: none of its {len(tensors)} keys is an adapter's ({some(tensors)}). Give the file "
            f"with the adapters."
        )
    for key in others:
        if key.rpartition(".")[0] in adapters:
            raise ModelError(
                f"'{file}' holds adapters of a kind that is not known here ({key}). Save them as plain LoRA."
            )
    return adapters, others


def refuse_other_kinds(keys: Iterable[str], file: str) -> None:
    """Raise what names the kind of adapters that are no plain LoRA.

    Raises:
        ModelError: they are.
    """
    for key in keys:
        for kind, pattern in _OTHER_KINDS.items():
            if re.search(pattern, key):
                raise ModelError(
                    f"'{file}' is a {kind} adapter ({key}), which cannot be merged exactly as a plain LoRA is. Convert "
                    f"it to LoRA, or merge it into a model with the program that made it and use that model."
                )


def some(keys: Iterable[str], most: int = 2) -> str:
    """The first few, quoted, for a message."""
    keys = list(keys)
    return ", ".join(repr(key[:120]) for key in keys[:most]) + (" …" if len(keys) > most else "")
