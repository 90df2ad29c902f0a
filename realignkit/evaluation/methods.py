"""Table I: systems as rows of a YAML file, and their evaluations side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from realignkit.contracts import Config, parse_options
from realignkit.errors import OptionError, in_one_line
from realignkit.evaluation.compare import EvaluationPair, compare_folders
from realignkit.evaluation.folder import EvaluationFolder
from realignkit.evaluation.runs import slug
from realignkit.evaluation.statistics import Interval
from realignkit.evaluation.summary import EVERYTHING, Value, silences, summarise
from realignkit.evaluation.write_evaluation import facts_of
from realignkit.named import Named
from realignkit.parsing import parse_yaml

SHIPPED = Path(__file__).parent / "rows"
"""Rows that come with the package, by file name."""


class Method(Config):
    """A system: what draws, what it was trained to, and what follows."""

    model: str = Field(min_length=1, description="generator, model folder or file, or hub id")
    lora: str | None = Field(None, description="adapters: what 'realignkit train' wrote")
    fine: bool | Literal["dense"] = Field(
        False, description="the fine stage follows; dense: DenseDiffusion's settings, in the first picture's layout"
    )
    tagger: str | None = Field(None, description="of the fine stage; none: the model's companion")
    scorer: str | None = Field(None, description="likewise")
    segmenter: str | None = Field(None, description="likewise")
    candidates: int = Field(1, ge=1, description="pictures per prompt and seed; the best goes on")
    select_by: str | None = Field(None, description="the reward that chooses it")
    guide_by: str | None = Field(None, description="the reward whose gradient guides sampling")
    settings: Mapping[str, Any] = Field({}, alias="set", description="options by name, as for --set")
    download: str = Field("", description="what is fetched where it is not here, for users")
    made_by: str = Field("", description="the command that makes the adapters, for users")
    note: str = Field("", description="what to know about the row, a sentence under the table")


def read_methods(rows: str | Path) -> dict[str, Method]:
    """The rows of a file, or of one that comes with the package (``micro``, ``published``).

    Raises:
        OptionError: there is no such file, or it holds no rows; the message says which value is bad.
    """
    import yaml

    shipped = SHIPPED / f"{rows}.yaml"
    path = shipped if shipped.is_file() else Path(rows).expanduser()
    try:
        content = parse_yaml(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        known = ", ".join(sorted(file.stem for file in SHIPPED.glob("*.yaml")))
        raise OptionError(
            f"cannot read the rows of {path}: {in_one_line(error)}. Give a YAML file, or one of {known}."
        ) from None
    if not isinstance(content, dict) or not isinstance(content.get("rows"), dict) or set(content) != {"rows"}:
        raise OptionError(f"{path} must hold 'rows:' alone, and below it a name and its options for each system.")
    methods = {}
    for name, options in content["rows"].items():
        if not isinstance(name, str):
            raise OptionError(f"{path}: the name of the row {name!r} is no text. Write it in quotes.")
        methods[name] = parse_options(Method, options, owner=f"{path.name}, row '{name}'")
        if (methods[name].candidates > 1) != (methods[name].select_by is not None):
            raise OptionError(f"{path.name}, row '{name}': candidates, at least 2, and select_by go together.")
    if not methods:
        raise OptionError(f"{path} holds no rows: add at least one system.")
    folders = [slug(name) for name in methods]
    if twice := {folder for folder in folders if folders.count(folder) > 1}:
        raise OptionError(f"{path}: several rows would be written to {', '.join(sorted(twice))}. Name them otherwise.")
    return methods


def chosen_methods(methods: Mapping[str, Method], without: Sequence[str]) -> dict[str, Method]:
    """The rows but some.

    Raises:
        OptionError: a name is no row, or none is left.
    """
    if unknown := [name for name in without if name not in methods]:
        raise OptionError(f"there is no row '{unknown[0]}'. Known: {', '.join(methods)}.")
    kept = {name: method for name, method in methods.items() if name not in without}
    if not kept:
        raise OptionError("no row is left: leave fewer out.")
    return kept


@dataclass(frozen=True)
class MethodsTable:
    """Table I.

    Attributes:
        values: row -> its numbers over all pictures.
        pairs: (row, other row) -> the two side by side, every row with every later one.
        notes: row -> what to know about it.
        about: what all rows share.
        ranks: question -> row -> its average rank by people, 1 for the best, and the 95 % interval of that.
        measured: metric -> what its numbers depend on beside the pictures (weights, resize mode, reference …), the same
            for all rows.
    """

    values: Mapping[str, Sequence[Value]]
    pairs: Mapping[tuple[str, str], EvaluationPair]
    notes: Mapping[str, str]
    about: str
    ranks: Mapping[str, Mapping[str, tuple[float, Interval]]] = field(default_factory=dict)
    measured: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def methods_table(
    folders: Mapping[str, Path], methods: Mapping[str, Method], metrics: Sequence[Named], seeds: Sequence[int] = ()
) -> MethodsTable:
    """Sum up the evaluations of all rows.

    Args:
        folders: row -> its evaluation.
        methods: row -> the system.
        metrics: in the order of the columns.
        seeds: that were asked for, in every row the same, to be said.

    Raises:
        OptionError: the rows were not measured alike, or one is not finished.
        OutputError: a folder holds no evaluation.
    """
    values: dict[str, list[Value]] = {}
    notes: dict[str, str] = {}
    for name, folder in folders.items():
        results = EvaluationFolder(folder)
        record, lines = results.existing(), list(results.lines().values())
        values[name] = [
            value for value in summarise(lines, metrics, record.get("whole", {})) if value.group == EVERYTHING
        ]
        said = [methods[name].note, *(f"{text}." for text in silences(lines, metrics))]
        notes[name] = " ".join(filter(None, said))
    pairs = {(a, b): compare_folders(folders[a], folders[b]) for a, b in combinations(folders, 2)}
    record = EvaluationFolder(next(iter(folders.values()))).existing()
    pictures, known = record["pictures"], record["metrics"]
    each = pictures["count"] // max(pictures["prompts"], 1)
    which = f" ({', '.join(map(str, seeds))})" if seeds else ""
    about = (
        f"{pictures['prompts']} prompts, {each} picture{'s' * (each != 1)} of each in every row, the same seeds{which}."
    )
    measured = {metric.name: facts_of(known[metric.name]) for metric in metrics if metric.name in known}
    return MethodsTable(values, pairs, {name: text for name, text in notes.items() if text}, about, measured=measured)
