"""What a file is by its first bytes, whatever its name says: weights, or what people have in their place."""

from __future__ import annotations

import json
import struct
import zipfile
from pathlib import Path
from typing import Any

SUFFIXES = (".safetensors", ".sft", ".ckpt", ".pth", ".pt", ".bin", ".gguf")
SCALES = (".scale_weight", ".weight_scale", ".absmax", ".SCB", ".qweight", ".comfy_quant")
"""What tools put beside quantised weights: the scales to multiply them by, and the like."""
_UNFINISHED = (".part", ".partial", ".crdownload", ".download", ".opdownload", ".aria2", ".incomplete")
_LFS = b"version https://git-lfs"
_HTML = (b"<!doctype", b"<html", b"<?xml")
_ZIP = b"PK\x03\x04"


def is_weight_file(model: str) -> bool:
    """Whether what a user names is one file of weights rather than a folder or a hub id.

    By its name, there or not; a file that is there under another name ("model", "model.safetensors (1)"), by its
    content.
    """
    path = Path(model).expanduser()
    if path.suffix.lower() in SUFFIXES:
        return not path.is_dir()
    try:
        begin = first_bytes(path) if path.is_file() else b""
    except OSError:  # of which reading it will tell, where it is wanted
        return False
    return is_safetensors(begin) or is_of_torch(begin)


def first_bytes(path: Path) -> bytes:
    """As many of a file's bytes as tell what it is."""
    with path.open("rb") as file:
        return file.read(512)


def is_safetensors(begin: bytes) -> bool:
    """Whether a file begins as safetensors do: eight bytes with the length of a header, which is JSON."""
    return begin[8:9] == b"{"


def is_lfs_pointer(begin: bytes) -> bool:
    """Whether a file begins as what stands for a large one in Git."""
    return begin.startswith(_LFS)


def is_of_torch(begin: bytes) -> bool:
    """Whether a file begins as what ``torch.save`` writes: a zip archive, or a pickle."""
    return begin.startswith((_ZIP, b"\x80"))


def no_weights(path: Path, begin: bytes | None = None) -> tuple[str, str] | None:
    """What a file is instead of weights, to stand behind its name, and what to do; None where it may be weights.

    Args:
        path: the file.
        begin: its first bytes, where they have been read already.
    """
    begin = first_bytes(path) if begin is None else begin
    if path.suffix.lower() in _UNFINISHED:
        return (
            "is by its name an unfinished download",
            "Finish the download; if the file is whole, rename it so that it ends in .safetensors.",
        )
    if not begin:
        return "cannot be read as weights: it is an empty file", "Copy or download it again."
    if is_lfs_pointer(begin):
        return (
            "is a Git LFS pointer of a few lines, not the weights that it stands for",
            "Run 'git lfs pull' in its folder, or download the file itself.",
        )
    if begin.lstrip().lower().startswith(_HTML):
        return (
            "is a web page, not weights: the download needs a login or another address",
            "Download the file itself, in a browser where you are logged in.",
        )
    if begin.startswith(b"GGUF"):
        return "is a GGUF file, whose weights are quantised", "Take the model as safetensors."
    if begin.startswith(_ZIP) and zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if not any(name.endswith("data.pkl") for name in archive.namelist()):
                return "is a zip archive, not a checkpoint", "Unpack it and give what is in it."
    if not is_safetensors(begin) and not is_of_torch(begin):
        return (
            "cannot be read as weights: it begins neither as safetensors do nor as what torch writes",
            "Check that it is the right file, or download it again.",
        )
    return None


def header(path: Path) -> dict[str, Any]:
    """The header of a safetensors file: what it says of itself, and of each tensor; nothing of other files."""
    with path.open("rb") as file:
        begin = file.read(9)
        if not is_safetensors(begin):
            return {}
        file.seek(8)
        try:
            return dict(json.loads(file.read(struct.unpack("<Q", begin[:8])[0])))
        except (ValueError, MemoryError, OverflowError):  # damaged, of which reading the weights will tell
            return {}
