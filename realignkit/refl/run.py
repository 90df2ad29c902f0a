"""The folder of a training run: what it is of, how far it is, and what was measured on the way.

``training.json`` (what and how far), ``log.jsonl`` (a line per iteration), ``checkpoints/``, ``samples/``, ``prior/``
(images of the frozen model), ``rounds/`` (the model's own, rated), and the best weights:
``pytorch_lora_weights.safetensors`` or ``model/``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from PIL import Image
from pydantic import Field, JsonValue

from realignkit.errors import DamagedError, OutputError
from realignkit.files import append_lines, atomic_write
from realignkit.images import png
from realignkit.named import Named
from realignkit.provenance import another_version, flat, in_short, placeless, versions
from realignkit.records import Format, Written
from realignkit.refl import checkpoints
from realignkit.refl.checkpoints import WrittenValidation
from realignkit.refl.config import ADDED, ALGORITHMS, REMOVED, ReFLConfig, translated
from realignkit.refl.options import ValidationOptions
from realignkit.types import TrainState, Validation

RECORD = "training.json"
LOG = "log.jsonl"
PRIOR_SAMPLING = "prior_sampling"
"""In the identity, where L_pre's images are not drawn as the held-out prompts are: with ``validation.steps``."""

CHANGEABLE = frozenset(
    {
        *("iterations", "checkpoint_every", "keep_checkpoints", "tracker"),
        *("validation.every", "validation.patience", "validation.samples", "validation.diversity"),
        *("gradient_checkpointing", "batch_size", "gradient_accumulation_steps", "total_batch_size", "pairs"),
        *(f"{name}.pictures" for name, kind in ALGORITHMS.items() if "pictures" in kind.Options.model_fields),
    }
)
"""Options that may differ when a run is resumed; the batch's parts may, as long as their product stays, and the folder
of the pairs or pictures, as long as the same ones are in it."""


class _Record(Written):
    """``training.json``; what is missing has happened to nobody, what is there must be of its kind."""

    status: str = ""
    iteration: int = Field(0, ge=0)
    config: dict[str, JsonValue] = Field(default_factory=dict)
    identity: dict[str, JsonValue] = Field(default_factory=dict)
    history: list[WrittenValidation] = Field(default_factory=list)
    best: int | None = None
    warnings: list[str] = Field(default_factory=list)
    versions: dict[str, str] = Field(default_factory=dict)


TRAINING = Format(
    "realignkit.training",
    1,
    "training",
    _Record,
    damaged="Resume the run (--resume), which mends it.",
    foreign="Train into another folder.",
)


def read_record(folder: Path) -> dict[str, Any] | None:
    """``training.json``; None where there is none.

    Raises:
        DamagedError: it cannot be read.
        OutputError: it is no training's.
    """
    try:
        return TRAINING.read(folder / RECORD)
    except (FileNotFoundError, NotADirectoryError):
        return None


def begun(folder: Path) -> bool:
    """Whether a folder holds a training run, perhaps a damaged one."""
    return (folder / RECORD).exists() or bool(checkpoints.listed(folder))


def validation_from(record: Mapping[str, Any]) -> Validation:
    """A validation from its JSON."""
    lists = {name: tuple(record[name]) for name in ("rewards", "judgements")}
    scope = {name: tuple(values) for name, values in record.get("scope", {}).items()}  # version 0.1 had none
    return Validation(**{**record, **lists, "scope": scope})


def identifying_options(plugin: Named) -> dict[str, Any] | None:
    """What decides what a plugin says, local files and folders by what is in them; None without options."""
    settings = plugin.settings
    return None if settings is None else placeless(settings)


def sampling_identity(used: Mapping[str, Any], validation: ValidationOptions, draws_pairs: bool) -> dict[str, Any]:
    """How images are drawn, as a part of the identity.

    Args:
        used: how the model is used.
        validation: which may have another number of steps.
        draws_pairs: whether the frozen model draws L_pre's images.
    """
    held_out = validation.sampling(used)
    return {"sampling": held_out, **({PRIOR_SAMPLING: dict(used)} if draws_pairs and held_out != used else {})}


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

    def open(self, resume: bool, say: Callable[[str], None]) -> tuple[Path, dict[str, Any]] | None:
        """The whole checkpoint to go on from, and its record; None: from the beginning.

        Args:
            resume: go on with what is there.
            say: is told what is damaged, or that there is nothing to go on with.

        Raises:
            OutputError: it holds a run and ``resume`` is off, a run of something else, one of more iterations than are
                asked for, or one without a whole checkpoint.
        """
        if not begun(self.folder):
            checkpoints.truncate_log(self.folder / LOG, 0)  # of a run that was killed before its first checkpoint
            if resume:
                say(f"{self.folder} holds no training run to resume; a new one begins")
            return None
        if not resume:
            raise OutputError(f"{self.folder} holds a training run. Resume it (--resume), or use another folder.")
        try:
            read_record(self.folder)
        except DamagedError as error:
            say(f"{error.reason}; it is written anew from the last checkpoint")
        newest = checkpoints.newest(self.folder, say)
        if newest is None:
            raise OutputError(
                f"{self.folder} cannot be resumed: it holds a training run, but no checkpoint. Train into another "
                f"folder, or empty this one."
            )
        self._check_same(newest[1].get("run") or {})
        done = int(newest[1].get("iteration", 0))
        if done > self.config.iterations:
            raise OutputError(
                f"{self.folder} has had {done} iterations already, and iterations={self.config.iterations} asks for "
                f"fewer. Ask for as many or more, or train into another folder."
            )
        return newest

    def _check_same(self, run: Mapping[str, Any]) -> None:
        now, recorded, identity = self.what, run.get("config") or {}, dict(run.get("identity") or {})
        for name, off in REMOVED.items():
            if recorded.get(name, off) != off:
                raise OutputError(
                    f"{self.folder} was trained with {name}={recorded[name]!r}, which this version no longer has. Go "
                    f"on with version 0.1, or train into another folder."
                )
        if now["identity"].get("training_guidance_scale") is None:  # version 0.1 had one for what draws nothing, too
            identity["training_guidance_scale"] = None
        if PRIOR_SAMPLING in now["identity"]:  # earlier versions drew the images with validation.steps, too
            identity.setdefault(PRIOR_SAMPLING, now["identity"][PRIOR_SAMPLING])
        if (algorithm := identity.get("algorithm")) not in (None, now["identity"]["algorithm"]):
            raise self._another([_difference("algorithm", algorithm, now["identity"]["algorithm"])])
        new = flat(now["config"])
        old = translated(flat(recorded), str(identity.get("algorithm"))) or new
        old = {**{name: off for name, off in ADDED.items() if name in new}, **old}
        unknown, gone = sorted(new.keys() - old.keys() - CHANGEABLE), sorted(old.keys() - new.keys() - CHANGEABLE)
        old, new = {**old, **identity}, {**new, **now["identity"]}
        different = [
            _difference(name, old.get(name), new.get(name))
            for name in sorted((old.keys() | new.keys()) - {*unknown, *gone})
            if name not in CHANGEABLE and old.get(name) != new.get(name)
        ] + another_version(unknown, gone)
        if different:
            raise self._another(different)

    def _another(self, different: list[str]) -> OutputError:
        return OutputError(
            f"{self.folder} holds another training; different: {in_short(different)}. Use the same options and inputs "
            f"to resume, or another folder."
        )

    def take_over(self, newest: tuple[Path, Mapping[str, Any]] | None) -> None:
        """Go on with L_pre's images as an earlier version had them drawn, if it was one: see :meth:`open`."""
        if newest is not None and PRIOR_SAMPLING not in newest[1].get("run", {}).get("identity", {}):
            self.identity.pop(PRIOR_SAMPLING, None)

    @property
    def prior_sampling(self) -> dict[str, Any]:
        """How L_pre's images are drawn, where the frozen model draws them."""
        sampling: dict[str, Any] = self.identity.get(PRIOR_SAMPLING, self.identity["sampling"])
        return sampling

    @property
    def what(self) -> dict[str, Any]:
        """What the run is: configuration, its own algorithm's options in it, and identity, as JSON values."""
        others = ALGORITHMS.keys() - {self.identity["algorithm"]}
        config = self.config.model_dump(mode="json", exclude=set(others))
        what: dict[str, Any] = json.loads(json.dumps({"config": config, "identity": self.identity}, default=str))
        # JSON has no infinity; pydantic writes null, which would read as another setting.
        what["config"]["optimizer"]["max_gradient_norm"] = str(self.config.optimizer.max_gradient_norm)
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
            "status": status,
            "iteration": iteration,
            **self.what,
            "history": [asdict(item) for item in history],
            "best": None if best is None else best.iteration,
            "warnings": list(warnings),
            "versions": versions(),
        }
        atomic_write(self.folder / RECORD, TRAINING.dumps(record))

    def write_step(self, state: TrainState) -> None:
        """Add a line to ``log.jsonl``.

        Raises:
            OutputError: it cannot be written.
        """
        if not self.main:
            return
        append_lines(self.folder / LOG, [state.record()], "Free some space and resume the run.")

    def write_samples(self, iteration: int, images: Sequence[Image.Image]) -> Path | None:
        """Write a grid of held-out images; where, None where there are none.

        Raises:
            OutputError: it cannot be written.
        """
        path = self.folder / "samples" / f"{iteration:06d}.png" if images else None
        if self.main and path is not None:
            atomic_write(path, png(grid(images)))
        return path


def _difference(name: str, recorded: Any, now: Any) -> str:
    if name == "training_pairs" and isinstance(recorded, dict) and isinstance(now, dict):
        parts = [part for part in now if recorded.get(part) != now[part]]
        return f"the {' and '.join(parts)} of the training pairs"
    if isinstance(recorded, dict) and isinstance(now, dict):
        old, new = flat(recorded), flat(now)
        parts = [key for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)]
        return ", ".join(f"{name} {key} ({old.get(key)!r} there, {new.get(key)!r} now)" for key in parts)
    return f"{name} ({recorded!r} there, {now!r} now)"


def grid(images: Sequence[Image.Image], columns: int = 4) -> Image.Image:
    """Images of one size in rows, with a thin white gap."""
    width, height = images[0].size
    columns = min(columns, len(images))
    rows, gap = -(-len(images) // columns), max(width // 64, 1)
    sheet = Image.new("RGB", (columns * (width + gap) - gap, rows * (height + gap) - gap), "white")
    for i, image in enumerate(images):
        sheet.paste(image, (i % columns * (width + gap), i // columns * (height + gap)))
    return sheet
