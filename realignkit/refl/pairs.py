"""Which images of a folder go with which captions: read and checked whole before any work."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from realignkit.errors import OptionError
from realignkit.images import SUFFIXES, check_image, image_files
from realignkit.tables import TEXT_COLUMNS, Table, decoded, is_no_text, one_line, read_table

METADATA = "metadata.jsonl"
_TABLES = (METADATA, "metadata.csv", "metadata.tsv")
_FILE_COLUMNS = ("file_name", "filename", "file", "image", "image_path", "path")
_CAPTION_COLUMNS = ("text", *(name for name in TEXT_COLUMNS if name != "text"))


@dataclass(frozen=True)
class PairList:
    """Images' paths within a folder with their captions, and in words what was read."""

    pairs: tuple[tuple[str, str], ...]
    summary: str


def read_pairs(folder: Path) -> PairList:
    """The pairs of a folder.

    It has ``metadata.jsonl``, ``.csv`` or ``.tsv``, whose columns are ``file_name`` and ``text`` (or another usual
    name), or beside each image a ``.txt`` file of its name.

    Raises:
        OptionError: there is no such folder or no pair, captions are in more than one place, a caption is missing or no
            text, or an image is missing, outside the folder, or no picture that can be read; file and line are named.
    """
    if not folder.is_dir():
        raise OptionError(f"there is no folder '{folder}' with image-caption pairs. Check the path.")
    tables = [path for name in _TABLES if (path := folder / name).is_file()]
    table = _only(folder, tables) if tables else None
    pairs, remark = _from_table(table) if table else _from_texts(folder)
    if not pairs:
        raise OptionError(
            f"'{folder}' holds no images with captions. Add {METADATA} with file_name and text, or a .txt file "
            f"beside each image."
        )
    source = table or f"the .txt files of {folder}"
    return PairList(pairs, f"read {len(pairs)} pair{'s' if len(pairs) != 1 else ''} from {source}{remark}")


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


def _from_table(path: Path) -> tuple[tuple[tuple[str, str], ...], str]:
    table = read_table(path)
    if not table.rows:
        return (), ""
    try:
        names, captions = table.column(None, _FILE_COLUMNS), table.column(None, _CAPTION_COLUMNS)
    except OptionError as error:
        if not table.headed:
            raise OptionError(
                f"the first line of '{path}' ('{', '.join(table.columns)[:60]}') is no header. Put the line "
                f"file_name,text above it."
            ) from None
        raise OptionError(f"{error} Each entry needs file_name and text.") from None
    return tuple(_rows(path, table, names, captions)), f", column '{captions}'"


def _rows(path: Path, table: Table, names: str, captions: str) -> Iterator[tuple[str, str]]:
    for line, row in table.rows:
        if not any(str(cell).strip() for cell in row.values()):
            continue
        where = f"line {line} of '{path}'"
        # Paths are kept as they are, but for those of Windows.
        name, caption = table.text(line, row, names).replace("\\", "/"), table.text(line, row, captions)
        if not name or not caption:
            raise OptionError(f"{where} has no {'caption' if name else 'file name'}. Fill it in, or remove the line.")
        _check(path.parent, path.parent / name, where)
        yield name, caption


def _from_texts(folder: Path) -> tuple[tuple[tuple[str, str], ...], str]:
    images = image_files(folder)
    expected = {image.with_suffix(".txt") for image in images}
    if expected.isdisjoint(folder.rglob("*.txt")):
        return (), ""
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
    return tuple(pairs), f"; {bare} image{'s' if bare != 1 else ''} without a caption left out" if bare else ""


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
