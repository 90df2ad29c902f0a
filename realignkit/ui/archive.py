"""Run folders that come and go: as zip files, and from a folder of runs on this machine."""

from __future__ import annotations

import io
import re
import tempfile
import zipfile
from pathlib import Path

from realignkit.errors import OptionError, OutputError
from realignkit.evaluation.runs import slug
from realignkit.realignment import RECORD, Realignment, is_complete
from realignkit.report import write_extras

LARGEST = 256 * 2**20
"""Bytes that are unpacked of one archive."""

_PARTS = re.compile(r"realignment\.json|coarse\.png|refined\.png|masks/\d{2,3}\.png|heat_maps\.safetensors")


def name_of(realignment: Realignment, number: int = 1) -> str:
    """What the run folder is called, as ``realignkit run`` would; ``number``: which refinement it is."""
    again = f"-{number}" if number > 1 else ""
    return f"{slug(realignment.prompt)}-s{realignment.seed}{again}"


def archive(realignment: Realignment, number: int = 1) -> bytes:
    """The run folder of a realignment, as ``realignkit run`` writes it, zipped.

    Raises:
        OutputError: it cannot be written.
    """
    name, zipped = name_of(realignment, number), io.BytesIO()
    with tempfile.TemporaryDirectory(prefix="realignkit-") as place, zipfile.ZipFile(zipped, "w") as file:
        run = Path(place)
        write_extras(realignment, run)
        realignment.save(run)
        for path in sorted(path for path in run.rglob("*") if path.is_file()):  # pictures, compressed already
            file.write(path, Path(name) / path.relative_to(run))
    return zipped.getvalue()


def read_archive(path: Path) -> Realignment:
    """Read back what :func:`archive` wrote, or a zipped run folder. Of other files nothing is unpacked.

    Raises:
        OptionError: it is no zip file, holds no run folder or several, or more than :data:`LARGEST` bytes.
        DamagedError, OutputError: as for :meth:`Realignment.load`.
    """
    try:
        with zipfile.ZipFile(path) as archive, tempfile.TemporaryDirectory(prefix="realignkit-") as place:
            records = [name for name in archive.namelist() if Path(name).name == RECORD]
            if len(records) != 1:
                raise OptionError(
                    f"this archive holds {len(records)} run folders: zip one that 'realignkit run' wrote."
                )
            top = records[0].removesuffix(RECORD)
            left = LARGEST
            for name in archive.namelist():
                part = name.removeprefix(top) if name.startswith(top) else ""
                if _PARTS.fullmatch(part):
                    target = Path(place) / part
                    target.parent.mkdir(exist_ok=True)
                    with archive.open(name) as source:
                        data = source.read(left + 1)  # not what the archive says of its size
                    if len(data) > left:
                        raise OptionError(
                            f"this archive unpacks to more than {LARGEST // 2**20} MB: open a single run."
                        )
                    left -= len(data)
                    target.write_bytes(data)
            return Realignment.load(place)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:  # the latter: encrypted, unknown methods
        raise OptionError(f"this is no zip file that can be read ({error}): zip a run folder.") from error


class Runs:
    """The run folders that can be opened by name: those directly below one folder.

    Args:
        folder: need not exist.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def names(self, most: int = 200) -> list[str]:
        """What there is, the newest first."""
        try:
            inside = [path for path in self.folder.iterdir() if not path.is_symlink() and is_complete(path)]
        except OSError:
            return []
        inside.sort(key=lambda path: (path / RECORD).stat().st_mtime, reverse=True)
        return [path.name for path in inside[:most]]

    def read(self, name: str) -> Realignment:
        """A realignment by the name of its folder.

        Raises:
            OutputError: there is none of that name, whatever else the name may point at.
            DamagedError: as for :meth:`Realignment.load`.
        """
        if name not in self.names():
            raise OutputError(f"there is no run '{name[:60]}' in {self.folder.name}/: choose one of the list.")
        return Realignment.load(self.folder / name)
