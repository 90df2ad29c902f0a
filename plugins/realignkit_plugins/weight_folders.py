"""Folders whose weights are there, but not as safetensors under the name that is asked for."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from realignkit.errors import ModelError
from realignkit_plugins.weight_formats import (
    SCALES,
    SUFFIXES,
    first_bytes,
    header,
    is_lfs_pointer,
    is_weight_file,
    no_weights,
)

_PLAIN = re.compile(r"[^.]+\.safetensors")
_VARIANT = re.compile(r"[^.]+\.(?P<variant>[a-z]\w*?)(?:-\d+-of-\d+)?\.safetensors")
_READ = re.compile(
    r"(?:diffusion_pytorch_)?model(?:-\d+-of-\d+)?(?:\.(?P<variant>[a-z]\w*?))?(?:-\d+-of-\d+)?\.safetensors"
)
_PICKLE = re.compile(r".*model.*\.(?:bin|pt|pth)", re.IGNORECASE)  # not a trainer's arguments, optimiser or the like


def unusable_weights(model: str, local: bool, asked: str | None = None) -> str | None:
    """Why a model's weights cannot be used although they are there; None where nothing of that kind is found.

    Args:
        model: a folder or a hub id, of which the hub is asked for its list of files.
        local: whether it is a folder.
        asked: the variant that was asked for, which is not there.

    Returns:
        ``"(reason). Advice."``, as of :func:`realignkit_plugins.failures.explain`.
    """
    return reason(_files(model, local), asked)


def placeholder(model: str) -> str | None:
    """Which file of a folder is no weights but stands in their place (a Git LFS pointer, a web page …); None: none.

    Args:
        model: the folder.

    Returns:
        As :func:`unusable_weights`.
    """
    folder = Path(model).expanduser()
    for name in sorted(_files(model, local=True)):
        file = folder / name
        if file.suffix.lower() in SUFFIXES and (instead := no_weights(file)):
            return f"({name} {instead[0]}). {instead[1]}"
        if file.suffix in (".json", ".txt") and is_lfs_pointer(first_bytes(file)):
            return (
                f"({name} is a Git LFS pointer of a few lines, not the file that it stands for). Run 'git lfs pull' in "
                f"its folder, or download the file itself."
            )
    return None


def refuse_quantised(folder: Path, parts: Iterable[str], variant: str | None, model: str) -> None:
    """Refuse a pipeline with quantised weights, which its networks would take for the weights themselves.

    Args:
        folder: of the pipeline, in diffusers' layout.
        parts: the folders in it that are read.
        variant: of the weights; a part that lacks it is read without.
        model: what the user calls it, for messages.

    Raises:
        ModelError: there are such weights, and no settings that say how they are to be read.
    """
    for part in sorted(parts):
        config = folder / part / "config.json"
        if config.is_file() and b"quantization_config" in config.read_bytes():
            continue  # the libraries' own way to store such weights, which they read
        files = {file: match["variant"] for file in (folder / part).glob("*") if (match := _READ.fullmatch(file.name))}
        wanted = variant if variant in files.values() else None
        for file in sorted(file for file, name in files.items() if name == wanted):
            for name, entry in header(file).items():
                how = f"(it has {name})" if name.endswith(SCALES) else ""
                if name.endswith(".weight") and entry.get("dtype") in ("I8", "U8", "I16", "I32", "I64"):
                    how = f"to whole numbers ({entry['dtype']})"
                if how:
                    raise ModelError(
                        f"'{model}' cannot be used: the weights of {part}/{file.name} are quantised {how}, which is "
                        f"not read. Give a float copy of the same model (fp16, bf16 or fp32)."
                    )


def refuse_lone_file(folder: Path, model: str) -> None:
    """Refuse a folder that is no pipeline but holds files of weights, each of which may be a model by itself.

    Raises:
        ModelError: it is.
    """
    if any((folder / name).exists() for name in ("model_index.json", "config.json", "adapter_config.json")):
        return
    weights = sorted(file for file in folder.glob("*") if is_weight_file(str(file)))
    if weights:
        which = f"the file: {weights[0]}"
        if len(weights) > 1:
            which = f"one of its files: {_some([file.name for file in weights])}"
        raise ModelError(f"'{model}' is no folder of diffusers: it has no model_index.json. Give {which}")


def reason(names: Iterable[str], asked: str | None = None) -> str | None:
    """The same by the names of the files, relative and with slashes."""
    folders: dict[PurePosixPath, list[str]] = {}
    for path in map(PurePosixPath, names):
        folders.setdefault(path.parent, []).append(path.name)
    variants: set[str] = set()
    pickles: list[str] = []
    for folder, inside in folders.items():
        if any(map(_PLAIN.fullmatch, inside)):
            continue
        named = {match["variant"] for match in map(_VARIANT.fullmatch, inside) if match}
        variants |= named
        if not named:
            pickles += [str(folder / name) for name in inside if _PICKLE.fullmatch(name)]
    if pickles:
        return (
            f"(its weights are pickles, which can run code and are not read: {_some(pickles)}). Take a copy of it as "
            f"safetensors, or convert it where that may run: from_pretrained, then save_pretrained."
        )
    if variants:
        name = "fp16" if "fp16" in variants else min(variants)
        if asked is not None:
            known = " and ".join(sorted(variants))
            return f"(it has no weights of the variant {asked}; there is {known}). Set variant={name}."
        return (
            f"(its weights are there as the variant {name} only). Set variant={name} (--set generator.variant={name}), "
            f"or name its files without '.{name}' where there is no such option."
        )
    return None


def _files(model: str, local: bool) -> Sequence[str]:
    if local:
        folder = Path(model).expanduser()
        return [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    from huggingface_hub import HfApi

    try:
        return HfApi().list_repo_files(model)
    except Exception:  # no network, or forbidden: then nothing is known
        return []


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
