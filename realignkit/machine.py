"""How this machine computes: with how many of its threads, and in which precision.

Tiny networks get one thread, real ones the machine's: threads wait for each other at the end of every operation. Where
operations take microseconds that wait is all they gain; and beside other work, when one of them has to wait for a
processor, all of them do, at every operation.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import time
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from types import ModuleType
from typing import TYPE_CHECKING

from realignkit.errors import OptionError

if TYPE_CHECKING:
    from torch import nn

logger = logging.getLogger(__name__)

TINY = 30_000_000
"""Networks with fewer parameters, all that a plugin computes with taken together, get one thread."""

VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
"""Environment variables by which the user chooses."""

MOST = 1024
"""Threads that may be asked for; with many more, the system ends the program."""

_DEPTH = 5
_LONG = 64  # what holds networks is no list of prompts

_NATIVE = ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16")
"""What cpuinfo calls instructions that multiply bfloat16, on x86 and on ARM."""
SLOW_BF16 = (
    "this processor has no bfloat16 instructions, so bf16 may be many times slower than float32 here: leave the "
    "precision to 'auto', which takes float32 on a CPU"
)


@dataclass(frozen=True)
class _Rule:
    """What holds inside the outermost context: the number for real networks, and whether it is for tiny ones too."""

    threads: int
    chosen: bool


_rule: ContextVar[_Rule | None] = ContextVar("threads", default=None)


@contextlib.contextmanager
def suited_threads(*holders: object, threads: int | None = None) -> Iterator[None]:
    """Compute with as many threads as suit the networks that ``holders`` compute with; afterwards as before.

    The user's choice goes before the size of networks: ``threads`` here or in a context around this one, else
    :data:`VARIABLES`, else what ``torch.set_num_threads`` was given (unless it is what torch would take by itself).
    Without networks on the CPU (not loaded yet, or on a GPU) the number stays.

    Args:
        holders: plugins, pipelines or networks.
        threads: the user's own choice, for everything that is computed in this context.

    Raises:
        OptionError: as :func:`check_threads`.
    """
    check_threads(threads)
    if threads is None and not holders:
        yield
        return
    import torch

    before = torch.get_num_threads()
    if threads is not None:
        rule, count = _Rule(threads, chosen=True), threads
    else:
        rule = _rule.get() or _Rule(before, _chosen_by_user(before))
        size = 0 if rule.chosen else cpu_parameters(holders)
        count = before if not size else 1 if size < TINY else rule.threads
    token = _rule.set(rule)
    _set(count)
    try:
        yield
    finally:
        _rule.reset(token)
        if torch.get_num_threads() == count:  # else somebody inside has chosen
            _set(before)


def share_threads(processes: int) -> None:
    """In one of several processes that compute at once: real networks take its share of the threads."""
    import torch

    threads = torch.get_num_threads()
    chosen = _chosen_by_user(threads)
    _rule.set(_Rule(threads if chosen else max(1, threads // processes), chosen))


def check_threads(threads: int | None) -> int | None:
    """A number of threads, or None.

    Raises:
        OptionError: it is neither None nor a whole number from 1 to :data:`MOST`.
    """
    if threads is not None and (type(threads) is not int or not 1 <= threads <= MOST):
        raise OptionError(f"threads must be a whole number from 1 to {MOST}, not {threads!r}.")
    return threads


def cpu_parameters(holders: Iterable[object]) -> int:
    """How many parameters on the CPU the :func:`networks` of some objects have."""
    weights = [weight for network in networks(holders) for weight in network.parameters()]
    return sum(weight.numel() for weight in weights if weight.device.type == "cpu")


def networks(holders: Iterable[object]) -> list[nn.Module]:
    """The torch networks that some objects hold, in attributes, tuples and lists; each once."""
    from torch import nn

    seen: set[int] = set()
    held_networks: list[nn.Module] = []

    def look(held: object, depth: int) -> None:
        if id(held) in seen or depth > _DEPTH or isinstance(held, type | ModuleType):
            return
        seen.add(id(held))
        if isinstance(held, nn.Module):
            held_networks.append(held)
            return
        inside = held[:_LONG] if isinstance(held, tuple | list) else getattr(held, "__dict__", {}).values()
        for item in list(inside):
            look(item, depth if isinstance(held, tuple | list) else depth + 1)

    for holder in holders:
        look(holder, 0)
    return held_networks


def _chosen_by_user(threads: int) -> bool:
    import torch

    # Levels are separated by commas; what is no number of threads is no choice, and OpenMP ignores it.
    if any(re.match(r"\s*\+?0*[1-9]\d*\s*(,|$)", os.environ.get(name, "")) for name in VARIABLES):
        return True
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    # torch takes one thread per core, which is also its number of threads between operations.
    return threads not in (cpus, os.cpu_count(), torch.get_num_interop_threads())


def _set(threads: int) -> None:
    import torch

    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)


@lru_cache
def has_bf16() -> bool:
    """Whether the CPU multiplies bfloat16 itself; without, torch emulates it, up to 20 times slower than float32."""
    import torch

    if not hasattr(torch.cpu, "get_capabilities"):  # an older torch
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    known = torch.cpu.get_capabilities()
    return any(known.get(name, False) for name in _NATIVE)


def bf16_speedup() -> float:
    """How many times as fast as float32 this CPU computes layers of a U-Net in bfloat16: below 1 it is slower.

    Measured, which takes a moment, as what a processor is said to have is not always what it does well.
    """
    import torch

    layers = (
        (torch.nn.Linear(320, 320), torch.randn(256, 320)),
        (torch.nn.Conv2d(64, 64, 3, padding=1), torch.randn(2, 64, 16, 16)),
    )

    def seconds(enabled: bool) -> float:
        passes = []
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            for _ in range(6):  # the first one prepares, and the best one was not disturbed
                start = time.perf_counter()
                for layer, values in layers:
                    layer(values)
                passes.append(time.perf_counter() - start)
        return min(passes[1:])

    return seconds(enabled=False) / seconds(enabled=True)


def slow_bf16(device: str, dtype: object) -> str | None:
    """One line where bfloat16 is asked for on a CPU without it, else None.

    Args:
        device: such as ``cpu`` or ``cuda:1``.
        dtype: ``torch.bfloat16``, ``"bf16"``, or another.
    """
    wanted = str(dtype) in ("bf16", "torch.bfloat16") and device.startswith("cpu")
    return SLOW_BF16 if wanted and not has_bf16() else None


@lru_cache
def say_once(line: str) -> None:
    """Write a line to the log, which is standard error unless somebody wants it elsewhere; the first time only."""
    logger.warning(line)


@contextlib.contextmanager
def full_precision() -> Iterator[None]:
    """Whatever autocast surrounds it: what is measured is computed in the precision that its networks have."""
    import torch

    with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
        yield
