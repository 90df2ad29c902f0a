"""Which precision a processor computes well in, and full precision where numbers are compared."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator
from functools import lru_cache

logger = logging.getLogger(__name__)

_NATIVE = ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16")
"""What cpuinfo calls instructions that multiply bfloat16, on x86 and on ARM."""
SLOW_BF16 = (
    "this processor has no bfloat16 instructions, so bf16 may be many times slower than float32 here: leave the "
    "precision to 'auto', which takes float32 on a CPU"
)


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
        found = []
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            for _ in range(6):  # the first one prepares, and the best one was not disturbed
                start = time.perf_counter()
                for layer, given in layers:
                    layer(given)
                found.append(time.perf_counter() - start)
        return min(found[1:])

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
