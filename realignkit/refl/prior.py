"""L_pre's images where no pairs are given: drawn by the frozen model, once, and shared by the processes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from realignkit.errors import DamagedError
from realignkit.files import atomic_write, make_folder, write_lines
from realignkit.images import png
from realignkit.records import check_file
from realignkit.refl import seeds
from realignkit.refl.data import METADATA
from realignkit.refl.options import TrainingOptions

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

    from realignkit.refl.distributed import Processes


def share_prior(
    folder: Path,
    prompts: Sequence[str],
    config: TrainingOptions,
    settings: Mapping[str, Any],
    draw: Callable[[list[str], list[int]], list[PILImage]],
    processes: Processes,
) -> Path:
    """:func:`draw_prior`, each process its share; all of them wait until the folder, which it gives back, is complete.

    Raises:
        OutputError: the folder cannot be written.
    """
    processes.wait()
    share = slice(processes.rank, None, processes.count)
    draw_prior(folder, prompts, config.prior_images, config.seed, settings, draw, share)
    processes.wait()
    return folder


def _is_whole(path: Path) -> bool:
    try:
        check_file(path)
    except DamagedError:
        return False
    return True


def draw_prior(
    folder: Path,
    prompts: Sequence[str],
    count: int,
    seed: int,
    settings: Mapping[str, Any],
    draw: Callable[[list[str], list[int]], list[PILImage]],
    share: slice,
) -> None:
    """Have the frozen model draw images for L_pre; those that are there already are kept.

    Args:
        folder: where ``00000.png`` … go.
        prompts: used in turn.
        count: how many images.
        seed: of the run.
        settings: what else the images depend on; others' are drawn again.
        draw: has the frozen model make images of prompts from seeds.
        share: which of them this process draws.

    Raises:
        OutputError: the folder cannot be written.
    """
    make_folder(folder)
    wanted = [(prompts[i % len(prompts)], seeds.derive(seed, "prior", i)) for i in range(count)]
    key = hashlib.blake2b(json.dumps([wanted, dict(settings)], sort_keys=True).encode(), digest_size=8).hexdigest()
    # The key is in the name, so that images of other prompts or settings are never taken for these.
    names = [f"{i:05d}-{key}.png" for i in range(count)]
    missing = [i for i in range(count)[share] if not _is_whole(folder / names[i])]
    for start in range(0, len(missing), 8):
        some = missing[start : start + 8]
        images = draw([wanted[i][0] for i in some], [wanted[i][1] for i in some])
        for i, image in zip(some, images, strict=True):
            atomic_write(folder / names[i], png(image))
    if not share.start:
        rows = [{"file_name": name, "text": text} for name, (text, _) in zip(names, wanted, strict=True)]
        write_lines(folder / METADATA, rows)
