"""The folder of an ablation: what was measured on each picture, so that it can be resumed, joined and paired later.

``ablation.json`` says what was measured and how, ``rows.jsonl`` has a line per row, prompt and seed, ``features.jsonl``
the pictures' features, ``reference.npy`` those of the reference pictures. Prompts are there as digests only: other
people's prompt sets are not ours to spread.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import ConfigDict, JsonValue

from realignkit.errors import OptionError, OutputError
from realignkit.files import append_lines, atomic_write, keep_lines, make_folder, read_lines
from realignkit.provenance import differences, listed
from realignkit.records import Format, Written
from realignkit.resolve import versions

logger = logging.getLogger(__name__)

RECORD, ROWS, FEATURES, REFERENCE = "ablation.json", "rows.jsonl", "features.jsonl", "reference.npy"

Features = npt.NDArray[np.float32]


def digest(prompt: str) -> str:
    """What stands for a prompt in results."""
    return hashlib.sha256(prompt.encode()).hexdigest()[:12]


@dataclass(frozen=True, eq=False)
class Measurement:
    """One picture of one row.

    Attributes:
        row: the row's name.
        run: which of the row's models drew it (from 0), where it has several.
        index: the prompt's place, from 1.
        prompt: its digest.
        seed: as given; not the noise's own, see :func:`realignkit.evaluation.plan.noise_seed`.
        values: the metric's, by name.
        scores: rewards, by name.
        features: float32 (D,), where there are any.
    """

    row: str
    run: int
    index: int
    prompt: str
    seed: int
    values: Mapping[str, float]
    scores: Mapping[str, float] = field(default_factory=dict)
    features: Features | None = None

    @property
    def pair(self) -> tuple[int, int]:
        """What rows are paired by."""
        return self.index, self.seed

    @property
    def key(self) -> tuple[str, int, int]:
        """What there is one of."""
        return self.row, self.index, self.seed

    def line(self) -> dict[str, Any]:
        """As in ``rows.jsonl``."""
        record = {name: getattr(self, name) for name in ("row", "run", "index", "prompt", "seed")}
        return {**record, "values": dict(self.values), "scores": dict(self.scores)}

    def features_line(self) -> dict[str, Any]:
        """As in ``features.jsonl``: little-endian float32, base64."""
        assert self.features is not None
        data = base64.b64encode(self.features.astype("<f4").tobytes()).decode()
        return {"row": self.row, "index": self.index, "seed": self.seed, "features": data}


_ELSEWHERE = "Use another --out."


class _Record(Written):
    """What is relied on of ``ablation.json``; there is more."""

    model_config = ConfigDict(extra="allow")

    kind: str
    settings: dict[str, JsonValue]
    rows: dict[str, list[dict[str, JsonValue]]]
    source: str = ""
    control: str = ""


ABLATION = Format("realignkit.ablation", 1, "ablation of rows", _Record, _ELSEWHERE, _ELSEWHERE)


class AblationFolder:
    """Reads and adds to the results in ``folder``."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def record(self) -> dict[str, Any] | None:
        """``ablation.json``; None where there is none.

        Raises:
            OutputError: it is damaged, or another program's or version's.
        """
        try:
            return ABLATION.read(self.folder / RECORD)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def existing(self) -> dict[str, Any]:
        """``ablation.json``, which must be there.

        Raises:
            OutputError: it is not.
        """
        found = self.record()
        if found is None:
            raise OutputError(
                f"{self.folder} holds no ablation ({RECORD} is missing). Give the --out folder of 'realignkit ablate "
                f"rewards' or 'ablate stages'."
            )
        return found

    def open(
        self, kind: str, settings: Mapping[str, Any], rows: Mapping[str, Sequence[Mapping[str, Any]]], source: str
    ) -> dict[str, Any]:
        """Make the folder, or make sure that its results were measured in the same way; rows may be added.

        Args:
            kind: ``rewards`` or ``stages``.
            settings: everything that results depend on, as JSON values.
            rows: row -> its models, each with ``weights``, a digest.
            source: where the prompts come from, for the table.

        Raises:
            OptionError: it holds results that were measured otherwise.
            OutputError: it cannot be written.
        """
        wanted = json.loads(json.dumps({"kind": kind, "settings": settings, "rows": rows}))
        there = self.record() or {}
        before = {"kind": there.get("kind", kind), **_lasting(there.get("settings", wanted["settings"]))}
        different = differences(before, {"kind": kind, **_lasting(wanted["settings"])})
        old = there.get("rows", {})
        different += [
            f"the models of row '{name}'"
            for name, models in wanted["rows"].items()
            if name in old and _weights(old[name]) != _weights(models)
        ]
        if different:
            raise OptionError(
                f"{self.folder} holds results that were measured otherwise: {listed(different)}. Use another --out."
            )
        for name in (FEATURES, ROWS):  # before anything is added
            if torn := keep_lines(self.folder / name):
                logger.warning(
                    "%s: %d damaged lines are left out; what they told is measured again", self.folder / name, torn
                )
        record = {
            **({"reference": there["reference"]} if "reference" in there else {}),
            **wanted,
            "rows": {**old, **wanted["rows"]},
            "source": source,
            "versions": versions(),
        }
        self.write_record(record)
        return record

    def write_record(self, record: Mapping[str, Any]) -> None:
        """Write ``ablation.json``.

        Raises:
            OutputError: it cannot be written.
        """
        make_folder(self.folder)
        atomic_write(self.folder / RECORD, ABLATION.dumps(record))

    def read(self, *, features: bool = True) -> list[Measurement]:
        """All measurements. Lines that are cut off, as the last one of a run that was killed, are left out.

        Raises:
            OutputError: a line has other fields, or a file cannot be read.
        """
        known = {}
        if features:
            for line in self._lines(FEATURES):
                with contextlib.suppress(ValueError, TypeError):  # damaged: the picture counts as not looked at
                    data = np.frombuffer(base64.b64decode(line["features"], validate=True), "<f4").astype(np.float32)
                    known[line["row"], line["index"], line["seed"]] = data
        found = {}
        for line in self._lines(ROWS):
            measurement = Measurement(**line)
            vector = known.get(measurement.key)
            found[measurement.key] = measurement if vector is None else Measurement(**line, features=vector)
        return list(found.values())

    def _lines(self, name: str) -> list[dict[str, Any]]:
        path = self.folder / name
        try:
            return [_checked(line, name) for line in read_lines(path)[0]]
        except (ValueError, KeyError, TypeError) as error:
            raise OutputError(f"{path} is damaged ({error}). Use another --out, or remove the damaged line.") from error

    def add(self, measurements: Sequence[Measurement]) -> None:
        """Add measurements: on the disk when this returns, features before the rows that count.

        Raises:
            OutputError: they cannot be written; what was there before is untouched.
        """
        append_lines(self.folder / FEATURES, [m.features_line() for m in measurements if m.features is not None])
        append_lines(self.folder / ROWS, [m.line() for m in measurements])

    def reference(self, made_from: str | None = None) -> Features | None:
        """Features of the reference pictures, float32 (m, D); None where there are none.

        Args:
            made_from: what stands for what they depend on; those that were made from something else are none.
        """
        if made_from is not None and (self.record() or {}).get("reference") != made_from:
            return None
        try:
            found = np.load(self.folder / REFERENCE, allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return None
        return found if isinstance(found, np.ndarray) and found.ndim == 2 else None

    def write_reference(self, features: Features, made_from: str | None = None) -> None:
        """Keep features of the reference pictures, and what they were made from.

        Raises:
            OutputError: they cannot be written.
        """
        import io

        buffer = io.BytesIO()
        np.save(buffer, features.astype(np.float32), allow_pickle=False)
        atomic_write(self.folder / REFERENCE, buffer.getvalue())
        if made_from is not None:
            self.write_record({**self.existing(), "reference": made_from})


def _checked(record: Any, name: str) -> dict[str, Any]:
    wanted = {"row", "index", "seed", *(("features",) if name == FEATURES else ("run", "prompt", "values", "scores"))}
    if not isinstance(record, dict) or record.keys() != wanted:
        raise ValueError(f"a line has not the fields {', '.join(sorted(wanted))}")
    return record


def _weights(models: Sequence[Mapping[str, Any]]) -> list[Any]:
    return [model.get("weights") for model in models]


def _lasting(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings without where its rewards run, and in which precision: that is not what they are."""
    scores = settings.get("scores", {})
    kept = {
        spec: {name: value for name, value in options.items() if name not in ("device", "dtype")}
        for spec, options in scores.items()
    }
    return {**settings, **({"scores": kept} if scores else {})}
