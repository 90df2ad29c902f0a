"""What files hold, read as what it should be: JSON records, and checksums of what was written.

Every value is of its type.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from realignkit.errors import DamagedError, OutputError
from realignkit.parsing import kind_of, parse_json

MANIFEST = "manifest.json"
SEAL = "realignkit_sha256"
"""The note in the header of weights that has their checksum."""
_LONGEST_HEADER = 100_000_000  # as safetensors has it

Text = Annotated[str, Field(min_length=1, pattern=r"\S")]
"""A string with something in it."""

Share = Annotated[float, Field(ge=0, le=1)]
"""A number in [0, 1]."""


class Written(BaseModel):
    """What a file should hold: no value is converted ("false" is no false), numbers are finite, keys are known."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


W = TypeVar("W", bound=Written)


def read_json(path: Path, advice: str = "Make it again.") -> dict[str, Any]:
    """The JSON object in a UTF-8 file.

    Args:
        path: the file.
        advice: what to do where it is damaged, a sentence.

    Raises:
        DamagedError: it cannot be read, is no JSON object, or has NaN, infinity or endless nesting.
        FileNotFoundError, NotADirectoryError: there is none.
    """
    try:
        record = parse_json(path.read_text(encoding="utf-8-sig"))  # editors of Windows put a mark in front
    except (FileNotFoundError, NotADirectoryError):
        raise
    except (OSError, ValueError) as error:
        raise DamagedError(f"{path} cannot be read: {error}", advice) from error
    if not isinstance(record, dict):
        raise DamagedError(f"{path} holds {kind_of(record)}, no JSON object", advice)
    return record


def as_written(model: type[W], record: dict[str, Any], path: Path, advice: str = "Make it again.") -> W:
    """A record held against what it should be.

    Raises:
        DamagedError: a value is missing, unknown, or of another type or range; the first one is named.
    """
    try:
        # By way of JSON, whose strings may be an enumeration's values and whose lists a tuple's.
        return model.model_validate_json(json.dumps(record))
    except ValidationError as error:
        raise DamagedError(f"{path} is damaged ({what_is_wrong(error)})", advice) from error


_WRONG = {
    "missing": "is missing",
    "extra_forbidden": "is not known",
    "string_type": "is no text (a string)",
    "string_too_short": "is empty",
    "string_pattern_mismatch": "is not of the form that it should have",
    "int_type": "is no whole number (an integer)",
    "float_type": "is no number",
    "finite_number": "is no finite number",
    "bool_type": "is neither true nor false (a boolean)",
    "list_type": "is no list (an array)",
    "tuple_type": "is no list (an array)",
    "dict_type": "is no object",
    "model_type": "is no object",
    "too_short": "holds too few",
    "too_long": "holds too many",
    "greater_than_equal": "is too small",
    "less_than_equal": "is too large",
}
"""pydantic's kinds of errors, in words for those who did not write the model."""


def what_is_wrong(error: ValidationError) -> str:
    """The first value that is not what a record should hold, and what is wrong with it."""
    first = error.errors()[0]
    place = ".".join(map(str, first["loc"])) or "the record"
    return f"{place}: {_WRONG.get(first['type'], 'is not what it should be')}"


@dataclass(frozen=True)
class Format:
    """A kind of JSON file that says its format and version.

    Attributes:
        name: such as ``realignkit.training``.
        version: the one that is written and read.
        what: what such a file is, in words ("training").
        holds: what is relied on of its values.
        damaged: what to do where it is damaged, a sentence.
        foreign: what to do where another program or version wrote it, a sentence.
    """

    name: str
    version: int
    what: str
    holds: type[Written]
    damaged: str
    foreign: str

    def read(self, path: Path) -> dict[str, Any]:
        """The values of a file of this kind, format and version among them.

        Raises:
            DamagedError: it cannot be read, or a value is not what it should be.
            OutputError: it is of another format or version.
            FileNotFoundError, NotADirectoryError: there is none.
        """
        record = read_json(path, self.damaged)
        if (record.get("format"), record.get("version")) != (self.name, self.version):
            raise OutputError(f"{path} is no {self.what} of this realignkit. {self.foreign}")
        values = {name: value for name, value in record.items() if name not in ("format", "version")}
        as_written(self.holds, values, path, self.damaged)
        return record

    def dumps(self, values: Mapping[str, Any]) -> str:
        """The text of a file of this kind.

        Raises:
            ValueError: a value is not finite.
        """
        record = {"format": self.name, "version": self.version, **values}
        return json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


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
        for name, expected in files.items():
            if (size := (folder / name).stat().st_size) != expected["size"]:
                raise ValueError(f"{name} has {size} bytes, not {expected['size']}")
            if checksum(folder / name) != expected["sha256"]:
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
