"""What images are compared with: a folder of pictures, or statistics that somebody has computed of one."""

from __future__ import annotations

import hashlib
import io
import json
import logging
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from realignkit.errors import OptionError, OutputError
from realignkit.files import atomic_write
from realignkit.frechet import Gaussian
from realignkit.images import image_files, open_image
from realignkit.records import checksum
from realignkit_plugins.datafiles import cache_folder
from realignkit_plugins.metrics.features import Observer
from realignkit_plugins.metrics.moments import Moments

logger = logging.getLogger(__name__)

Array = npt.NDArray[Any]
Arrays = dict[str, Array]

STATISTICS, FEATURES = ("mu", "sigma"), "feats"
"""What arrays are called in an ``.npz`` of pytorch-fid or clean-fid."""


class Reference:
    """A reference set. What is computed of a folder is kept on disk, and read there the next time.

    Args:
        path: a folder of pictures (with those below it), or an ``.npz`` with ``mu`` and ``sigma`` (as pytorch-fid and
            clean-fid write them) or with ``feats`` (as clean-fid writes them for KID).
        observer: looks at the pictures.
        batch_size: pictures at a time.

    Raises:
        OptionError: there is nothing of that kind.
    """

    def __init__(self, path: str | Path, observer: Observer, batch_size: int) -> None:
        self.path, self.observer, self.batch_size = Path(path).expanduser(), observer, batch_size
        self._files = [] if self.path.is_file() else self._pictures()

    def _pictures(self) -> list[Path]:
        if not self.path.is_dir():
            raise OptionError(f"there is no reference '{self.path}'. Give a folder of pictures, or an .npz file.")
        files = image_files(self.path)
        if len(files) < 2:
            raise OptionError(f"the reference '{self.path}' holds {len(files)} pictures. Give a folder with many.")
        return files

    @cached_property
    def identity(self) -> str:
        """The SHA-256 of the file, or of what is in the pictures and what they are called."""
        if not self._files:
            return checksum(self.path)
        digest = hashlib.sha256()
        for path in self._files:
            digest.update(f"{path.relative_to(self.path).as_posix()} {checksum(path)}\n".encode())
        return digest.hexdigest()

    def gaussian(self) -> Gaussian:
        """Mean and covariance of the features.

        Raises:
            OptionError: the file has neither these nor features, or a picture cannot be read.
        """
        arrays = self._arrays()
        if FEATURES in arrays:
            return Gaussian.of(_checked(arrays[FEATURES], self.path, 2))
        if not set(STATISTICS) <= arrays.keys():
            arrays = self._kept("statistics", self._statistics)
        mean, covariance = (np.asarray(arrays[name], np.float64) for name in STATISTICS)
        if covariance.shape != (*mean.shape, *mean.shape):
            raise OptionError(f"'{self.path}' holds mu of {mean.shape} but sigma of {covariance.shape}. Make it again.")
        return Gaussian.of_moments(_checked(mean, self.path, 1), _checked(covariance, self.path, 2))

    def features(self) -> Array:
        """The features, float32 (m, D).

        Raises:
            OptionError: the file has none, or a picture cannot be read.
        """
        arrays = self._arrays() if self._files == [] else {}
        if not self._files and FEATURES not in arrays:
            raise OptionError(
                f"'{self.path}' holds mean and covariance only, which this metric cannot be computed from. Give a "
                f"folder of pictures, or an .npz with '{FEATURES}'."
            )
        if not self._files:
            return _checked(np.asarray(arrays[FEATURES], np.float32), self.path, 2)
        return self._kept("features", lambda: {FEATURES: np.concatenate(list(self._look()))})[FEATURES]

    def _arrays(self) -> Arrays:
        """What is in an ``.npz``; nothing of a folder."""
        if self._files:
            return {}
        try:
            with np.load(self.path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in (*STATISTICS, FEATURES) if name in file}
        except (OSError, ValueError, EOFError, AttributeError, TypeError) as error:  # no npz, or damaged
            raise OptionError(f"'{self.path}' cannot be read as an .npz file ({error}). Make it again.") from error
        if not arrays or arrays.keys() == {STATISTICS[0]} or arrays.keys() == {STATISTICS[1]}:
            raise OptionError(
                f"'{self.path}' holds no reference: arrays 'mu' and 'sigma', or '{FEATURES}', are wanted. Give one "
                f"that pytorch-fid or clean-fid has written, or a folder of pictures."
            )
        return arrays

    def _statistics(self) -> Arrays:
        moments = Moments()
        for features in self._look():
            moments.add(features)
        return dict(zip(STATISTICS, moments.mean_and_covariance(), strict=True))

    def _look(self) -> Iterator[Array]:
        for start in range(0, len(self._files), self.batch_size):
            batch = [open_image(path)[0] for path in self._files[start : start + self.batch_size]]
            yield self.observer.features(batch)

    def _kept(self, what: str, make: Callable[[], Arrays]) -> Arrays:
        """Arrays from the cache, or made and put there."""
        depends = json.dumps([what, self.identity, self.observer.identity()], sort_keys=True)
        path = cache_folder("references") / f"{hashlib.sha256(depends.encode()).hexdigest()}.npz"
        try:
            with np.load(path, allow_pickle=False) as file:
                return dict(file)
        except Exception:  # not there, or damaged in one of the many ways of numpy and zipfile
            arrays = make()
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, **arrays)
        try:
            atomic_write(path, buffer.getvalue())
        except OutputError as error:
            logger.warning("what was computed of the reference is not kept: %s", error)
        return arrays


def _checked(values: Array, path: Path, dimensions: int) -> Array:
    if values.ndim != dimensions or not np.isfinite(values).all():
        raise OptionError(f"'{path}' holds no numbers of the right shape ({values.shape}). Make it again.")
    return values
