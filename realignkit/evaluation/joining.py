"""Ablations that several processes measured, each with seeds (or rows) of its own, as one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from realignkit.errors import OptionError
from realignkit.evaluation.results import AblationFolder, Measurement
from realignkit.files import only_writer, write_lines
from realignkit.provenance import differences


def join(folders: Sequence[str | Path], out: str | Path) -> int:
    """Write what several folders have into one.

    Args:
        folders: with results that were measured in the same way, of the same prompts in the same order; what two of
            them have must be the same.
        out: a new folder, or one that an earlier join has written, which is replaced.

    Returns:
        How many pictures' results there are.

    Raises:
        OptionError: the folders do not go together, or ``out`` holds results of its own.
        OutputError: a folder holds no ablation, is damaged, or ``out`` cannot be written.
    """
    parts = [AblationFolder(folder) for folder in folders]
    records = [part.existing() for part in parts]
    target = AblationFolder(out)
    with only_writer(target.folder):
        return _write(parts, records, target)


def _write(parts: Sequence[AblationFolder], records: Sequence[dict[str, Any]], target: AblationFolder) -> int:
    there = target.record()
    if there is not None and "joined" not in there:
        raise OptionError(f"{target.folder} holds an ablation of its own. Give another --out.")
    rows: dict[str, Any] = {}
    for part, record in zip(parts, records, strict=True):
        _check(parts[0].folder, records[0], part.folder, record)
        for name, models in record["rows"].items():
            if rows.setdefault(name, models) != models:
                raise OptionError(f"{part.folder} measured other models as row '{name}'. Join only what goes together.")
    found: dict[tuple[str, int, int], Measurement] = {}
    prompts: dict[int, str] = {}
    for part in parts:
        for measurement in part.read():
            if prompts.setdefault(measurement.index, measurement.prompt) != measurement.prompt:
                raise OptionError(f"{part.folder} measured other prompts. Join only what goes together.")
            twin = found.setdefault(measurement.key, measurement)
            if twin.line() != measurement.line():
                raise OptionError(
                    f"{part.folder} found something else than another folder for row '{measurement.row}', prompt "
                    f"{measurement.index}, seed {measurement.seed}. Remove one of the two."
                )
    kept = sorted(found.values(), key=lambda m: (list(rows).index(m.row), m.seed, m.index))
    target.write_record({**records[0], "rows": rows, "joined": len(parts)})
    for name, lines in (
        ("features.jsonl", (m.features_line() for m in kept if m.features is not None)),
        ("rows.jsonl", (m.line() for m in kept)),
    ):
        write_lines(target.folder / name, lines)
    references = [reference for part in parts if (reference := part.reference()) is not None]
    if references:
        target.write_reference(max(references, key=len))
    return len(kept)


def _check(first: Path, wanted: dict[str, Any], folder: Path, record: dict[str, Any]) -> None:
    before, now = ({"kind": r["kind"], **r["settings"]} for r in (wanted, record))
    if different := differences(before, now):
        names = ", ".join(text.partition(" (")[0] for text in different[:3])
        raise OptionError(f"{folder} was measured otherwise than {first}; different: {names}. They cannot be joined.")
