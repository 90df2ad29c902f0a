"""The one training loop that every recipe uses: seeded, logged, resumable, with a moving average."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import nn

from realignkit.files import append_lines
from realignkit_plugins.micro.train.muon import muon

console = Console(stderr=True)
CHECK_AT = 10
"""The step at which every parameter must have a gradient (zero-initialised branches need a few to wake up)."""
Loss = Callable[[int, torch.Generator], tuple[torch.Tensor, Mapping[str, torch.Tensor]]]
"""Of a step: what to minimise, and what of it the log shows."""


@dataclass(frozen=True)
class Schedule:
    """How long and how fast: linear warm-up, then linear decay to zero, over the last ``cooldown`` of it.

    Where ``minutes`` are given, they are the length instead of the steps.
    """

    steps: int
    batch_size: int
    learning_rate: float
    warmup: int = 200
    weight_decay: float = 0.01
    beta2: float = 0.98
    clip: float = 1.0
    ema: float = 0.998
    cooldown: float = 1 / 1.05
    minutes: float | None = None

    def done(self, step: int, seconds: float) -> float:
        """Share of the training that is over after so many steps and seconds; 1 and more is all of it."""
        return step / self.steps if self.minutes is None else seconds / (60 * self.minutes)

    def rate(self, step: int, done: float) -> float:
        """The learning rate at a step."""
        return self.learning_rate * min((step + 1) / self.warmup, max(0.0, 1 - done) / self.cooldown, 1.0)


def fit(
    model: nn.Module, loss: Loss, schedule: Schedule, seed: int, folder: Path, save_every: float = 60.0
) -> nn.Module:
    """Train ``model`` in place, on its device; return it holding the moving average of its weights.

    A step's randomness depends on (seed, step) alone, so a run that was stopped (Ctrl-C, kill) and started again
    sees the same batches. State is kept in ``folder/state.pt``, the log in ``folder/log.jsonl``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state = _State(folder / "state.pt", model, schedule)
    step, earlier = state.resume()
    began, saved = time.monotonic() - earlier, time.monotonic()
    first = done = schedule.done(step, earlier)
    device = next(model.parameters()).device
    model.train()
    with _StopOnSignal() as stop:
        while done < 1:
            torch.manual_seed(seed * 1_000_003 + step)
            value, parts = loss(step, torch.Generator(device).manual_seed(seed * 1_000_003 + step))
            norm = state.learn(step, value, schedule.rate(step, done))
            step, now = step + 1, time.monotonic()
            done = schedule.done(step, now - began)
            if norm is not None and ((step - 1) % 50 == 0 or done >= 1):
                left = (now - began - earlier) / (done - first) * max(0.0, 1 - done)
                shown = {"loss": value, **parts, "norm": norm}
                row = {name: float(tensor.detach()) for name, tensor in shown.items()}
                _log(folder, {"step": step - 1, **row, "minutes_left": left / 60})
            if stop.requested or now - saved > save_every or done >= 1:
                state.save(step, now - began)
                saved = now
            if stop.requested:
                console.print(f"stopped at step {step}; the same command goes on from there")
                raise SystemExit(130)
    model.load_state_dict(state.average)
    return model.eval()


class _State:
    """What a training changes and a later run goes on with: weights, the optimiser's moments, the moving average."""

    def __init__(self, path: Path, model: nn.Module, schedule: Schedule) -> None:
        self.path, self.model, self.clip, self.ema = path, model, schedule.clip, schedule.ema
        self.optimizer = muon(model, schedule.learning_rate, schedule.weight_decay, schedule.beta2)
        self.live = model.state_dict()
        self.average = {name: tensor.clone() for name, tensor in self.live.items()}

    def learn(self, step: int, value: torch.Tensor, rate: float) -> torch.Tensor | None:
        """One step down the gradient, whose norm is returned; None where it is not finite, and nothing is done."""
        groups = self.optimizer.param_groups
        for group in groups:
            group["lr"] = rate
        value.backward()
        if step == CHECK_AT:
            _refuse_dead(self.model)
        norm = nn.utils.clip_grad_norm_([p for group in groups for p in group["params"]], self.clip)
        finite = bool(torch.isfinite(norm))
        if finite:
            self.optimizer.step()
            self._average(min(self.ema, (step + 1) / (step + 10)))
        self.optimizer.zero_grad(set_to_none=True)
        return norm if finite else None

    @torch.no_grad()
    def _average(self, decay: float) -> None:
        means = [name for name, tensor in self.live.items() if tensor.is_floating_point()]
        torch._foreach_lerp_([self.average[name] for name in means], [self.live[name] for name in means], 1 - decay)
        for name in self.live.keys() - set(means):
            self.average[name].copy_(self.live[name])

    def resume(self) -> tuple[int, float]:
        """The step to go on with, and the seconds that those before it took."""
        if not self.path.exists():
            return 0, 0.0
        state = torch.load(self.path, weights_only=True, map_location="cpu")
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        for name, tensor in state["average"].items():
            self.average[name].copy_(tensor)
        console.print(f"resuming at step {state['step']}")
        return int(state["step"]), float(state.get("seconds", 0.0))

    def save(self, step: int, seconds: float) -> None:
        """Keep it on disk: how many steps are done, and how long they took."""
        parts = {"model": self.live, "optimizer": self.optimizer.state_dict(), "average": self.average}
        temporary = self.path.with_suffix(".tmp")
        torch.save({"step": step, "seconds": seconds, **parts}, temporary)
        os.replace(temporary, self.path)


def _refuse_dead(model: nn.Module) -> None:
    """Fail early when part of a model gets zero gradients: a loss that falls all the same hides it for hours.

    Weights that the loss does not use at all (no gradient) are none of this check's business.
    """
    used = [(name, p.grad) for name, p in model.named_parameters() if p.ndim > 1 and p.grad is not None]
    dead = [name for name, gradient in used if not gradient.any()]
    if dead:
        raise RuntimeError(f"{len(dead)} of {len(used)} weights get no gradient: {', '.join(dead[:5])} …")


def _log(folder: Path, row: dict[str, float]) -> None:
    append_lines(folder / "log.jsonl", [{key: round(value, 5) for key, value in row.items()}])
    console.print("  ".join(f"{key} {value:.4g}" for key, value in row.items()))


class _StopOnSignal:
    """Turns Ctrl-C and SIGTERM into "finish this step and save"; a second one stops at once."""

    def __init__(self) -> None:
        self.requested = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> _StopOnSignal:
        if threading.current_thread() is threading.main_thread():  # elsewhere Python allows no handlers
            self._before = {number: signal.signal(number, self._stop) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _stop(self, number: int, frame: object) -> None:
        self.requested = True
        signal.signal(number, signal.SIG_DFL)
