"""Scenes as training batches, and processes that prepare them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import DataLoader, Dataset

from realignkit_plugins.micro.world import Scene, Split, render, scene

_A = TypeVar("_A")
_B = TypeVar("_B")
_pool: Executor | None = None

SCENE_SEEDS = {
    **{"vae": 11, "base": 12, "tagger": 13, "segmenter": 14, "oracle": 15, "check": 16},
    **{"clip": 21, "blip": 22, "captioner": 23, "image_reward": 24},
    **{"ram": 13, "tag2text": 13, "vqa": 25, "promptist": 26, "vae_256": 27},
}
"""Each role has scenes of its own, so that none is judged by one that learned from the same pictures; the taggers,
which have the same role, share theirs."""


@lru_cache(maxsize=4)
def images(seed: int, count: int, split: Split = "train", cache: Path | None = None) -> npt.NDArray[np.uint8]:
    """``count`` rendered scenes, uint8 (count, H, W, 3); kept in ``cache`` when given."""
    path = cache / f"images-{seed}-{split}-{count}.npy" if cache else None
    if path and path.exists():
        loaded: npt.NDArray[np.uint8] = np.load(path)
        return loaded
    rendered = np.stack(spread(_image, scenes(seed, count, split)))
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, rendered)
    return rendered


@lru_cache(maxsize=4)
def scenes(seed: int, count: int, split: Split = "train") -> tuple[Scene, ...]:
    """The first ``count`` scenes of a sequence."""
    return tuple(spread(partial(_scene, seed, split), range(count)))


def to_tensor(pixels: npt.NDArray[np.uint8], device: torch.device | str = "cpu") -> torch.Tensor:
    """uint8 (B, H, W, 3) to float (B, 3, H, W) in [0, 1]."""
    return torch.from_numpy(pixels).to(device).permute(0, 3, 1, 2).float().div_(255)


@contextmanager
def processes(count: int) -> Iterator[None]:
    """Within it, as many processes share what is made scene by scene; 0: this one does it all."""
    global _pool
    if not count:
        yield
        return
    with ProcessPoolExecutor(count) as _pool:
        try:
            yield
        finally:
            _pool = None


def spread(function: Callable[[_A], _B], items: Iterable[_A]) -> list[_B]:
    """A function of each item, in their order; by :func:`processes` where there are some."""
    return list(_pool.map(function, items, chunksize=250) if _pool else map(function, items))


class Ahead(Dataset[_B]):
    """What a function makes of one step after another, made ahead of time.

    Args:
        make: of a step, what it needs, made of numbers and numpy arrays.
        workers: as many processes make it; 0: this one does, when it is asked for.
    """

    def __init__(self, make: Callable[[int], _B], workers: int) -> None:
        self._make, self._workers = make, workers
        self._following: int | None = None
        self._made: Iterator[_B] = iter(())

    def __getitem__(self, step: int) -> _B:
        return self._make(step)

    def of(self, step: int) -> _B:
        """What that step needs; quick where it follows the one that was last asked for."""
        if not self._workers:
            return self._make(step)
        if step != self._following:
            steps: Any = itertools.count(step)
            # As they are, not as tensors: those would pass through shared memory, of which a container may have little.
            self._made = iter(DataLoader(self, None, sampler=steps, num_workers=self._workers, collate_fn=_as_it_is))
        self._following = step + 1
        return next(self._made)


def _scene(seed: int, split: Split, index: int) -> Scene:
    return scene(seed, index, split)


def _image(scene: Scene) -> npt.NDArray[np.uint8]:
    return render(scene).image


def _as_it_is(made: _B) -> _B:
    return made
