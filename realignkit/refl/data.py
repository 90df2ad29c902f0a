"""What is trained on: prompts in an order that the seed decides, and image-caption pairs for L_pre."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from realignkit.arguments import check_text, listed
from realignkit.errors import OptionError, PromptError
from realignkit.images import SUFFIXES, check_image, fit_image, image_files, open_image, to_tensor
from realignkit.provenance import digest_of, stamps
from realignkit.refl import seeds
from realignkit.tables import TEXT_COLUMNS, Table, decoded, is_no_text, one_line, read_table

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from realignkit.refl.model import Networks

METADATA = "metadata.jsonl"
TABLES = (METADATA, "metadata.csv", "metadata.tsv")
_FILE_COLUMNS = ("file_name", "filename", "file", "image", "image_path", "path")
_CAPTION_COLUMNS = ("text", *(name for name in TEXT_COLUMNS if name != "text"))
KEPT_LATENTS = 2**26
"""Numbers that are kept of latents: 256 MiB."""


def clean(prompts: Iterable[str]) -> tuple[str, ...]:
    """Prompts without blank ones and surrounding space, each once, in order."""
    return tuple(dict.fromkeys(text for prompt in prompts if (text := prompt.strip())))


def split(
    prompts: Iterable[str], held_out: Iterable[str] | None, most: int, seed: int
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Training and held-out prompts, which have none in common.

    Without held-out ones given, every tenth training prompt (at most ``most``) is set aside, by the seed.

    Raises:
        PromptError: there are no prompts, one is no text, or none is left to train on.
    """
    given, kept_out = listed("prompts", prompts), listed("held-out prompts", held_out or ())
    for prompt in (*given, *kept_out):
        check_text(prompt)
    known = clean(given)
    if not known:
        raise PromptError("there are no training prompts. Give a file with one a line, or a prompt set that has some.")
    if held_out is None:
        count = min(most, len(known) // 10)
        chosen = {int(i) for i in seeds.numpy_rng(seed, "held out").permutation(len(known))[:count]}
        kept = tuple(prompt for i, prompt in enumerate(known) if i in chosen)
    else:
        kept = clean(kept_out)[:most]
    training = tuple(prompt for prompt in known if prompt not in set(kept))
    if not training:
        raise PromptError("every training prompt is held out as well. Give other validation prompts.")
    return training, kept


def digest(prompts: Sequence[str]) -> str:
    """A short name for a list of texts, prompts say, so that a resumed run notices another one."""
    return hashlib.blake2b("\n".join(prompts).encode(), digest_size=8).hexdigest()


class Order:
    """Prompts (or pairs) by place in the run: shuffled anew each time all have been used.

    With weights, an epoch has as many places, but each index comes up in proportion to its weight: as often as its
    share of the places says, rounded up or down (systematic resampling). Equal weights make no difference.

    Args:
        count: how many there are.
        seed: of the run.
        purpose: what they are for.
        weights: (count,), finite, not negative, not all zero.
    """

    def __init__(self, count: int, seed: int, purpose: str, weights: Sequence[float] | None = None) -> None:
        self.count = count
        edges = None if weights is None else np.cumsum(np.asarray(weights, dtype=np.float64))

        def epoch(number: int) -> NDArray[np.int64]:
            order: NDArray[np.int64] = seeds.numpy_rng(seed, purpose, number).permutation(count)
            if edges is None:
                return order
            points = np.arange(count) + seeds.numpy_rng(seed, f"{purpose} offset", number).random()
            drawn = np.searchsorted(edges, points / count * edges[-1], side="right")
            # Rounding must not lead past the last one that has a weight.
            last: int = np.flatnonzero(np.diff(edges, prepend=0))[-1]
            chosen: NDArray[np.int64] = np.minimum(drawn, last)[order]
            return chosen

        self._epoch = lru_cache(4)(epoch)

    def at(self, place: int) -> int:
        """Which one comes at a place, counted from 0 over the whole run."""
        return int(self._epoch(place // self.count)[place % self.count])


@dataclass(frozen=True)
class PairList:
    """Images' paths within a folder with their captions, and in words what was read.

    Attributes:
        rows: the whole line of each pair in the table, by column; none where captions are in files of their own.
    """

    pairs: tuple[tuple[str, str], ...]
    summary: str
    rows: tuple[Mapping[str, Any], ...] = ()


def read_pairs(folder: Path) -> PairList:
    """The pairs of a folder.

    It has ``metadata.jsonl``, ``.csv`` or ``.tsv``, whose columns are ``file_name`` and ``text`` (or another usual
    name), or beside each image a ``.txt`` file of its name.

    Raises:
        OptionError: there is no such folder or no pair, captions are in more than one place, a caption is missing or no
            text, or an image is missing, outside the folder, or no picture that can be read; file and line are named.
    """
    if not folder.is_dir():
        raise OptionError(f"there is no folder '{folder}' of pictures with captions. Check the path.")
    tables = [path for name in TABLES if (path := folder / name).is_file()]
    table = _only(folder, tables) if tables else None
    pairs, rows, remark = _from_table(table) if table else _from_texts(folder)
    if not pairs:
        raise OptionError(
            f"'{folder}' holds no images with captions. Add {METADATA} with file_name and text, or a .txt file "
            f"beside each image."
        )
    source = table or f"the .txt files of {folder}"
    return PairList(pairs, f"read {len(pairs)} pair{'s' if len(pairs) != 1 else ''} from {source}{remark}", rows)


def _only(folder: Path, tables: list[Path]) -> Path:
    """The table of a folder, which must have its captions in one place."""
    pictures = {path.with_suffix("") for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES}
    captions = [text for text in sorted(folder.rglob("*.txt")) if text.with_suffix("") in pictures]
    if len(tables) > 1 or captions:
        places = [path.name for path in tables] + [str(text.relative_to(folder)) for text in captions[:1]]
        more = f" and {len(captions) - 1} more .txt files" if len(captions) > 1 else ""
        raise OptionError(
            f"'{folder}' has captions in several places: {', '.join(places)}{more}. Keep one of them, and move "
            f"the others out of the folder."
        )
    return tables[0]


_Read = tuple[tuple[tuple[str, str], ...], tuple[Mapping[str, Any], ...], str]


def _from_table(path: Path) -> _Read:
    table = read_table(path)
    if not table.rows:
        return (), (), ""
    try:
        names, captions = table.column(None, _FILE_COLUMNS), table.column(None, _CAPTION_COLUMNS)
    except OptionError as error:
        if not table.headed:
            raise OptionError(
                f"the first line of '{path}' ('{', '.join(table.columns)[:60]}') is no header. Put the line "
                f"file_name,text above it."
            ) from None
        raise OptionError(f"{error} Each entry needs file_name and text.") from None
    read = tuple(_rows(path, table, names, captions))
    return tuple(pair for pair, _ in read), tuple(row for _, row in read), f", column '{captions}'"


def _rows(path: Path, table: Table, names: str, captions: str) -> Iterator[tuple[tuple[str, str], Mapping[str, Any]]]:
    for line, row in table.rows:
        if not any(str(cell).strip() for cell in row.values()):
            continue
        where = f"line {line} of '{path}'"
        # Paths are kept as they are, but for those of Windows.
        name, caption = table.text(line, row, names).replace("\\", "/"), table.text(line, row, captions)
        if not name or not caption:
            raise OptionError(f"{where} has no {'caption' if name else 'file name'}. Fill it in, or remove the line.")
        _check(path.parent, path.parent / name, where)
        yield (name, caption), row


def _from_texts(folder: Path) -> _Read:
    images = image_files(folder)
    expected = {image.with_suffix(".txt") for image in images}
    if expected.isdisjoint(folder.rglob("*.txt")):
        return (), (), ""
    pairs = []
    for text in sorted(folder.rglob("*.txt")):
        if text not in expected and not text.name.startswith("."):
            raise OptionError(f"'{text}' has no image of its name beside it. Add it, or remove the text.")
    for image in images:
        text = image.with_suffix(".txt")
        if not text.is_file():
            continue
        _inside(folder, text, f"'{text}'")
        caption = one_line(decoded(text))
        if not caption:
            raise OptionError(f"'{text}' is empty. Write the caption of '{image.name}' in it, or remove both.")
        if is_no_text(caption):
            raise OptionError(
                f"'{text}' holds no caption, but {caption[:40]}. Write the caption of '{image.name}' in it."
            )
        _check(folder, image, f"'{text}'")
        pairs.append((image.relative_to(folder).as_posix(), caption))
    bare = len(images) - len(pairs)
    return tuple(pairs), (), f"; {bare} image{'s' if bare != 1 else ''} without a caption left out" if bare else ""


def _check(folder: Path, image: Path, where: str) -> None:
    _inside(folder, image, where)
    try:
        check_image(image)
    except OptionError as error:
        raise OptionError(f"{where}: {error}") from error


def _inside(folder: Path, path: Path, where: str) -> None:
    # Folders come from the web: neither a table nor a link may show files from elsewhere to what is trained.
    try:
        inside = path.resolve().is_relative_to(folder.resolve())
    except (OSError, ValueError, RuntimeError) as error:  # a name that is none, a link to itself
        raise OptionError(f"{where} names no file: {getattr(error, 'strerror', None) or error}.") from error
    if not inside:
        raise OptionError(f"{where} leads out of the folder, to '{path}'. Copy the file into '{folder}'.")


class Pairs:
    """Image-caption pairs from a folder, as clean latents.

    See :func:`read_pairs`.

    Args:
        folder: where they are.
        networks: whose latents.
        guidance_scale: with which the model itself has drawn the images; None: they are no model's.

    Attributes:
        pairs, rows: of :class:`PairList`.

    Raises:
        OptionError: there is no such folder, it holds no pair, or an image or caption cannot be used.
    """

    def __init__(self, folder: Path, networks: Networks, guidance_scale: float | None = None) -> None:
        self.folder, self.networks, self.guidance_scale = folder, networks, guidance_scale
        read = read_pairs(folder)
        self.pairs, self.rows = read.pairs, read.rows
        self._latents: dict[int, Tensor] = {}

    def __len__(self) -> int:
        return len(self.pairs)

    def stamps(self, content: bool = False) -> list[str]:
        """What stands for each image, see :func:`realignkit.provenance.stamps`.

        Raises:
            OptionError: an image is missing.
        """
        try:
            return stamps((self.folder / name for name, _ in self.pairs), content)
        except OSError as error:
            raise OptionError(f"{error.filename} cannot be read: {error.strerror}. Replace or remove it.") from error

    def identity(self, content: bool = False) -> dict[str, str | int]:
        """How many pairs there are, and digests of names, captions and images; wherever the folder is.

        Raises:
            OptionError: an image is missing.
        """
        return {
            "number": len(self.pairs),
            "names": digest_of(name for name, _ in self.pairs),
            "captions": digest_of(text for _, text in self.pairs),
            "images": digest_of(self.stamps(content)),
        }

    def get(self, indices: Sequence[int]) -> tuple[Tensor, list[str]]:
        """Clean latents (B, C, h, w) on the model's device, and captions.

        Raises:
            OptionError: an image cannot be read.
        """
        import torch

        latents = {i: self._latents[i] for i in indices if i in self._latents}
        for i in indices:
            if i not in latents:
                latents[i] = self._clean(i)
                if len(self._latents) * latents[i].numel() < KEPT_LATENTS:
                    self._latents[i] = latents[i]
        return torch.stack([latents[i] for i in indices]).to(self.networks.device), [self.pairs[i][1] for i in indices]

    def _clean(self, index: int) -> Tensor:
        # One by one: rounding depends on what shares a batch, and a resumed run must not notice.
        return self.networks.encode(self.image(index))[0].cpu()

    def image(self, index: int) -> Tensor:
        """One image, float (1, 3, H, W) in [0, 1].

        Raises:
            OptionError: it cannot be read.
        """
        path = self.folder / self.pairs[index][0]
        return to_tensor([fit_image(open_image(path)[0], self.networks.image_size)[0]])
