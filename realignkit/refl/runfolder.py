"""The folder of a training run: what it is of, how far it is, and what was measured on the way.

``training.json`` (what and how far), ``log.jsonl`` (a line per iteration), ``checkpoints/``, ``samples/``, ``prior/``
(images of the frozen model), and the best weights: ``pytorch_lora_weights.safetensors`` or ``model/``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from PIL import Image

from realignkit.assembly import versions
from realignkit.errors import OutputError
from realignkit.refl import checkpoints
from realignkit.refl.config import ReFLConfig
from realignkit.refl.state import TrainState, Validation
from realignkit.storage import atomic_write, make_folder, png

RECORD = "training.json"
FORMAT = "realignkit.training"
VERSION = 1
LOG = "log.jsonl"

CHANGEABLE = frozenset(
    {
        *("iterations", "validate_every", "patience", "checkpoint_every", "keep_checkpoints", "samples", "tracker"),
        *("gradient_checkpointing", "batch_size", "gradient_accumulation_steps", "total_batch_size"),
    }
)
"""Options that may differ when a run is resumed; the batch's parts may, as long as their product stays."""


def read_record(folder: Path) -> dict[str, Any] | None:
    """``training.json``; None where there is none.

    Raises:
        OutputError: it is damaged, or no training's.
    """
    path = folder / RECORD
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise OutputError(f"{path} cannot be read: {error}. Train into another folder.") from error
    if not isinstance(record, dict) or record.get("format") != FORMAT or record.get("version") != VERSION:
        raise OutputError(f"{path} is no training of this realignkit. Train into another folder.")
    return record


def validation_from(record: Mapping[str, Any]) -> Validation:
    """A validation from its JSON."""
    lists = {name: tuple(record[name]) for name in ("rewards", "judgements")}
    return Validation(**{**record, **lists})


class RunFolder:
    """Writes a run's files (in the main process only), and decides whether a run can go on.

    Args:
        folder: of the run.
        config: of the training.
        identity: what else a resumed run must share: reward, judge, model, prompts, batch.
        main: whether this process writes.
    """

    def __init__(self, folder: Path, config: ReFLConfig, identity: Mapping[str, Any], main: bool) -> None:
        self.folder, self.config, self.identity, self.main = folder, config, dict(identity), main

    def open(self, resume: bool) -> Path | None:
        """Make the folder, or find the checkpoint to go on from (None: from the beginning).

        Raises:
            OutputError: it cannot be written, holds a run and ``resume`` is off, or a run of something else.
        """
        make_folder(self.folder)
        there = read_record(self.folder)
        if there is None:
            return None
        if not resume:
            raise OutputError(f"{self.folder} holds a training run. Resume it (--resume), or use another folder.")
        self._check_same(there)
        found = checkpoints.listed(self.folder)
        return found[-1] if found else None

    def _check_same(self, there: Mapping[str, Any]) -> None:
        now = self._what()
        old = {**there.get("config", {}), **there.get("identity", {})}
        new = {**now["config"], **now["identity"]}
        different = [
            f"{name} ({old.get(name)!r} there, {new.get(name)!r} now)"
            for name in sorted(old.keys() | new.keys())
            if name not in CHANGEABLE and old.get(name) != new.get(name)
        ]
        if different:
            raise OutputError(
                f"{self.folder} holds another training; different: {'; '.join(different[:3])}. "
                f"Use the same options to resume, or another folder."
            )

    def _what(self) -> dict[str, Any]:
        what: dict[str, Any] = json.loads(
            json.dumps({"config": self.config.model_dump(mode="json"), "identity": self.identity}, default=str)
        )
        # JSON has no infinity; pydantic writes null, which would read as another setting.
        what["config"]["max_gradient_norm"] = str(self.config.max_gradient_norm)
        return what

    def write_record(
        self,
        status: str,
        iteration: int,
        history: Sequence[Validation],
        best: Validation | None,
        warnings: Sequence[str],
    ) -> None:
        """Say how far the run is.

        Raises:
            OutputError: it cannot be written.
        """
        if not self.main:
            return
        record = {
            "format": FORMAT,
            "version": VERSION,
            "status": status,
            "iteration": iteration,
            **self._what(),
            "history": [asdict(item) for item in history],
            "best": None if best is None else best.iteration,
            "warnings": list(warnings),
            "versions": versions(),
        }
        atomic_write(self.folder / RECORD, json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False) + "\n")

    def write_step(self, state: TrainState) -> None:
        """Add a line to ``log.jsonl``.

        Raises:
            OutputError: it cannot be written.
        """
        if not self.main:
            return
        try:
            with (self.folder / LOG).open("a", encoding="utf-8") as file:
                file.write(json.dumps(state.record()) + "\n")
        except OSError as error:
            raise OutputError(
                f"cannot write {self.folder / LOG}: {error.strerror or error}. Free some space and resume the run."
            ) from error

    def write_samples(self, iteration: int, images: Sequence[Image.Image]) -> None:
        """Write a grid of held-out images.

        Raises:
            OutputError: it cannot be written.
        """
        if self.main and images:
            atomic_write(self.folder / "samples" / f"{iteration:06d}.png", png(grid(images)))


def grid(images: Sequence[Image.Image], columns: int = 4) -> Image.Image:
    """Images of one size in rows, with a thin white gap."""
    width, height = images[0].size
    columns = min(columns, len(images))
    rows, gap = -(-len(images) // columns), max(width // 64, 1)
    sheet = Image.new("RGB", (columns * (width + gap) - gap, rows * (height + gap) - gap), "white")
    for i, image in enumerate(images):
        sheet.paste(image, (i % columns * (width + gap), i // columns * (height + gap)))
    return sheet
