"""Files of others that plugins need and that are not bundled: found by path, in ``REALIGNKIT_DATA``, or on the hub.

And where plugins keep what they have made themselves: :func:`cache_folder`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from realignkit.errors import OptionError
from realignkit.records import checksum
from realignkit_plugins.failures import explain

FOLDER = "REALIGNKIT_DATA"
"""The environment variable that names a folder with such files."""

CACHE = "REALIGNKIT_CACHE"
"""The environment variable that names the folder for what is expensive to make again."""

_HUB_FILE = re.compile(r"(?P<kind>datasets/)?(?P<repository>\w[\w.-]*/[\w.-]+):(?P<file>[^\\:]+)")


def cache_folder(name: str) -> Path:
    """A folder in ``$REALIGNKIT_CACHE``, else in ``realignkit`` in the user's cache folder; perhaps not there yet."""
    if chosen := os.environ.get(CACHE):
        return Path(chosen).expanduser() / name
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "realignkit" / name


@dataclass(frozen=True)
class DataFile:
    """A file as it is published.

    Attributes:
        name: the file's.
        what: what it is, to begin a sentence with ("the captions of COCO").
        source: where to get it, an address or in words.
        sha256: of every version that will do; empty where it is not known.
        hub: where the hub has it: ``owner/name:file``, or ``datasets/owner/name:file``; "" where it does not.
        option: of the plugin, which takes its path.
    """

    name: str
    what: str
    source: str
    sha256: tuple[str, ...] = ()
    hub: str = ""
    option: str = "path"

    def find(self, path: str | Path | None = None) -> Path:
        """Where the file is; its content is left to :meth:`check`.

        Args:
            path: as the user gave it: the file, a folder that has it, or a file on the hub. None: it is looked for in
                the folder that ``REALIGNKIT_DATA`` names and the folders in there, then on the hub.

        Raises:
            OptionError: it is not there, or cannot be downloaded.
        """
        if path is not None:
            return self._given(path)
        if (here := self._here()) is not None:
            return here
        if self.hub:
            return self._from_hub(self.hub)
        raise OptionError(self.missing())

    def find_named(self, given: str) -> Path:
        """As :meth:`find`, of a path, or of the published name alone: a file of that name here comes first.

        Raises:
            OptionError: it is not there, or cannot be downloaded.
        """
        return self.find(self._unless_name(given))

    def missing_named(self, given: str) -> str:
        """As :meth:`missing`, of what :meth:`find_named` finds."""
        return self.missing(self._unless_name(given))

    def _unless_name(self, given: str) -> str | None:
        return None if given == self.name and not Path(given).exists() else given

    def missing(self, path: str | Path | None = None) -> str:
        """What to do about a file that is not on this machine, nor to be had from the hub; "" where nothing is.

        Args:
            path: as the user gave it; None: it is looked for.
        """
        try:
            if path is not None:
                if not _HUB_FILE.fullmatch(str(path)):
                    self._given(path)
                return ""
            if self._here() is not None or self.hub:
                return ""
        except OptionError as error:
            return str(error)
        return (
            f"{self.what} is not on this machine: get {self.name} from {self.source}, and give its path as "
            f"{self.option}, or put it into the folder that {FOLDER} names."
        )

    def check(self, path: Path) -> Path:
        """The path, if the file is a published one as far as that is known.

        Raises:
            OptionError: its SHA-256 is another one.
        """
        if self.sha256 and (digest := checksum(path)) not in self.sha256:
            known = " or ".join(f"{each[:12]}…" for each in self.sha256)
            raise OptionError(
                f"'{path}' is not {self.name} as it is published: its SHA-256 is {digest[:12]}…, not {known}. Get it "
                f"again from {self.source}."
            )
        return path

    def _given(self, path: str | Path) -> Path:
        given = Path(path).expanduser()
        if given.is_file():
            return given
        if given.is_dir():
            if (inside := self._in(given)) is not None:
                return inside
            raise OptionError(f"'{path}' holds no {self.name}. Get it from {self.source}, or give the file itself.")
        if _HUB_FILE.fullmatch(str(path)):
            return self._from_hub(str(path))
        raise OptionError(f"there is no file '{path}'. Check the path, or get {self.name} from {self.source}.")

    def _here(self) -> Path | None:
        folder = os.environ.get(FOLDER, "")
        if not folder:
            return None
        if not Path(folder).expanduser().is_dir():
            raise OptionError(f"{FOLDER} is '{folder}', which is no folder. Correct or unset it.")
        return self._in(Path(folder).expanduser())

    def _in(self, folder: Path) -> Path | None:
        """The file in a folder, or else in the folders that are directly in it."""
        return next((path for path in self._places(folder) if path.is_file()), None)

    def _places(self, folder: Path) -> Iterator[Path]:
        yield folder / self.name
        yield from sorted(folder.glob(f"*/{self.name}"))

    def _from_hub(self, spec: str) -> Path:
        from huggingface_hub import hf_hub_download

        match = _HUB_FILE.fullmatch(spec)
        assert match is not None  # seen by the callers
        kind = "dataset" if match["kind"] else "model"
        try:
            return Path(hf_hub_download(match["repository"], match["file"], repo_type=kind))
        except Exception as error:  # the hub's library raises a dozen types
            reason = explain(spec, error, local=False)
            raise OptionError(f"{self.what} ({spec}) cannot be had {reason}") from error
