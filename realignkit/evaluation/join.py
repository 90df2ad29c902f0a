"""Evaluations of different pictures, measured alike, made into one."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from realignkit.errors import OptionError
from realignkit.evaluation.compare import check_measured, finished
from realignkit.evaluation.evaluate import joined_values
from realignkit.evaluation.folder import EvaluationFolder, Line, different_metrics
from realignkit.evaluation.pictures import PICTURES
from realignkit.files import only_writer, write_lines
from realignkit.named import Named
from realignkit.provenance import digest_of, in_short
from realignkit.registry import Registry


def join_folders(folders: Sequence[str | Path], out: str | Path, registry: Registry) -> list[Named]:
    """Write into one what several evaluations measured, each of pictures of its own.

    Args:
        folders: of evaluations with the same metrics.
        out: a new folder, or one that an earlier join has written, which is replaced.
        registry: where their metrics are looked up.

    Returns:
        The metrics.

    Raises:
        OptionError: they were not measured alike, have a picture in common, or ``out`` holds an evaluation of its own.
        OutputError: a folder holds no evaluation, one that is damaged, or one that is not finished.
        PluginError: a metric is not installed, or failed.
    """
    parts = [EvaluationFolder(folder) for folder in folders]
    records = [part.existing() for part in parts]
    target = EvaluationFolder(out)
    with only_writer(target.folder):
        if (record := target.record()) is not None and not record.get("joined"):
            raise OptionError(f"{target.folder} holds an evaluation of its own. Give another --out.")
        for part, record in zip(parts[1:], records[1:], strict=True):
            _check_alike(parts[0], records[0], part, record)
        lines = _joined_lines(parts, records)
        metrics = [_metric(registry, name, about) for name, about in records[0]["metrics"].items()]
        write_lines(target.folder / PICTURES, lines)
        whole = {
            metric.name: joined_values(
                metric, copy.deepcopy(metric.plugin), [state for part in parts for state in part.states(metric.name)]
            )
            for metric in metrics
            if metric.has("state")
        }
        pictures = {
            "source": " and ".join(dict.fromkeys(record["pictures"]["source"] for record in records)),
            "count": len(lines),
            "prompts": len({line["prompt"] for line in lines}),
            "identity": digest_of(record["pictures"]["identity"] for record in records),
        }
        joined = {"metrics": records[0]["metrics"], "drawn": records[0].get("drawn", {}), "joined": len(parts)}
        target.write_record({"pictures": pictures, **joined, "whole": whole})
        return metrics


def _check_alike(first: EvaluationFolder, one: Any, second: EvaluationFolder, other: Any) -> None:
    different = different_metrics(one["metrics"], other["metrics"])
    if one["metrics"].keys() != other["metrics"].keys():
        different.append(f"the metrics ({', '.join(one['metrics'])} there, {', '.join(other['metrics'])} now)")
    for name in one["metrics"].keys() & other["metrics"].keys():
        weights = [record["metrics"][name].get("weights") for record in (one, other)]
        if weights[0] != weights[1]:
            different.append(f"metric '{name}': the weights")
    if different:
        raise OptionError(
            f"{second.folder} was not measured as {first.folder} was: {in_short(different)}. They cannot be joined."
        )


def _joined_lines(parts: Sequence[EvaluationFolder], records: Sequence[Any]) -> list[Line]:
    lines: list[Line] = []
    owners: dict[Any, int] = {}
    names: set[str] = set()
    for place, (part, record) in enumerate(zip(parts, records, strict=True)):
        measured = finished(part, record)
        check_measured(part, record, measured, record["metrics"])
        for line in measured:
            key = line["prompt"], line["seed"], line["number"]
            if owners.setdefault(key, place) != place:
                raise OptionError(
                    f"{part.folder} and {parts[owners[key]].folder} both have a picture of '{line['prompt'][:60]}', "
                    f"seed {line['seed']}. Join evaluations of different pictures."
                )
            image = Path(line["image"])
            path = image if image.is_absolute() else (part.folder / image).resolve()
            name, number = line["id"], 2
            while name in names:
                name, number = f"{line['id']}-{number}", number + 1
            names.add(name)
            lines.append({**line, "id": name, "image": str(path)})
    return lines


def _metric(registry: Registry, name: str, about: Any) -> Named:
    info = registry.info("metric", "reward" if ":" in name or "," in name else name)
    return Named("metric", name, info.create(**about["options"]))
