"""The published weights of FID's Inception: found, read without running anything, and held against their checksum."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from realignkit.errors import ModelError
from realignkit.machine import say_once
from realignkit.records import checksum
from realignkit_plugins.datafiles import DataFile
from realignkit_plugins.weight_files import read_weights

if TYPE_CHECKING:
    from torch import Tensor

    from realignkit_plugins.metrics.inception import FIDInception

PUBLISHED = DataFile(
    "pt_inception-2015-12-05-6726825d.pth",
    "the Inception network of FID",
    "https://github.com/mseitzer/pytorch-fid/releases/tag/fid_weights",
    ("6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",),
    option="weights",
)
_NAMES = (PUBLISHED.name, "weights-inception-2015-12-05-6726825d.pth")
"""The same file as pytorch-fid and as torch-fidelity call it."""


def downloaded() -> Path | None:
    """The file where pytorch-fid or torch-fidelity have put it; None where neither has."""
    import torch

    folder = Path(torch.hub.get_dir()) / "checkpoints"
    return next((folder / name for name in _NAMES if (folder / name).is_file()), None)


def missing() -> str:
    """What to do about weights that are not on this machine; "" where they are."""
    return "" if downloaded() is not None else PUBLISHED.missing()


def weights_file(given: str | None) -> Path:
    """Where the weights are: as given, where other programs have put them, or in ``REALIGNKIT_DATA``.

    Raises:
        OptionError: nowhere.
    """
    return PUBLISHED.find(given or downloaded())


@lru_cache(4)
def load_inception(path: Path, device: str) -> tuple[FIDInception, str]:
    """The network on a device, and the SHA-256 of its file.

    Kept here rather than by who uses it: metrics share it, and it counts as no small network of theirs, which would be
    given a single thread; it has few weights, but a hundred times the work of others of its size.

    Raises:
        ModelError: it is a file of another kind, or of another network.
        OptionError: it has the published name, and another content.
    """
    from realignkit_plugins.metrics.inception import inception_from

    network = inception_from(_read(path), path.name)
    if path.name in _NAMES:
        PUBLISHED.check(path)
    digest = checksum(path)
    if digest not in PUBLISHED.sha256:
        say_once(
            f"'{path}' is not the published file of FID's Inception (SHA-256 {digest[:8]}…, not 6726825d…): distances "
            f"by it compare with each other only"
        )
    return network.to(device), digest


def _read(path: Path) -> dict[str, Tensor]:
    import zipfile

    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any("/code/" in name for name in archive.namelist()):
                raise ModelError(
                    f"'{path}' is a TorchScript file, a program that is not run here. It holds the same weights as "
                    f"{PUBLISHED.name}: get that from {PUBLISHED.source}."
                )
    return read_weights(path)
