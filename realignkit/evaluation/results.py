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
import lzma
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import ConfigDict, Field, JsonValue

from realignkit.errors import DamagedError, OptionError, OutputError
from realignkit.files import append_lines, atomic_write, keep_lines, read_lines, write_lines
from realignkit.parsing import parse_json
from realignkit.provenance import EFFORT, MACHINE, differences, in_short, versions, without
from realignkit.records import Format, Written

logger = logging.getLogger(__name__)

RECORD, ROWS, FEATURES, REFERENCE = "ablation.json", "rows.jsonl", "features.jsonl", "reference.npy"

SCORERS, SUCCESS = "scorers", "success"
"""Table IV: its kind, and what decides in it: whether an answer is right."""

Features = npt.NDArray[np.float32]
Key = tuple[str, int, int]
"""Row, prompt and seed: what there is one measurement of."""


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
        values: the metric's, by name. Of Table IV's rows ``success`` (1 or 0; not there where nothing was asked),
            ``seconds`` and reasons, and ``objects`` and ``seen`` where it is known what the prompt names.
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
    def key(self) -> Key:
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
    plugins: dict[str, dict[str, JsonValue]] = Field(default_factory=dict)
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
        record = self.record()
        if record is None:
            raise OutputError(
                f"{self.folder} holds no ablation ({RECORD} is missing). Give the --out folder of 'realignkit ablate'."
            )
        return record

    def open(
        self,
        kind: str,
        settings: Mapping[str, Any],
        rows: Mapping[str, Sequence[Mapping[str, Any]]],
        source: str,
        plugins: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        """Make the folder, or make sure that its results were measured in the same way; rows may be added.

        Args:
            kind: see :class:`realignkit.evaluation.plan.Plan`.
            settings: everything that results depend on, as JSON values.
            rows: row -> its models, each with ``weights``, a digest.
            source: where the prompts come from, for the table.
            plugins: kind -> name -> options, of rows that are counted anew each time from answers that are kept; may be
                added, too. The answers say themselves what they are of, so a damaged record is made again.

        Raises:
            OptionError: it holds results that were measured otherwise.
            OutputError: it cannot be written.
        """
        wanted = json.loads(json.dumps({"kind": kind, "settings": settings, "rows": rows, "plugins": plugins or {}}))
        added = wanted.pop("plugins")
        try:
            record = self.record() or {}
        except OutputError:
            if plugins is None:
                raise
            record = {}
        before = {"kind": record.get("kind", kind), **record.get("settings", wanted["settings"])}
        different = different_settings(before, {"kind": kind, **wanted["settings"]})
        different += different_plugins(record.get("plugins", {}), added)
        rows_before = record.get("rows", {})
        different += [
            f"the models of row '{name}'"
            for name, models in wanted["rows"].items()
            if name in rows_before and _weights(rows_before[name]) != _weights(models)
        ]
        if different:
            raise OptionError(
                f"{self.folder} holds results that were measured otherwise: {in_short(different)}. Use another --out."
            )
        if plugins is None:
            for name in (FEATURES, ROWS):  # before anything is added
                self._mend(name)
            wanted["rows"] = {**rows_before, **wanted["rows"]}
        else:
            wanted["plugins"] = with_plugins(record.get("plugins", {}), added)
            write_lines(self.folder / ROWS, [])
        reference = {"reference": record["reference"]} if "reference" in record else {}
        self.write_record({**reference, **wanted, "source": source, "versions": versions()})

    def write_record(self, record: Mapping[str, Any]) -> None:
        """Write ``ablation.json``.

        Raises:
            OutputError: it cannot be written.
        """
        atomic_write(self.folder / RECORD, ABLATION.dumps(record))

    def note_problem(self, rows: Sequence[str], problem: str) -> None:
        """Write down why rows have no results.

        Raises:
            OutputError: it cannot be written.
        """
        record = self.existing()
        for name in rows:
            record["rows"][name] = [{**model, "problem": problem} for model in record["rows"][name]]
        self.write_record(record)

    def read(self, *, features: bool = True) -> list[Measurement]:
        """All measurements. Lines that are cut off, as the last one of a run that was killed, are left out.

        Raises:
            OutputError: a line has other fields, or a file cannot be read.
        """
        vectors: dict[Key, Features] = {}
        if features:
            for line in self._lines(FEATURES):
                with contextlib.suppress(ValueError, TypeError):  # damaged: the picture counts as not looked at
                    data = np.frombuffer(base64.b64decode(line["features"], validate=True), "<f4").astype(np.float32)
                    vectors[line["row"], line["index"], line["seed"]] = data
        measurements = (Measurement(**line) for line in self._lines(ROWS))
        return list({m.key: replace(m, features=vectors.get(m.key)) for m in measurements}.values())

    def _lines(self, name: str) -> list[dict[str, Any]]:
        path = self.folder / name
        try:
            return [_checked(line, name) for line in kept_lines(path)]
        except (ValueError, KeyError, TypeError) as error:
            raise OutputError(f"{path} is damaged ({error}). Use another --out, or remove the damaged line.") from error

    def _mend(self, name: str) -> None:
        """Put a file in the place of its archive, and take damaged lines out of it."""
        path, packed = self.folder / name, self.folder / f"{name}.xz"
        if packed.exists():
            write_lines(path, kept_lines(path))
            packed.unlink()
        if torn := keep_lines(path):
            logger.warning("%s: %d damaged lines are left out; what they told is measured again", path, torn)

    def add(self, measurements: Sequence[Measurement]) -> None:
        """Add measurements: on the disk when this returns, features before the rows that count.

        Raises:
            OutputError: they cannot be written; what was there before is untouched.
        """
        append_lines(self.folder / FEATURES, [m.features_line() for m in measurements if m.features is not None])
        append_lines(self.folder / ROWS, [m.line() for m in measurements])

    def replace(self, measurements: Sequence[Measurement]) -> None:
        """Let these be all there is.

        Raises:
            OutputError: they cannot be written.
        """
        write_lines(self.folder / FEATURES, [m.features_line() for m in measurements if m.features is not None])
        write_lines(self.folder / ROWS, [m.line() for m in measurements])

    def reference(self, made_from: str | None = None) -> Features | None:
        """Features of the reference pictures, float32 (m, D); None where there are none.

        Args:
            made_from: what stands for what they depend on; those that were made from something else are none.
        """
        if made_from is not None and (self.record() or {}).get("reference") != made_from:
            return None
        try:
            features = np.load(self.folder / REFERENCE, allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return None
        return features if isinstance(features, np.ndarray) and features.ndim == 2 else None

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


def kept_lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a ``.jsonl`` file, or of the archive ``.jsonl.xz`` where there is only that.

    Raises:
        DamagedError: it cannot be read.
    """
    packed = path.with_name(f"{path.name}.xz")
    if path.exists() or not packed.exists():
        return read_lines(path)[0]
    try:
        return [parse_json(line) for line in lzma.decompress(packed.read_bytes()).splitlines()]
    except (OSError, lzma.LZMAError, ValueError) as error:
        raise DamagedError(f"{packed} cannot be read: {error}") from error


def _checked(record: Any, name: str) -> dict[str, Any]:
    wanted = {"row", "index", "seed", *(("features",) if name == FEATURES else ("run", "prompt", "values", "scores"))}
    if not isinstance(record, dict) or record.keys() != wanted:
        raise ValueError(f"a line has not the fields {', '.join(sorted(wanted))}")
    return record


def _weights(models: Sequence[Mapping[str, Any]]) -> list[Any]:
    return [model.get("weights") for model in models]


def different_plugins(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """How the options of plugins differ that both have."""
    return [
        f"options of {kind} '{name}': {text}"
        for kind, plugins in now.items()
        for name, options in plugins.items()
        for text in differences(before.get(kind, {}).get(name, options), options)
    ]


def with_plugins(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """The plugins of two records, by kind and name."""
    return {kind: {**before.get(kind, {}), **now.get(kind, {})} for kind in {**before, **now}}


def different_settings(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """How settings differ; what is in the files of a metric and of rewards counts where both know it."""
    inside = [settings.get("contents") or {} for settings in (before, now)]
    one_sided = {name for name in inside[0].keys() ^ inside[1].keys() if name.startswith(("metric.", "scores."))}
    return differences(*(_without_contents(lasting(settings), one_sided) for settings in (before, now)))


def _without_contents(settings: dict[str, Any], names: Collection[str]) -> dict[str, Any]:
    return {**settings, "contents": without(settings["contents"], names)} if "contents" in settings else settings


def lasting(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings without where its metric and rewards run, how exactly and how fast: that is not what they are."""
    judges = {name: without(settings[name], MACHINE | EFFORT) for name in ("metric", "scores") if settings.get(name)}
    return {**settings, **judges}
