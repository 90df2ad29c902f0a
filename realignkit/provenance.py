"""What results were made from: files by what is in them, not by where they lie; and how two records differ."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from realignkit import __version__

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

READ_UP_TO = 2**30
"""Bytes: of more than that in all, sizes and dates stand for the contents, as reading would take minutes."""

MACHINE = frozenset({"device", "dtype"})
"""Options that say where networks run, and how exactly they compute: that is not what they are."""
EFFORT = frozenset(
    (
        *("batch_size", "concurrency", "timeout", "total_timeout", "retries", "backoff", "cache", "cache_dir"),
        *("max_total_tokens", "max_cost", "input_price", "output_price", "auth_env", "encoder_device"),
    )
)
"""Options that say how fast, how patiently and for how much something is found out: that is not what is found."""
COMPANY = frozenset({"companions", "refine_defaults"})
"""A generator's options that only say what goes with it."""
HANDLING = COMPANY | {"offload"}
"""A generator's options that have no part in what is learnt."""
_PLACES = COMPANY | {"cache_dir", "device"}
"""Options that name a place to write to, or other plugins: what is there makes no difference."""


def without(options: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    """Options but for those of some names, at any depth."""
    return {
        name: without(value, names) if isinstance(value, Mapping) else value
        for name, value in options.items()
        if name not in names
    }


def digest_of(texts: Iterable[str]) -> str:
    """A short name for texts in their order."""
    digest = hashlib.sha256()
    for text in texts:
        data = text.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()[:16]


def stamps(files: Iterable[Path], content: bool = False) -> list[str]:
    """What stands for each file: the digest of its content, or its size and date where all are over a GiB.

    Args:
        files: any number.
        content: read them however large they are.

    Raises:
        OSError: a file cannot be read.
    """
    files = list(files)
    states = [path.stat() for path in files]
    if content or sum(state.st_size for state in states) <= READ_UP_TO:
        digests = []
        for path in files:
            with path.open("rb") as file:
                digests.append(hashlib.file_digest(file, "sha256").hexdigest()[:16])
        return digests
    return [f"{state.st_size} bytes of {state.st_mtime_ns}" for state in states]


def fingerprint(path: Path) -> str:
    """What is in a file or folder, in words and a digest, wherever it lies.

    Of a folder that ``realignkit train`` wrote, the weights count, and not the log beside them. Hidden files and
    Markdown are nobody's input.

    Raises:
        OSError: it cannot be read.
    """
    if path.is_file():
        files, names = [path], [""]
    else:
        below = path.glob("*.safetensors") if (path / "training.json").is_file() else _below(path)
        files = sorted(below)
        names = [file.relative_to(path).as_posix() for file in files]
    size = sum(file.stat().st_size for file in files)
    digest = digest_of(text for pair in zip(names, stamps(files), strict=True) for text in pair)
    return f"{len(files)} file{'s' if len(files) != 1 else ''}, {size} bytes, {digest}"


def _below(folder: Path) -> Iterable[Path]:
    seen: set[str] = set()  # a link may lead back up
    for parent, folders, names in os.walk(folder, followlinks=True):
        place = os.path.realpath(parent)
        if place in seen:
            folders[:] = []
            continue
        seen.add(place)
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__pycache__")))
        files = (Path(parent) / name for name in names if not name.startswith(".") and not name.endswith(".md"))
        yield from (file for file in files if file.is_file())  # and no link to nowhere, no pipe


def fingerprint_of_image(image: PILImage) -> str:
    """What is to be seen in an image that is in memory."""
    pixels = hashlib.sha256(f"{image.mode} {image.size}".encode() + image.tobytes())
    return f"{image.width} x {image.height}, {pixels.hexdigest()[:16]}"


def contents(options: Mapping[str, Any], known: dict[str, str] | None = None, prefix: str = "") -> dict[str, str]:
    """The :func:`fingerprint` of every file and folder that options name, by the option's dotted name.

    Args:
        options: JSON values, nested; text that is the path of something is taken for one.
        known: path -> fingerprint of what has been read already; added to.
        prefix: of the names.
    """
    fingerprints: dict[str, str] = {}
    known = {} if known is None else known
    for name, value in options.items():
        if name in _PLACES:
            continue
        if isinstance(value, Mapping):
            fingerprints |= contents(value, known, f"{prefix}{name}.")
        elif isinstance(value, str) and value:
            if value not in known:
                known[value] = _fingerprint_of_path(value)
            if known[value]:
                fingerprints[f"{prefix}{name}"] = known[value]
    return fingerprints


def _fingerprint_of_path(text: str) -> str:
    try:
        path = Path(text).expanduser()
        return fingerprint(path) if path.exists() and (_is_path(text) or _holds_weights(path)) else ""
    except (OSError, ValueError, RuntimeError):  # too long for a path, a NUL, an unknown home, unreadable
        return ""


def _is_path(text: str) -> bool:
    marked = text.startswith(("~", ".")) or any(mark and mark in text for mark in (os.sep, os.altsep))
    return marked and re.search(r"\w", text) is not None  # '/' alone separates something


def _holds_weights(path: Path) -> bool:
    # A bare word, such as 'auto', may be the name of some folder that has nothing to do with it.
    files = [path] if path.is_file() else path.iterdir()
    return any(file.suffix in (".safetensors", ".json", ".bin", ".pth", ".gguf") for file in files)


def placeless(options: Mapping[str, Any], known: dict[str, str] | None = None) -> dict[str, Any]:
    """Options with the :func:`fingerprint` of what is there in the place of each path."""
    inside = contents(options, known)

    def replaced(values: Mapping[str, Any], prefix: str) -> dict[str, Any]:
        return {
            name: replaced(value, f"{prefix}{name}.")
            if isinstance(value, Mapping)
            else inside.get(f"{prefix}{name}", value)
            for name, value in values.items()
        }

    return replaced(options, "")


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values by dotted name."""
    by_name: dict[str, Any] = {}
    for name, value in values.items():
        nested = isinstance(value, dict) and value  # that something is empty is a value too
        by_name |= flat(value, f"{prefix}{name}.") if nested else {f"{prefix}{name}": value}
    return by_name


def differences(earlier: Mapping[str, Any], current: Mapping[str, Any]) -> list[str]:
    """How two records differ, a phrase for each value: ``share (0.5 there, 0.9 now)``.

    Where both know what was in a file or folder (``contents``, see :func:`contents`), its path does not matter. What
    only one of them has, in a group that both have, another version did not know, which the last phrase says.

    Args:
        earlier: JSON values, nested; what is in a folder.
        current: what would be written now.
    """
    inside = [earlier.get("contents") or {}, current.get("contents") or {}]
    shared = inside[0].keys() & inside[1].keys()
    before, after = (
        flat({name: value for name, value in record.items() if name != "contents"}) for record in (earlier, current)
    )
    before, after = _without_emptied(before, after), _without_emptied(after, before)
    paths = [{str(record.get(name)) for name in shared} for record in (before, after)]
    new, gone = _unknown(before, after), _unknown(after, before)
    phrases = [
        f"{name} ({brief(before.get(name))} there, {brief(after.get(name))} now)"
        for name in sorted((before.keys() | after.keys()) - {*new, *gone})
        if before.get(name) != after.get(name)
        # A model may be called by its path elsewhere too.
        and not (str(before.get(name)) in paths[0] and str(after.get(name)) in paths[1])
    ]
    # Records of earlier versions say nothing of it.
    for name in sorted(inside[0].keys() | inside[1].keys() if "contents" in earlier else shared):
        if inside[0].get(name) != inside[1].get(name):
            was, now = (values.get(name, "nothing known") for values in inside)
            phrases.append(f"what is in {name} ({was} there, {now} now)")
    return [*phrases, *another_version(new, gone)]


def _without_emptied(record: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """A flat record without the groups that are empty in it and hold something in the other."""
    return {
        name: value
        for name, value in record.items()
        if value != {} or not any(each.startswith(f"{name}.") for each in other)
    }


def _unknown(record: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """What ``other`` has and ``record`` lacks, in groups that both have; flat. A group alone is of another plugin."""
    groups = {name.rpartition(".")[0] for name in record} - {""}
    return sorted(name for name in other.keys() - record.keys() if name.rpartition(".")[0] in groups)


def another_version(new: Sequence[str], gone: Sequence[str]) -> list[str]:
    """Which version wrote a record, in a phrase: by the options that it does not know yet, and those that are gone."""
    if not new and not gone:
        return []
    which = "another" if new and gone else "an earlier" if new else "a later"
    known = [f"{word} {_some(names)}" for word, names in (("without", new), ("with", gone)) if names]
    return [f"{which} version of realignkit or of a plugin wrote it, {' and '.join(known)}"]


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def brief(value: Any) -> str:
    """A JSON value, cut where it is long."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:59] + "…"


def in_short(different: list[str]) -> str:
    """The first differences, and how many more there are."""
    more = f" and {len(different) - 3} more" if len(different) > 3 else ""
    return f"{'; '.join(different[:3])}{more}"


def versions() -> dict[str, str]:
    """Versions of realignkit, Python and the libraries that results depend on."""
    known = {"realignkit": __version__, "python": platform.python_version()}
    for name in ("torch", "diffusers", "transformers", "numpy", "pillow"):
        try:
            known[name] = version(name)
        except PackageNotFoundError:
            continue
    return known
