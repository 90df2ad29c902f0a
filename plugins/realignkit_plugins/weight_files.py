"""Files of weights as people have them: what a file is by its first bytes, and the tensors in it, by name."""

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

if TYPE_CHECKING:
    from torch import Tensor

SUFFIXES = (".safetensors", ".sft", ".ckpt", ".pth", ".pt", ".bin", ".gguf")
_NESTED = ("state_dict", "model", "module")
"""Under which names trainers keep the weights, beside an optimiser's state and the like."""
_FOREIGN = re.compile(r"GLOBAL ([\w.]+)|(?:type|class) ([\w.]+)")
_LFS = b"version https://git-lfs"
_HTML = (b"<!doctype", b"<html", b"<?xml")


def is_weight_file(model: str) -> bool:
    """Whether what a user names is by its name one file of weights, there or not, rather than a folder or a hub id."""
    path = Path(model).expanduser()
    return path.suffix.lower() in SUFFIXES and not path.is_dir()


def read_weights(path: Path, model: str | None = None) -> dict[str, Tensor]:
    """Tensors by name, on the CPU, from a safetensors file or one that torch wrote (today's zip, or its old format).

    Weights may be at the top or under ``state_dict``, ``model`` or ``module``; what is no tensor is left out. Nothing
    is unpickled but tensors and plain values. Where the format allows, the file is mapped rather than read: what is not
    used (an optimiser's state, a half of the network) takes no memory.

    Args:
        path: the file; its format is told by its content, whatever its name ends with.
        model: what the user calls it, for messages.

    Raises:
        ModelError: it is missing, damaged, no file of weights, or holds something that unpickling would have to run.
    """
    model = model or str(path)
    if not path.is_file():
        raise ModelError(f"there is no file '{path}'. Check the path, or give a folder or a hub id (owner/name).")
    local = is_local(model)
    named = model if Path(model).expanduser() == path else f"{model}/{path.name}"
    try:
        begin = _begin(path)
        _refuse_other_formats(begin, named, again(model, local))
        data: Any = _safetensors(path) if _is_safetensors(begin) else _torch(path)
    except ModelError:
        raise
    except Exception as error:  # torch and safetensors raise a dozen types for a bad file
        told = _of_a_pickle(error, again(model, local)) or explain(model, error, local)
        raise ModelError(f"'{named}' cannot be read as weights {told}") from error
    weights = _tensors(data)
    if not weights:
        raise ModelError(
            f"'{named}' holds no weights, neither at its top nor under {', '.join(_NESTED)}. Check that it is the "
            f"right file."
        )
    return weights


def _begin(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(512)


def _is_safetensors(begin: bytes) -> bool:
    # Eight bytes with the length of a header, then the header, which is JSON.
    return begin[8:9] == b"{"


def _refuse_other_formats(begin: bytes, named: str, advice: str) -> None:
    if not begin:
        raise ModelError(f"'{named}' cannot be read as weights: it is an empty file. {advice}")
    if begin.startswith(_LFS):
        raise ModelError(
            f"'{named}' is a Git LFS pointer of a few lines, not the weights that it stands for. Run 'git lfs pull' "
            f"in its folder, or download the file itself."
        )
    if begin.lstrip().lower().startswith(_HTML):
        raise ModelError(
            f"'{named}' is a web page, not weights: the download needs a login or another address. Download the file "
            f"itself, in a browser where you are logged in."
        )
    if begin.startswith(b"GGUF"):
        raise ModelError(f"'{named}' is a GGUF file, whose weights are quantised. Take the model as safetensors.")
    if not begin.startswith((b"PK\x03\x04", b"\x80")) and not _is_safetensors(begin):
        raise ModelError(
            f"'{named}' cannot be read as weights: it begins neither as safetensors do nor as what torch writes. Check "
            f"that it is the right file, or download it again."
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
    told = " ".join(str(error).split())
    if "Unsupported operand" in told or "Invalid magic number" in told:
        return "(it is a pickle that torch did not write, which is not read). Take the model as safetensors."
    if "nsupported" in told or "not an allowed" in told:
        found = _FOREIGN.search(told)
        what = f" ({found[1] or found[2]})" if found else ""
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
    return {str(name): value for name, value in data.items() if isinstance(value, torch.Tensor)}
