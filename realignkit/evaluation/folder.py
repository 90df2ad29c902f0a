"""The folder of an evaluation: what was measured, a line for each picture, and what metrics of whole sets have seen.

``eval.json`` says what was measured and how. ``pictures.jsonl`` has a line per picture with what each metric says of
it; while several processes work, all but the first have a file of their own (``pictures-1.jsonl``). In ``states/`` is
what metrics of whole sets have seen, of each process by itself, and which pictures that were.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ConfigDict, Field, JsonValue

from realignkit.errors import DamagedError, OptionError, OutputError
from realignkit.evaluation.identity import YES_OR_NO
from realignkit.evaluation.pictures import PICTURES, RECORD, Picture
from realignkit.files import append_lines, atomic_write, read_lines, write_lines
from realignkit.provenance import EFFORT, differences, digest_of, in_short, versions, without
from realignkit.records import Format, Written

STATES = "states"
_ELSEWHERE = "Use another --out."
_PART = re.compile(r"pictures-\d+\.jsonl")

_NO_DIFFERENCE = ("weights", YES_OR_NO)
_FIELDS = {"id", "index", "prompt", "seed", "number", "image", "sha256", "values"}

Line = dict[str, Any]
"""What is said of a picture, as in ``pictures.jsonl``: ``id``, ``index``, ``prompt``, ``seed``, ``number``, ``image``
(a path, relative where it is inside), ``sha256`` of the file (its first digits), ``labels`` of the prompt, and of each
metric ``values`` and ``details``."""

State = Mapping[str, "np.ndarray[Any, Any]"]


class _Record(Written):
    """What is relied on of ``eval.json``; there is more."""

    model_config = ConfigDict(extra="allow")

    pictures: dict[str, JsonValue]
    metrics: dict[str, dict[str, JsonValue]]
    drawn: dict[str, JsonValue] = Field(default_factory=dict)
    joined: int = 0


EVALUATION = Format("realignkit.evaluation", 1, "evaluation", _Record, _ELSEWHERE, _ELSEWHERE)


def identity_of(pictures: Sequence[Picture]) -> str:
    """What stands for a list of pictures: for which prompts and seeds they are, in their order, and their names."""
    return digest_of(json.dumps([p.id, p.prompt, p.seed, p.number]) for p in pictures)


class EvaluationFolder:
    """Reads, and adds to, the results in ``folder``.

    Args:
        folder: made where missing, on writing.
        rank: which of several processes this is; only the first one, 0, writes what all share.
    """

    def __init__(self, folder: str | Path, rank: int = 0) -> None:
        self.folder, self.rank = Path(folder), rank

    def record(self) -> dict[str, Any] | None:
        """``eval.json``; None where there is none.

        Raises:
            OutputError: it is damaged, or another program's or version's.
        """
        try:
            return EVALUATION.read(self.folder / RECORD)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def existing(self) -> dict[str, Any]:
        """``eval.json``, which must be there.

        Raises:
            OutputError: it is not.
        """
        if (record := self.record()) is None:
            raise OutputError(
                f"{self.folder} holds no evaluation ({RECORD} is missing). Give the --out folder of 'realignkit eval'."
            )
        return record

    def open(self, record: Mapping[str, Any]) -> None:
        """Make the folder, or make sure that it holds results of the same pictures; metrics may be added.

        Args:
            record: ``pictures``, ``drawn`` and ``metrics``, as JSON values.

        Raises:
            OptionError: it holds results of other pictures, or of a metric with other options or identity.
            OutputError: it cannot be written.
        """
        wanted = json.loads(json.dumps(record))
        before = self.record() or {}
        if before.get("joined"):
            raise OptionError(f"{self.folder} was joined from others, and is not gone on with. {_ELSEWHERE}")
        if before:
            different = differences(*({"pictures": each["pictures"], **each["drawn"]} for each in (before, wanted)))
            different += different_metrics(before["metrics"], wanted["metrics"])
            if different:
                raise OptionError(f"{self.folder} holds an evaluation of others: {in_short(different)}. {_ELSEWHERE}")
            wanted = {**before, "metrics": wanted["metrics"] | before["metrics"]}
        self.write_record(wanted)

    def write_record(self, record: Mapping[str, Any]) -> None:
        """Write ``eval.json``.

        Raises:
            OutputError: it cannot be written.
        """
        atomic_write(self.folder / RECORD, EVALUATION.dumps({**record, "versions": versions()}))

    def note_weights(self, metric: str, weights: str) -> None:
        """Write down what stands for the weights that a metric has loaded.

        Raises:
            OptionError: earlier results are of other ones.
            OutputError: it cannot be written.
        """
        record = self.existing()
        before = record["metrics"][metric].setdefault("weights", weights)
        if before != weights:
            raise OptionError(
                f"{self.folder} holds results of metric '{metric}' with other weights ({before} there, {weights} now). "
                f"{_ELSEWHERE}"
            )
        if self.rank == 0:
            self.write_record(record)

    # --- lines --------------------------------------------------------------------------------------------------------

    def lines(self) -> dict[str, Line]:
        """What is known of each picture, by its id, from the files of all processes. What is cut off is left out.

        Raises:
            DamagedError: a line has other fields, or a file cannot be read.
        """
        lines: dict[str, Line] = {}
        for path in self._files():
            for row in read_lines(path)[0]:
                if not row.keys() >= _FIELDS or not isinstance(row["values"], dict):
                    raise DamagedError(f"{path} holds a line that is none of an evaluation", _ELSEWHERE)
                lines[row["id"]] = _merged(lines.get(row["id"]), row)
        return lines

    def _files(self) -> list[Path]:
        parts = sorted(path for path in self.folder.glob("pictures-*.jsonl") if _PART.fullmatch(path.name))
        return [path for path in (self.folder / PICTURES, *parts) if path.is_file()]

    def add(self, lines: Sequence[Line]) -> None:
        """Add lines: on the disk when this returns.

        Raises:
            OutputError: they cannot be written; what was there before is untouched.
        """
        name = PICTURES if self.rank == 0 else f"pictures-{self.rank}.jsonl"
        append_lines(self.folder / name, lines)

    def gather(self, order: Sequence[str], without: Sequence[str] = ()) -> dict[str, Line]:
        """Bring the lines of all processes into one file and the pictures' order.

        Args:
            order: ids of pictures; lines of others are left out.
            without: ids whose lines are left out, too.

        Returns:
            The lines.

        Raises:
            OutputError: they cannot be written.
        """
        known = self.lines()
        kept = {name: known[name] for name in order if name in known and name not in set(without)}
        files = self._files()
        present, torn = read_lines(self.folder / PICTURES)
        if torn or len(files) > 1 or present != list(kept.values()):
            write_lines(self.folder / PICTURES, kept.values())
        for path in files:
            if path.name != PICTURES:
                path.unlink()
        return kept

    # --- states -------------------------------------------------------------------------------------------------------

    def save_state(self, metric: str, state: State, seen: Sequence[str]) -> None:
        """Keep what a metric has seen in this process, and the ids of the pictures that it was.

        Raises:
            OutputError: it cannot be written.
        """
        from safetensors.numpy import save

        arrays = {name: np.asarray(values, order="C") for name, values in state.items()}
        atomic_write(self._state(metric), save(arrays, {"seen": json.dumps(list(seen))}))

    def own_state(self, metric: str) -> tuple[dict[str, Any], list[str]] | None:
        """What a metric has seen in the process of this rank, if anything."""
        return _read_state(self._state(metric)) if self._state(metric).is_file() else None

    def states(self, metric: str) -> list[tuple[dict[str, Any], list[str]]]:
        """What a metric has seen in each process, in the order of their ranks."""
        paths = (self.folder / STATES).glob(f"{metric}-*.safetensors")
        return [_read_state(path) for path in sorted(paths, key=lambda path: (len(path.name), path.name))]

    def forget_states(self) -> None:
        """Remove what all metrics have seen, as it cannot be taken back in part."""
        for path in (self.folder / STATES).glob("*.safetensors"):
            path.unlink()

    def _state(self, metric: str) -> Path:
        return self.folder / STATES / f"{metric}-{self.rank}.safetensors"


def different_metrics(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """How metrics differ that two records have."""
    return [
        f"metric '{name}': {text}"
        for name in now
        if name in before
        for text in differences(*_decisive(before[name], now[name]))
    ]


def _decisive(*about: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What a metric's numbers depend on, of what is kept of it twice; contents are called as the options in it.

    Where it says the same of itself under the name of an option, it does not matter how that is written: a file may be
    given by its path, or be found.
    """
    first, second = (each.get("identity") or {} for each in about)
    alike = {name for name in first.keys() & second.keys() if first[name] == second[name]}
    return [_options_and_more(each, alike) for each in about]


def _options_and_more(about: Mapping[str, Any], alike: Collection[str]) -> dict[str, Any]:
    kept = {name: value for name, value in about.items() if name not in _NO_DIFFERENCE}
    options = without(about.get("options") or {}, EFFORT)
    kept["options"] = {name: value for name, value in options.items() if name not in alike}
    if "contents" in about:
        inside = {name: value for name, value in about["contents"].items() if name not in alike}
        kept["contents"] = {f"options.{name}": value for name, value in inside.items()}
    return kept


def _merged(before: Line | None, line: Line) -> Line:
    """A later line laid over an earlier one of the same picture, metric by metric."""
    if before is None:
        return line
    merged = {**before, **line, "values": {**before["values"], **line["values"]}}
    if details := {**before.get("details", {}), **line.get("details", {})}:
        merged["details"] = details
    return merged


def _read_state(path: Path) -> tuple[dict[str, Any], list[str]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
            return arrays, [str(name) for name in json.loads(file.metadata()["seen"])]
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise DamagedError(f"{path} cannot be read ({error})", "Remove it, and run the same command again.") from error
