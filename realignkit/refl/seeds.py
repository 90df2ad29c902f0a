"""Randomness as a function of where it is used.

Every draw has its own generator, made from the run's seed, what it is for, and its place in the run. So a resumed run
draws what the uninterrupted one would have drawn, and two processes draw what one with twice the batch draws.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor


def derive(seed: int, purpose: str, *place: int) -> int:
    """A seed in [0, 2**63) for one purpose at one place; the same on every machine."""
    text = ":".join(map(str, (seed, purpose, *place)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def numpy_rng(seed: int, purpose: str, *place: int) -> np.random.Generator:
    """A NumPy generator of its own."""
    return np.random.default_rng(derive(seed, purpose, *place))


def normal(shape: Sequence[int], seed: int, purpose: str, places: Sequence[int]) -> Tensor:
    """Standard normal noise, float32 (B, *shape) on the CPU; each row depends on its place alone."""
    return noise_of(shape, [derive(seed, purpose, place) for place in places])


def noise_of(shape: Sequence[int], seeds: Sequence[int]) -> Tensor:
    """Standard normal noise, float32 (B, *shape) on the CPU, of a seed for each row."""
    import torch

    return torch.stack([torch.randn(tuple(shape), generator=torch.Generator("cpu").manual_seed(n)) for n in seeds])


@contextlib.contextmanager
def seeded(seed: int, purpose: str, *place: int) -> Iterator[None]:
    """Run somebody else's code, which draws from torch's global state, with a seed of its own; leaves no trace."""
    import torch

    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(derive(seed, purpose, *place))
        yield
