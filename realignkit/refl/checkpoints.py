"""Checkpoints: folders that are complete or absent, in safetensors and JSON, from which a run goes on exactly."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from realignkit.errors import OutputError
from realignkit.refl.trainable import Trainable
from realignkit.storage import atomic_folder

FORMAT = "realignkit.checkpoint"
VERSION = 1
FOLDER = "checkpoints"
_MOMENTS = ("exp_avg", "exp_avg_sq")


def listed(run: Path) -> list[Path]:
    """The complete checkpoints of a run, oldest first."""
    folders = (run / FOLDER).glob("[0-9]*") if (run / FOLDER).is_dir() else ()
    return sorted((path for path in folders if path.name.isdigit()), key=lambda path: int(path.name))


def save(
    run: Path, trainable: Trainable, optimizer: torch.optim.Optimizer, record: Mapping[str, Any], keep: int
) -> Path:
    """Write a checkpoint, then remove all but the last ``keep``.

    Args:
        run: the run's folder.
        trainable: weights and average.
        optimizer: AdamW over the trainable's parameters, in their order.
        record: JSON values; ``iteration`` names the checkpoint.
        keep: at least 1.

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
        head = {"format": FORMAT, "version": VERSION, **record}
        (folder / "state.json").write_text(json.dumps(head, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    for old in listed(run)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    for debris in (run / FOLDER).glob(".*.tmp"):  # of a process that was killed
        shutil.rmtree(debris, ignore_errors=True)
    return path


def _tensors(trainable: Trainable, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {f"weights/{name}": p for name, p in trainable.parameters.items()}
    if trainable.average is not None:
        tensors |= {f"average/{n}": t for n, t in zip(trainable.parameters, trainable.average, strict=True)}
    for name, parameter in trainable.parameters.items():
        state = optimizer.state.get(parameter, {})
        tensors |= {f"{moment}/{name}": state[moment] for moment in _MOMENTS if moment in state}
        if "step" in state:
            tensors[f"step/{name}"] = torch.as_tensor(state["step"])
    return tensors


def load(path: Path, trainable: Trainable, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Put a checkpoint's state into weights, average and optimizer; its record.

    Raises:
        OutputError: it is damaged, or of another training.
    """
    from safetensors.torch import load_file

    try:
        record: dict[str, Any] = json.loads((path / "state.json").read_text(encoding="utf-8"))
        tensors = load_file(path / "state.safetensors")
    except Exception as error:  # safetensors has its own errors
        raise _damaged(path, str(error)) from error
    if record.get("format") != FORMAT or record.get("version") != VERSION:
        raise _damaged(path, f"its format is {record.get('format')!r}, version {record.get('version')!r}")
    names = {name for name in tensors if name.startswith("weights/")}
    if names != {f"weights/{name}" for name in trainable.parameters}:
        raise _damaged(path, "it holds the weights of another model or other adapters")
    with torch.no_grad():
        for i, (name, parameter) in enumerate(trainable.parameters.items()):
            device = parameter.device
            parameter.data = tensors[f"weights/{name}"].to(device)
            if trainable.average is not None:
                trainable.average[i] = tensors[f"average/{name}"].to(device)
            optimizer.state.pop(parameter, None)
            if f"step/{name}" in tensors:
                moments = {moment: tensors[f"{moment}/{name}"].to(device) for moment in _MOMENTS}
                optimizer.state[parameter] = {"step": tensors[f"step/{name}"], **moments}
    return record


def _damaged(path: Path, why: str) -> OutputError:
    return OutputError(
        f"checkpoint {path} cannot be used: {why}. Remove it to go on from the one before, or use another folder."
    )


def truncate_log(path: Path, iteration: int) -> None:
    """Drop the lines of ``log.jsonl`` after an iteration: a resumed run writes them again.

    Raises:
        OutputError: the file cannot be written.
    """
    from realignkit.storage import atomic_write

    if not path.is_file():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        with contextlib.suppress(ValueError, KeyError, TypeError):  # a killed writer's last line may be cut
            if json.loads(line)["iteration"] <= iteration:
                kept.append(line + "\n")
    atomic_write(path, "".join(kept))
