"""While a pipeline draws: a callback after each step, numbers that are none, and every other way to fail, in words."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from realignkit.errors import ModelError, RealignKitError, memory_error, out_of_memory
from realignkit.pipelines.refusals import why_failed

Progress = Callable[[int, int], None]
"""Called with (steps done, steps in all) after every sampling step."""

USUAL_GUIDANCE = 100.0
"""Above this, numbers that overflow are the guidance scale's doing."""


@contextmanager
def drawing(pipeline: Any, guidance_scale: float | None, progress: Progress | None) -> Iterator[dict[str, Any]]:
    """Say in words what goes wrong while a pipeline draws, from the encoding of its text on.

    Gives the arguments to call it with that watch over its steps. What ``progress`` raises is its caller's own, and
    passes.

    Raises:
        ModelError: memory does not suffice, the pipeline computed NaN or infinity, or it failed.
    """
    own: list[Exception] = []

    def report(done: int, total: int) -> None:
        try:
            if progress is not None:
                progress(done, total)
        except Exception as error:
            own.append(error)
            raise

    try:
        with finite_decoding(pipeline):
            yield step_callback(pipeline, report)
    except NotFiniteError as error:
        if guidance_scale is None or guidance_scale <= USUAL_GUIDANCE:
            raise
        raise ModelError(
            f"the model computed NaN or infinity {error.where}, with a guidance_scale of {guidance_scale:g}. "
            f"Lower it: 1 to 20 are usual."
        ) from None
    except RealignKitError:
        raise
    except Exception as error:
        if error in own:
            raise
        if out_of_memory(error):
            raise memory_error("drawing", error) from error
        raise ModelError(why_failed(pipeline, error)) from error


@contextmanager
def finite_decoding(pipeline: Any) -> Iterator[None]:
    """Check what the image decoder gives, which a pipeline clamps to [0, 1] before anybody sees it.

    Raises:
        NotFiniteError: it computed some.
    """
    processor: Any = getattr(pipeline, "image_processor", None)
    if not hasattr(processor, "postprocess"):  # pixel models have none: their last step has been checked
        yield
        return
    inner = processor.postprocess

    def checked(image: Any, *arguments: Any, **options: Any) -> Any:
        if isinstance(image, Tensor):
            check_finite(image, "in the image decoder")
        return inner(image, *arguments, **options)

    processor.postprocess = checked
    try:
        yield
    finally:
        del processor.postprocess


def step_callback(runner: Any, progress: Progress) -> dict[str, Any]:
    """The pipeline's argument for a callback that checks each step's latents and reports progress."""

    def after_step(running: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        check_finite(tensors["latents"], f"after step {step + 1}")
        progress(step + 1, int(running.num_timesteps))
        return {}

    parameters = inspect.signature(type(runner).__call__).parameters
    if "callback_on_step_end" in parameters:
        return {"callback_on_step_end": after_step}
    if "callback" not in parameters:
        return {}

    def older(step: int, timestep: Any, latents: Tensor) -> None:  # PixArt and DeepFloyd-IF know the older form alone
        order = max(1, int(getattr(runner.scheduler, "order", 1)))
        steps = -(-len(runner.scheduler.timesteps) // order)
        after_step(_Counted(steps), step, timestep, {"latents": latents})

    return {"callback": older, "callback_steps": 1}


@dataclass(frozen=True)
class _Counted:
    num_timesteps: int


class NotFiniteError(ModelError):
    """A model computed NaN or infinity.

    Attributes:
        where: in which part or step, to end a sentence with.
    """

    def __init__(self, where: str) -> None:
        super().__init__(
            f"the model computed NaN or infinity {where}. Load it in float32 or bfloat16; if it is, its checkpoint is "
            "damaged: download or train it again."
        )
        self.where = where


def check_finite(values: Tensor, where: str) -> None:
    """Refuse NaN and infinity: before clamping, which would make white or black of infinity.

    Raises:
        NotFiniteError: there are some; it says ``where``.
    """
    if not torch.isfinite(values.detach()).all():
        raise NotFiniteError(where)
