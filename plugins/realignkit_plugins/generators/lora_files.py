"""Where an adapter's files are (a file, a folder, the hub), and what is written beside the weights."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from realignkit.errors import DamagedError, ModelError
from realignkit.records import sealed_notes
from realignkit_plugins.generators.lora_keys import some
from realignkit_plugins.generators.lora_layers import DENOISERS, TEXT_ENCODERS
from realignkit_plugins.model_names import hub_file, refuse_address, resolve_model
from realignkit_plugins.weight_files import metadata, read_weights
from realignkit_plugins.weight_formats import is_weight_file

if TYPE_CHECKING:
    from torch import Tensor

DIFFUSERS_FILE, PEFT_FILE = "pytorch_lora_weights.safetensors", "adapter_model.safetensors"
PEFT_CONFIG = "adapter_config.json"
COMPONENTS = (*DENOISERS, *TEXT_ENCODERS)
_METADATA = "lora_adapter_metadata"
_SUFFIX = ".safetensors"
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_PEFT_KEY = re.compile(r"\.lora_(A|B|magnitude_vector)\b")


@dataclass(frozen=True)
class AdapterFile:
    """One file of adapters.

    Attributes:
        path: on this machine.
        component: of the pipeline, where the file's folder is named after one.
        tensors: by key, on the CPU.
        configs: PEFT's settings by component; under "" those that are for whatever component the keys mean.
        made_for: the model that it says it was trained for; "" if it does not.
    """

    path: Path
    component: str | None
    tensors: Mapping[str, Tensor] = field(repr=False)
    configs: Mapping[str, Mapping[str, Any]]
    made_for: str = ""


def find(lora: str, revision: str | None = None) -> list[AdapterFile]:
    """Find and read the files that a user means; several where a folder has one for each component.

    Args:
        lora: a folder, a ``.safetensors`` file, a hub id, or a file of one (``owner/name:file.safetensors``).
        revision: branch, tag or commit on the hub.

    Raises:
        ModelError: there is none, there are several to choose from, or they are pickles.
    """
    path = Path(lora).expanduser()
    if path.is_file() or (is_weight_file(lora) and hub_file(lora) is None):
        _refuse_pickles([path.name], lora)
        if not is_weight_file(lora):
            raise ModelError(f"'{lora}' is no {_SUFFIX} file. Give one, or the folder that it is in.")
        refuse_address(lora, "file")
        return [_read(path, lora)]
    place, file = hub_file(lora) or (resolve_model(lora), None)
    folder = Path(place)
    if not folder.is_dir():
        return [_read(path, lora) for path in _download(place, file, lora, revision)]
    paths = (*folder.glob("*"), *folder.glob("*/*"))
    names = [one.relative_to(folder).as_posix() for one in paths if one.is_file()]
    return [_read(folder / name, lora) for name in choose(names, lora)]


def choose(names: Iterable[str], lora: str) -> list[str]:
    """Which files of a folder are meant.

    The name that diffusers gives, or that PEFT gives, comes before others; then a file that is the only one; then
    PEFT's in folders that are named after components.

    Args:
        names: of all its files, and those of its folders, relative and with slashes.
        lora: as the user gave it, for messages.

    Raises:
        ModelError: there is none, there are several, or they are pickles.
    """
    names = sorted(names)
    weights = [PurePosixPath(name) for name in names if name.lower().endswith(_SUFFIX)]
    top = [name for name in weights if len(name.parts) == 1]
    top = [name for name in top if name.name in (DIFFUSERS_FILE, PEFT_FILE)] or top
    nested = [name for name in weights if name.name in (DIFFUSERS_FILE, PEFT_FILE) and len(name.parts) == 2]
    parts = [name for name in nested if name.parent.name in COMPONENTS]
    if len(top) == 1 and not parts:
        return [str(top[0])]
    if top:
        raise ModelError(
            f"'{lora}' holds {len(top) + len(parts)} files of adapters ({some(map(str, top + parts), 4)}). Give the "
            f"one to use."
        )
    if parts and len({name.parent for name in parts}) == len(parts):
        return list(map(str, parts))
    if nested:
        raise ModelError(
            f"'{lora}' holds adapters in its folders only ({some(map(str, nested), 4)}). Give one of them."
        )
    _refuse_pickles(names, lora)
    raise ModelError(
        f"'{lora}' holds no adapters: there is no {DIFFUSERS_FILE}, {PEFT_FILE} or other {_SUFFIX} file in it. Give "
        f"the folder or the file with the adapters."
    )


def _refuse_pickles(names: Iterable[str], lora: str) -> None:
    pickles = [name for name in names if name.lower().endswith(_PICKLES)]
    if pickles:
        raise ModelError(
            f"'{lora}' has its weights in {some(pickles)}, no {_SUFFIX} file; other formats can run code and are not "
            f"loaded. Get it as {_SUFFIX}, or convert it on a machine that may run whatever is in it."
        )


def _download(repository: str, file: str | None, lora: str, revision: str | None) -> list[Path]:
    """The files that are meant, in the hub's cache; without network those that are there already."""
    from huggingface_hub import HfApi, hf_hub_download, snapshot_download
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    _refuse_pickles([file] if file else [], lora)
    try:
        names = HfApi().list_repo_files(repository, revision=revision)
    except (RepositoryNotFoundError, RevisionNotFoundError):
        raise
    except Exception:  # no network, or forbidden to use it; each has errors of its own
        folder = Path(snapshot_download(repository, revision=revision, local_files_only=True))
        names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    chosen = choose(names, lora) if file is None else [file]
    for name in chosen:
        config = str(PurePosixPath(name).with_name(PEFT_CONFIG))
        if config in names:
            hf_hub_download(repository, config, revision=revision)
    return [Path(hf_hub_download(repository, name, revision=revision)) for name in chosen]


def _read(path: Path, lora: str) -> AdapterFile:
    tensors, notes = read_weights(path, lora), metadata(path)
    try:
        sealed_notes(path)
    except DamagedError as error:  # a flipped bit is still a number
        raise ModelError(f"{error.reason}. Copy it again, or resume its training, which mends it.") from error
    settings = path.parent / PEFT_CONFIG
    configs: dict[str, dict[str, Any]] = {}
    if settings.is_file() and path.name != DIFFUSERS_FILE and any(map(_PEFT_KEY.search, tensors)):
        configs[""] = dict(json.loads(settings.read_text(encoding="utf-8")))
    elif _METADATA in notes:
        for name, value in dict(json.loads(notes[_METADATA])).items():
            component, _, option = name.partition(".")
            configs.setdefault(component, {})[option] = value
    made_for = notes.get("modelspec.architecture") or notes.get("ss_base_model_version") or ""
    component = path.parent.name if path.parent.name in COMPONENTS else None
    return AdapterFile(path, component, tensors, configs, "".join(filter(str.isprintable, made_for))[:80])
