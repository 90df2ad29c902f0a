"""Processes and trackers, through accelerate; and Ctrl-C that waits for a good moment."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from realignkit.errors import ModelError, OptionError, in_one_line
from realignkit.machine import say_once, slow_bf16
from realignkit.provenance import flat
from realignkit.refl.options import TrainingOptions

if TYPE_CHECKING:
    from PIL.Image import Image

START_SCALE, GROW_AFTER = 2.0**16, 1000
SPLITTING = {
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
}
"""What accelerate's launcher sets in the environment for trainings that split a model, and what these are called."""
IMPATIENT_AFTER = 2.0
"""Seconds after which another Ctrl-C means: at once."""


def precision_of(config: TrainingOptions, launched: str, device: torch.device) -> str:
    """``no``, ``fp16`` or ``bf16``: what the config says, else the launcher, else what suits the device.

    A line in the log says so where bf16 is asked for on a processor that has no such instructions.

    Raises:
        OptionError: fp16 on a CPU.
    """
    chosen: str = config.mixed_precision
    if chosen == "auto":
        chosen = launched
        if launched == "no" and device.type == "cuda":
            chosen = "bf16" if torch.cuda.is_bf16_supported() else "fp16"
    if chosen == "fp16" and device.type == "cpu":
        raise OptionError("fp16 needs a GPU: use mixed_precision=no, or bf16 where the processor has it.")
    if (line := slow_bf16(device.type, chosen)) is not None:
        say_once(line)
    return chosen


class LossScale:
    """Dynamic loss scaling for fp16: halved at each overflow, doubled after many steps without; 1 otherwise."""

    def __init__(self, precision: str) -> None:
        self.active = precision == "fp16"
        self.value = START_SCALE if self.active else 1.0
        self.good = 0

    def update(self, overflow: bool) -> None:
        """Take note of a step."""
        if not self.active:
            return
        self.good = 0 if overflow else self.good + 1
        if overflow:
            self.value = max(self.value / 2, 1.0)
        elif self.good >= GROW_AFTER:
            self.value, self.good = self.value * 2, 0


class Processes:
    """The processes of a launch and what they agree on; one process needs no launcher.

    Args:
        config: of the training.
        folder: trackers write below it.

    Raises:
        OptionError: the tracker is not installed, or the launch is of a kind that would not do what it says.
    """

    def __init__(self, config: TrainingOptions, folder: Path) -> None:
        from accelerate import Accelerator
        from accelerate.utils import ProjectConfiguration

        join_launch()
        tracker = _tracker(config.tracker)
        self.accelerator: Any = Accelerator(
            log_with=tracker,
            project_config=ProjectConfiguration(project_dir=str(folder), logging_dir=str(folder / "logs")),
        )
        self.count, self.rank = int(self.accelerator.num_processes), int(self.accelerator.process_index)
        self.main = self.rank == 0
        self._tracks, self._folder = tracker, folder

    def mean(self, tensors: list[Tensor]) -> list[Tensor]:
        """The tensors' means over all processes."""
        if self.count == 1 or not tensors:
            return tensors
        flat = self.accelerator.reduce(torch.cat([t.flatten() for t in tensors]), "mean")
        parts = flat.split([t.numel() for t in tensors])
        return [part.view_as(t) for part, t in zip(parts, tensors, strict=True)]

    def any(self, flag: bool) -> bool:
        """Whether the flag is up in any process."""
        if self.count == 1:
            return flag
        raised = self.accelerator.reduce(torch.tensor([float(flag)], device=self.accelerator.device), "sum")
        return bool(raised.item() > 0)

    def gather(self, items: list[Any]) -> list[Any]:
        """Every process's items, one after the other, in all of them."""
        if self.count == 1:
            return items
        from accelerate.utils import gather_object

        return list(gather_object(items))

    def share(self, value: Any) -> Any:
        """The main process's value, in all of them."""
        if self.count == 1:
            return value
        from accelerate.utils import broadcast_object_list

        return broadcast_object_list([value], from_process=0)[0]

    def wait(self) -> None:
        """Until all are here."""
        self.accelerator.wait_for_everyone()

    def track_config(self, config: TrainingOptions) -> None:
        """Start the tracker.

        Raises:
            OptionError: it refuses.
        """
        if self._tracks:
            plain = {
                name: value if isinstance(value, bool | int | float | str) else str(value)
                for name, value in flat(config.model_dump(mode="json")).items()
            }
            # W&B would write into the working directory.
            options = {"wandb": {"dir": str(self._folder), "name": self._folder.name}}
            try:
                self.accelerator.init_trackers("realignkit", config=plain, init_kwargs=options)
            except Exception as error:  # a service can refuse for many reasons: no key, no network
                raise OptionError(
                    f"tracker '{self._tracks}' does not start ({type(error).__name__}: {error}). For W&B log in, or "
                    f"set WANDB_MODE=offline; or use tracker=tensorboard or none."
                ) from error

    def track(self, values: dict[str, float], step: int) -> None:
        """Hand numbers to the tracker."""
        if self._tracks:
            self.accelerator.log(values, step=step)

    def track_image(self, image: Image, step: int) -> None:
        """Hand a sample grid to the tracker."""
        if not (self._tracks and self.main):
            return
        import numpy as np

        for tracker in self.accelerator.trackers:
            if hasattr(tracker, "log_images"):
                values = np.asarray(image)[None] if tracker.name == "tensorboard" else [image]
                extra = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
                tracker.log_images({"held-out": values}, step=step, **extra)

    def close(self) -> None:
        """Finish the tracker's files."""
        if self._tracks:
            self.accelerator.end_training()


def join_launch() -> None:
    """Find the other processes of a launch, and the GPU of this one. One process needs no launcher.

    Raises:
        OptionError: each would train by itself, or is meant to have a part of the model, and would have all of it.
    """
    from accelerate import PartialState
    from accelerate.utils import parse_flag_from_env

    for flag, kind in SPLITTING.items():
        if parse_flag_from_env(flag):
            raise OptionError(
                f"{kind} would split nothing here, for every process trains a whole copy: launch with --multi_gpu. "
                f"Where a copy does not fit, use trainable=lora, gradient_checkpointing=true and a smaller batch_size."
            )
    together = PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU")).num_processes
    launched = os.environ.get("WORLD_SIZE", "1")
    if together == 1 < int(launched):
        raise OptionError(
            f"{launched} processes were launched, and accelerate finds no GPU on which they could work together: set "
            f"ACCELERATE_USE_CPU=true for processors, or launch one."
        )


def _tracker(name: str) -> str | None:
    if name == "none":
        return None
    module = "tensorboard" if name == "auto" else name
    if importlib.util.find_spec(module) is None:
        if name == "auto":
            return None
        raise OptionError(f"tracker '{name}' is not installed. Run: pip install 'realignkit[{name}]'")
    return module


@contextlib.contextmanager
def memory_errors() -> Iterator[None]:
    """Say what to do where memory runs out, in the model or in somebody's reward.

    Raises:
        ModelError: it did.
    """
    try:
        yield
    except Exception as error:  # what runs out of memory in a plugin arrives as the plugin's failure
        cause = next((e for e in (error, error.__cause__) if e is not None and _out_of_memory(e)), None)
        if cause is None:
            raise
        raise ModelError(
            f"the memory does not suffice ({in_one_line(cause)}). Lower "
            f"batch_size (total_batch_size keeps the sum), switch gradient_checkpointing on, use mixed_precision=bf16, "
            f"trainable=lora or fewer candidates; then resume: the last checkpoint is intact."
        ) from error


def _out_of_memory(error: BaseException) -> bool:
    # On the CPU, torch's allocator raises a plain RuntimeError.
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
    )


class Interruption:
    """Whether Ctrl-C (or a scheduler's SIGTERM) has been pressed; a second one does not wait."""

    def __init__(self) -> None:
        self.wanted = False
        self._since = 0.0

    def _handle(self, number: int, _frame: Any) -> None:
        # A launcher passes Ctrl-C on as SIGTERM at once: that is no second one.
        if self.wanted and time.monotonic() - self._since > IMPATIENT_AFTER:
            raise KeyboardInterrupt
        if not self.wanted:
            self.wanted, self._since = True, time.monotonic()

    @contextlib.contextmanager
    def watching(self) -> Iterator[Interruption]:
        """Watch for the while; outside the main thread there is nothing to watch."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        before = {number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
