"""Fine-tuned models as rows of a table: found in the folders that ``realignkit train`` writes, known by weights."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from realignkit.errors import ModelError
from realignkit.refl.run import read_record
from realignkit.rewards import parse_weights

LORA, WHOLE = "pytorch_lora_weights.safetensors", "model"


@dataclass(frozen=True)
class Model:
    """What makes a generator another one.

    Attributes:
        options: of the generator, over the user's.
        record: what results say about it: ``weights`` (a digest; None: as it came), and of its training ``reward``,
            ``reward_weight``, ``iteration`` (of the weights), ``seed``, ``status``. No paths.
    """

    options: Mapping[str, Any] = field(default_factory=dict)
    record: Mapping[str, Any] = field(default_factory=lambda: {"weights": None})


BASE = Model()


def trained_model(folder: str | Path) -> Model:
    """The model in a folder that ``realignkit train`` wrote (adapters, or a whole U-Net), or a ``.safetensors`` file.

    Raises:
        ModelError: there are no weights.
        OutputError: its ``training.json`` is damaged.
    """
    path = Path(folder).expanduser()
    whole = path / WHOLE / "model_index.json"
    if path.is_file() and path.suffix == ".safetensors":
        files, options = [path], {"lora": str(path)}
    elif whole.is_file():
        files, options = sorted((path / WHOLE).rglob("*.safetensors")), {"model": str(path / WHOLE)}
    else:
        files, options = sorted(path.glob("*.safetensors")), {"lora": str(path)}
    if not files:
        there = "no such folder" if not path.exists() else "it has no .safetensors file"
        raise ModelError(
            f"{folder} holds no trained weights ({there}). Give the --out folder of a 'realignkit train' that has "
            f"got as far as its first validation."
        )
    return Model(options, {"weights": _digest(files), **_training(path)})


def _digest(files: list[Path]) -> str:
    found = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            found.update(hashlib.file_digest(stream, "sha256").digest())
    return found.hexdigest()[:12]


def _training(path: Path) -> dict[str, Any]:
    record = read_record(path) if path.is_dir() else None
    if record is None:
        return {}
    config, identity = record.get("config", {}), record.get("identity", {})
    best = record.get("best")
    return {
        "reward": identity.get("reward"),
        "reward_weight": config.get("reward_weight"),
        "iteration": record.get("iteration") if best is None else best,
        "seed": config.get("seed"),
        "status": record.get("status"),
    }


def raised(record: Mapping[str, Any], scores: Iterable[str], beside: Mapping[str, str]) -> list[str]:
    """The scores that a model (its ``record``) was trained to raise, alone or in a sum: no fair measures of it.

    Args:
        record: see :class:`Model`.
        scores: reward specs.
        beside: the generator's companions, by which one reward may have two names.
    """
    reward, weight = record.get("reward"), record.get("reward_weight")
    if not isinstance(reward, str) or weight == 0:
        return []
    own = _names(reward, beside)
    return [score for score in scores if own & _names(score, beside)]


def _names(spec: str, beside: Mapping[str, str]) -> set[str]:
    return {beside.get(f"reward:{name}", name) for name in parse_weights(spec)}
