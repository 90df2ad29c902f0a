"""Whether files are still what was written: pictures, lines of JSON, folders and weights with checksums."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from realignkit.errors import DamagedError
from realignkit.records import parse_json, read_json

MANIFEST = "manifest.json"
SEAL = "realignkit_sha256"
"""The note in the header of weights that has their checksum."""
_LONGEST_HEADER = 100_000_000  # as safetensors has it
KEY = "realignkit"
"""The name of the text in a picture that says what it was made from."""


def check_file(path: Path) -> None:
    """Make sure that a file is there and whole: not empty; a ``.png`` can be decoded, ``.html`` has its end.

    Raises:
        DamagedError: it is not.
    """
    from PIL import Image

    try:
        if path.suffix == ".png":
            with Image.open(path) as image:
                image.load()
        else:
            content = path.read_bytes().rstrip()
            if not content or (path.suffix == ".html" and not content.endswith(b"</html>")):
                raise ValueError("it is cut off")
    except Exception as error:  # Pillow raises many kinds for damaged files
        why = getattr(error, "strerror", None) or error
        raise DamagedError(f"{path} is missing or damaged ({why})") from error


def picture_key(path: Path) -> str | None:
    """The key of a picture that :func:`realignkit.realignment.png` made; None where there is none, or it is damaged."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            image.load()
            return str(image.info[KEY])
    except Exception:  # Pillow raises many kinds for damaged files
        return None


def read_lines(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The JSON objects of a ``.jsonl`` file, one a line, and how many lines are none.

    A writer that was killed leaves its last line cut off; a disk that failed, any line. A missing file has no lines.
    The file is left as it is, because somebody may be writing it.

    Raises:
        DamagedError: it cannot be read at all.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return [], 0
    except OSError as error:
        raise DamagedError(f"{path} cannot be read: {error.strerror or error}") from error
    found, torn = [], int(bool(lines.pop()))  # what follows the last line end was never finished
    for line in lines:
        try:
            record = parse_json(line)
        except ValueError:
            record = None
        if isinstance(record, dict):
            found.append(record)
        else:
            torn += 1
    return found, torn


def checksum(path: Path) -> str:
    """The SHA-256 of a file, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_manifest(folder: Path, notes: Mapping[str, Any] | None = None) -> None:
    """Write down size and SHA-256 of every file in ``folder`` (``manifest.json``), once all are written.

    Args:
        folder: with files in it, and below.
        notes: JSON values to keep beside.
    """
    files = {
        path.relative_to(folder).as_posix(): {"size": path.stat().st_size, "sha256": checksum(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    (folder / MANIFEST).write_text(json.dumps({**(notes or {}), "files": files}, indent=1) + "\n", encoding="utf-8")


def check_manifest(folder: Path) -> dict[str, Any]:
    """Make sure that a folder holds what :func:`write_manifest` saw, to the bit; the notes beside.

    Raises:
        DamagedError: a file is missing, has another size or another content, or there is no manifest.
    """
    try:
        notes = read_json(folder / MANIFEST)
        files = dict(notes.pop("files"))
        for name, told in files.items():
            if (size := (folder / name).stat().st_size) != told["size"]:
                raise ValueError(f"{name} has {size} bytes, not {told['size']}")
            if checksum(folder / name) != told["sha256"]:
                raise ValueError(f"the content of {name} is not what was written")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedError(f"{folder} is damaged: {error}") from error
    return notes


def seal(data: bytes, notes: dict[str, str]) -> bytes:
    """Weights in safetensors format with notes and the SHA-256 of the tensors in their header.

    Args:
        data: of a ``.safetensors`` file.
        notes: for the header, beside ``format``.
    """
    header, start = _header(data)
    metadata = {**header.get("__metadata__", {}), **notes, SEAL: hashlib.sha256(data[start:]).hexdigest()}
    text = json.dumps({"__metadata__": metadata, **{n: v for n, v in header.items() if n != "__metadata__"}}).encode()
    text += b" " * (-len(text) % 8)  # tensors start at a multiple of 8 bytes
    return len(text).to_bytes(8, "little") + text + data[start:]


def sealed_notes(path: Path) -> dict[str, str]:
    """The notes in the header of weights, the tensors held against the checksum where :func:`seal` wrote one.

    Raises:
        DamagedError: the file is missing or cut off, or its tensors are not those that were written.
    """
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(min(size, _LONGEST_HEADER)))
            notes = dict(header.get("__metadata__", {}))
            if SEAL in notes and hashlib.file_digest(file, "sha256").hexdigest() != notes[SEAL]:
                raise ValueError("its content is not what was written")
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedError(f"{path} is missing or damaged ({error})") from error
    return notes


def _header(data: bytes) -> tuple[dict[str, Any], int]:
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    if not isinstance(header, dict):
        raise ValueError("it has no header")
    return header, 8 + size
