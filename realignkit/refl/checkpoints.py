"""Checkpoints: folders that are complete or absent, in safetensors and JSON, from which a run goes on exactly.

``manifest.json`` has the checksum of each file: a checkpoint that is not what was written is passed over.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import ConfigDict, Field, JsonValue
from torch import Tensor

from realignkit.errors import DamagedError, OutputError
from realignkit.files import atomic_folder, keep_lines, sweep
from realignkit.records import Format, Written, check_manifest, write_manifest
from realignkit.refl.trainable import Trainable

FOLDER = "checkpoints"
_MOMENTS = ("exp_avg", "exp_avg_sq")


class WrittenValidation(Written):
    """A :class:`Validation` as files have it."""

    iteration: int = Field(ge=0)
    reward: float
    judgement: float
    higher_is_better: bool
    values: dict[str, float]
    rewards: list[float]
    judgements: list[float]
    scope: dict[str, list[float]] = Field(default_factory=dict)


class _State(Written):
    """What is relied on of ``state.json``; there is more."""

    model_config = ConfigDict(extra="allow")

    iteration: int = Field(ge=0)
    status: str
    history: list[WrittenValidation]
    warnings: list[str]
    loss_scale: tuple[float, int]
    run: dict[str, dict[str, JsonValue]]


STATE = Format("realignkit.checkpoint", 2, "checkpoint", _State, "Make it again.", "Make it again.")


def listed(run: Path) -> list[Path]:
    """The complete checkpoints of a run, oldest first."""
    folders = (run / FOLDER).glob("[0-9]*") if (run / FOLDER).is_dir() else ()
    return sorted((path for path in folders if path.name.isdigit()), key=lambda path: int(path.name))


def newest(run: Path, say: Callable[[str], None]) -> tuple[Path, dict[str, Any]] | None:
    """The last checkpoint of a run that is what was written, and its record; None where the run has none at all.

    Args:
        run: the run's folder.
        say: is told what is damaged, and what is gone on from.

    Raises:
        OutputError: there are checkpoints, and none can be used.
    """
    damage = ""
    for path in reversed(listed(run)):
        try:
            record = read(path)
        except DamagedError as error:
            damage = damage or error.reason
            continue
        if damage:
            say(f"{damage}; going on from {path.name}, the last one that is whole")
        return path, record
    if damage:
        raise OutputError(
            f"{run} cannot be resumed, as no whole checkpoint is left: {damage}. Train into another folder."
        )
    return None


def read(path: Path) -> dict[str, Any]:
    """The record of a checkpoint whose files are what was written.

    Raises:
        DamagedError: a file is missing, cut off, or has another content.
    """
    try:
        check_manifest(path)
        return STATE.read(path / "state.json")
    except DamagedError as error:
        raise DamagedError(f"checkpoint {path} cannot be used: {error.reason}") from error
    except (OutputError, OSError) as error:
        reason = "it is of another version of realignkit" if isinstance(error, OutputError) else error
        raise DamagedError(f"checkpoint {path} cannot be used: {reason}") from error


def save(
    run: Path, trainable: Trainable, optimizer: torch.optim.Optimizer, record: Mapping[str, Any], keep: int
) -> Path:
    """Write a checkpoint, then remove all but the last ``keep``, and later ones that were passed over as damaged.

    Args:
        run: the run's folder.
        trainable: weights and average.
        optimizer: AdamW over the trainable's parameters, in their order.
        record: JSON values; ``iteration`` names the checkpoint.
        keep: at least 2, so that there is one to fall back on.

    Raises:
        OutputError: it cannot be written; earlier ones are untouched.
    """
    from safetensors.torch import save_file

    tensors = _tensors(trainable, optimizer)
    path = run / FOLDER / f"{record['iteration']:06d}"
    with atomic_folder(path) as folder:
        save_file(
            {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, folder / "state.safetensors"
        )
        (folder / "state.json").write_text(STATE.dumps(record), encoding="utf-8")
        write_manifest(folder)
    earlier = [other for other in listed(run) if int(other.name) <= int(path.name)]
    for other in listed(run):
        if other not in earlier[-keep:]:
            shutil.rmtree(other, ignore_errors=True)
    sweep(run / FOLDER)
    return path


def _tensors(trainable: Trainable, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {f"weights/{name}": p for name, p in trainable.parameters.items()}
    if trainable.average is not None:
        tensors |= {f"average/{n}": t for n, t in zip(trainable.parameters, trainable.average, strict=True)}
    for copy, weights in trainable.kept.items():
        tensors |= {f"kept/{copy}/{n}": t for n, t in zip(trainable.parameters, weights, strict=True)}
    for name, parameter in trainable.parameters.items():
        state = optimizer.state.get(parameter, {})
        tensors |= {f"{moment}/{name}": state[moment] for moment in _MOMENTS if moment in state}
        if "step" in state:
            tensors[f"step/{name}"] = torch.as_tensor(state["step"])
    return tensors


def load(path: Path, trainable: Trainable, optimizer: torch.optim.Optimizer) -> None:
    """Put the state of a checkpoint that :func:`read` found whole into weights, average and optimizer.

    Raises:
        OutputError: it is of another training.
    """
    from safetensors.torch import load_file

    tensors = load_file(path / "state.safetensors")
    names = {name for name in tensors if name.startswith("weights/")}
    if names != {f"weights/{name}" for name in trainable.parameters}:
        raise OutputError(
            f"checkpoint {path} holds the weights of another model or other adapters. Use the same options to resume, "
            f"or another folder."
        )
    with torch.no_grad():
        for i, (name, parameter) in enumerate(trainable.parameters.items()):
            device = parameter.device
            parameter.data = tensors[f"weights/{name}"].to(device)
            if trainable.average is not None:
                trainable.average[i] = tensors[f"average/{name}"].to(device)
            for copy, weights in trainable.kept.items():
                weights[i] = tensors[f"kept/{copy}/{name}"].to(device)
            optimizer.state.pop(parameter, None)
            if f"step/{name}" in tensors:
                moments = {moment: tensors[f"{moment}/{name}"].to(device) for moment in _MOMENTS}
                optimizer.state[parameter] = {"step": tensors[f"step/{name}"], **moments}


def mend_export(
    run: Path,
    trainable: Trainable,
    optimizer: torch.optim.Optimizer,
    current: Path,
    wanted: int | None,
    say: Callable[[str], None],
) -> None:
    """Make sure that the exported weights are those of an iteration, from the checkpoint of it where they are not.

    Args:
        run: the run's folder.
        trainable: with the state of ``current``, which it has afterwards too.
        current: the checkpoint that is gone on from.
        wanted: the iteration; None: there need be no weights yet.
        say: is told what was mended.

    Raises:
        OutputError: the weights are lost.
    """
    if wanted is None:
        return
    why = ""
    try:
        exported = trainable.exported(run)
        if exported == wanted or exported > int(current.name):  # what follows the checkpoint is trained again
            return
    except DamagedError as error:
        why = f" ({error.reason})"
    for path in reversed(listed(run)):
        if int(path.name) == wanted:
            read(path)
            load(path, trainable, optimizer)
            trainable.export(run, wanted)
            load(current, trainable, optimizer)
            say(f"the best weights, of iteration {wanted}, were not there{why}; made again from checkpoint {path.name}")
            return
    raise OutputError(
        f"the best weights of {run}, of iteration {wanted}, are lost{why}, and no checkpoint has them. Train into "
        f"another folder."
    )


def truncate_log(path: Path, iteration: int) -> None:
    """Drop the lines of ``log.jsonl`` after an iteration: a resumed run writes them again.

    Raises:
        OutputError: the file cannot be written.
    """
    keep_lines(path, lambda row: isinstance(row.get("iteration"), int) and row["iteration"] <= iteration)
