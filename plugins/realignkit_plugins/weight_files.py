"""Files of weights as people have them: the tensors in them, by name."""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from realignkit.errors import ModelError
from realignkit_plugins.failures import again, explain, is_local
from realignkit_plugins.model_names import no_such_file
from realignkit_plugins.weight_formats import SCALES, first_bytes, header, is_safetensors, no_weights

if TYPE_CHECKING:
    from torch import Tensor

_NESTED = ("state_dict", "model", "module")
"""Under which names trainers keep the weights, beside an optimiser's state and the like."""
_FOREIGN = re.compile(r"GLOBAL ([\w.]+)|(?:type|class) ([\w.]+)")


def read_weights(path: Path, model: str | None = None) -> dict[str, Tensor]:
    """Tensors by name, on the CPU, from a safetensors file or one that torch wrote (today's zip, or its old format).

    Weights may be at the top or under ``state_dict``, ``model`` or ``module``; where the top has only parts, their
    names come before those of their weights. What is no tensor is left out. Nothing
    is unpickled but tensors and plain values. Where the format allows, the file is mapped rather than read: what is not
    used (an optimiser's state, a half of the network) takes no memory.

    Args:
        path: the file; its format is told by its content, whatever its name ends with.
        model: what the user calls it, for messages.

    Raises:
        ModelError: it is missing, damaged, quantised, no file of weights, or holds something that unpickling would have
            to run.
    """
    model = model or str(path)
    if not path.is_file():
        raise no_such_file(path)
    local = is_local(model)
    named = model if model.endswith(path.name) else f"{model}/{path.name}"
    try:
        begin = first_bytes(path)
        if instead := no_weights(path, begin):
            raise ModelError(f"'{named}' {'. '.join(instead)}")
        data: Any = _safetensors(path) if is_safetensors(begin) else _torch(path)
    except ModelError:
        raise
    except Exception as error:  # torch and safetensors raise a dozen types for a bad file
        reason = _of_a_pickle(error, again(model, local)) or explain(model, error, local)
        raise ModelError(f"'{named}' cannot be read as weights {reason}") from error
    weights = _tensors(data)
    if not weights:
        raise ModelError(
            f"'{named}' holds no weights, neither at its top nor under {', '.join(_NESTED)}. Check that it is the "
            f"right file."
        )
    _refuse_quantised(weights, named)
    return weights


def metadata(path: Path) -> dict[str, Any]:
    """What a safetensors file says of itself; nothing of other files."""
    return header(path).get("__metadata__") or {}


def _refuse_quantised(weights: Mapping[str, Tensor], named: str) -> None:
    """Numbers that stand for others by a scale: read as they are, they would compute something else, or nothing."""
    how = next((f" (it has {name})" for name in weights if name.endswith(SCALES)), None)
    for name, weight in weights.items():
        if how is None and name.endswith(".weight") and not weight.is_floating_point():
            how = f" to whole numbers ({str(weight.dtype).removeprefix('torch.')})"
    if how is not None:
        raise ModelError(
            f"'{named}' cannot be used: its weights are quantised{how}, which is not read. Give a float file of the "
            f"same model (fp16, bf16 or fp32)."
        )


def _safetensors(path: Path) -> Any:
    from safetensors.torch import load_file

    return load_file(path)


def _torch(path: Path) -> Any:
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # about the pickle's age, which is seen by whether it loads
        if zipfile.is_zipfile(path) and path.suffix != ".safetensors":  # by that name torch would not unpickle
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        with path.open("rb") as file:
            return torch.load(file, map_location="cpu", weights_only=True)


def _of_a_pickle(error: Exception, advice: str) -> str | None:
    """Of a pickle: what it would have run, that it is none of torch's, or that it is cut short; else None."""
    message = " ".join(str(error).split())
    if "failed finding central directory" in message:
        return f"(it is damaged or only half there: its end is cut off). {advice}"
    if "Unsupported operand" in message or "Invalid magic number" in message:
        return "(it is a pickle that torch did not write, which is not read). Take the model as safetensors."
    if "nsupported" in message or "not an allowed" in message:
        code = _FOREIGN.search(message)
        what = f" ({code[1] or code[2]})" if code else ""
        return (
            f"(it holds more than tensors and plain values{what}, and what cannot be loaded without running it is "
            f"refused). Take the model as safetensors."
        )
    cut_short = isinstance(error, pickle.UnpicklingError | IndexError)
    return f"(it is damaged or only half there). {advice}" if cut_short else None


def _tensors(data: Any) -> dict[str, Tensor]:
    import torch

    if not isinstance(data, Mapping):
        return {}
    inner = next((data[name] for name in _NESTED if isinstance(data.get(name), Mapping)), None)
    if inner is not None:
        return _tensors(inner)
    tensors = {str(name): value for name, value in data.items() if isinstance(value, torch.Tensor)}
    if not tensors:  # parts under names of their own, one level deep
        for part, inside in data.items():
            if isinstance(inside, Mapping):
                tensors |= {f"{part}.{name}": w for name, w in inside.items() if isinstance(w, torch.Tensor)}
    return tensors
