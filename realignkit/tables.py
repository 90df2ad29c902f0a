"""Texts and tables as people have them: encodings, CSV of many dialects, JSON lines; and which column is meant."""

from __future__ import annotations

import codecs
import csv
import io
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from itertools import zip_longest
from pathlib import Path
from typing import Any, BinaryIO

from realignkit.errors import OptionError, refuse_address
from realignkit.images import SUFFIXES
from realignkit.parsing import kind_of, parse_json

STDIN = "-"
"""Stands for standard input, as a path."""

_MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
_FOREIGN = {b"PK\x03\x04": "a spreadsheet or an archive", b"\x1f\x8b": "compressed", b"%PDF": "a PDF"}
_MARKUP = (".yaml", ".yml", ".toml", ".xml", ".html", ".htm")
_DAMAGE = {"\0": "zero bytes, as UTF-16 without a mark has", "\ufffd": "what is left of a lost character"}

TEXT_COLUMNS = ("prompt", "prompts", "caption", "captions", "text", "description")
"""What a column with texts is called, where nobody names it; the first that is there counts."""

TABLES = (".csv", ".tsv", ".tab", ".jsonl", ".ndjson", ".json")
"""How files of tables end, in lower case; others hold a text a line."""

_DELIMITERS = ",;\t|"
_HEADINGS = TEXT_COLUMNS[:4]  # what no line of a list of prompts would be, or have between commas
_NOTHING = ("none", "null", "nan", "<na>", "n/a", "#n/a")  # what programs write for a text that they have not


def named(path: Path) -> str:
    """What to call a file in a message."""
    return "standard input" if str(path) == STDIN else str(path)


@lru_cache(maxsize=1)
def _all_of(stream: BinaryIO) -> bytes:
    """What a stream holds, which can be read once only and may be asked for by several."""
    return stream.read()


def decoded(path: Path) -> str:
    """The text of a file, or of standard input (``-``): UTF-8, or UTF-16 with a mark, which is what Excel writes.

    Raises:
        OptionError: it cannot be read, or is in another encoding; the message says how to convert it.
    """
    refuse_address(path)
    name = named(path)
    if path.suffix.lower() in _MARKUP:
        raise OptionError(
            f"'{name}' is of a kind that is not read. Give a .txt file with a text a line, .csv or .jsonl."
        )
    try:
        data = _all_of(sys.stdin.buffer) if str(path) == STDIN else path.expanduser().read_bytes()
    except (OSError, ValueError, RuntimeError) as error:  # a NUL in its name, an unknown home
        why = getattr(error, "strerror", None) or error
        raise OptionError(
            f"'{name}' cannot be read ({why}). Give the path of a UTF-8 .txt, .csv or .jsonl file."
        ) from error
    if kind := next((kind for head, kind in _FOREIGN.items() if data.startswith(head)), ""):
        raise OptionError(f"'{name}' is {kind}, no text. Save it as UTF-8 text or CSV.")
    encoding = next((e for mark, e in _MARKS.items() if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeError as error:
        at = data.count(b"\n", 0, getattr(error, "start", 0)) + 1
        raise OptionError(
            f"'{name}' is no UTF-8 text (line {at}). Save it as UTF-8; if it comes from a Western Windows: "
            f"iconv -f WINDOWS-1252 -t UTF-8 OLD > NEW"
        ) from error
    for wrong, why in _DAMAGE.items():
        if wrong in text:
            at = text.count("\n", 0, text.index(wrong)) + 1
            raise OptionError(f"line {at} of '{name}' holds {why}. Save it anew as UTF-8.")
    return text


def lines(text: str) -> list[str]:
    """Lines between real line ends; Python's ``splitlines`` also cuts at form feeds and U+2028."""
    parts = re.split(r"\r\n|\n|\r", text)
    return parts if parts[-1] else parts[:-1]


def one_line(text: str) -> str:
    """A text without line ends, tabs and the like: all white space is one space."""
    # Marks come into the middle where files are joined.
    return " ".join(text.replace("\ufeff", "").split()).strip("\u200b\u2060")


_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def csv_text(rows: Iterable[Iterable[Any]]) -> str:
    """Rows as comma-separated values, for spreadsheets: a text that one would compute has an apostrophe in front."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerows([f"'{cell}" if _is_formula(cell) else cell for cell in row] for row in rows)
    return buffer.getvalue()


def _is_formula(cell: Any) -> bool:
    return isinstance(cell, str) and len(cell) > 1 and cell.startswith(_FORMULA)


@dataclass(frozen=True)
class Table:
    """Rows of a file, each with the number of its first line (or item); cells are text, in JSON whatever is there.

    ``headed``: whether the columns are surely names, and not a first row of texts or file names.
    """

    name: str
    columns: tuple[str, ...]
    rows: tuple[tuple[int, dict[str, Any]], ...]
    unit: str = "line"
    headed: bool = True

    def with_words(self) -> list[str]:
        """The columns that hold texts: some cell of theirs is neither a number nor the name of a picture."""
        return [name for name in self.columns if any(_is_words(row.get(name)) for _, row in self.rows)]

    def column(self, wanted: str | None, usual: Sequence[str]) -> str:
        """The name of a column: the wanted one, else the first usual one; upper case makes no difference.

        Raises:
            OptionError: there is none, or it is there twice.
        """
        by_name = {name.lower(): name for name in reversed(self.columns)}
        chosen = next((by_name[n.lower()] for n in ([wanted] if wanted else usual) if n.lower() in by_name), None)
        if chosen is None:
            near = get_close_matches((wanted or usual[0]).lower(), by_name, n=1, cutoff=0.7)
            hint = f" Did you mean '{by_name[near[0]]}'?" if near else ""
            asked = f"column '{wanted}'" if wanted else f"column '{usual[0]}'"
            if not self.columns:
                raise OptionError(f"'{self.name}' is empty. Give it rows with a {asked}.")
            raise OptionError(f"'{self.name}' has no {asked}. Its columns: {', '.join(self.columns)}.{hint}")
        if [name.lower() for name in self.columns].count(chosen.lower()) > 1:
            raise OptionError(f"'{self.name}' has more than one column '{chosen}'. Rename all but one.")
        return chosen

    def text(self, line: int, row: dict[str, Any], column: str) -> str:
        """A cell as one line of text, "" where it is blank.

        Raises:
            OptionError: it is not there, or no text; file and line are named.
        """
        where = f"{self.unit} {line} of '{self.name}'"
        if column not in row:
            raise OptionError(f"{where} has no '{column}'. Add it, or remove the {self.unit}.")
        if not isinstance(row[column], str):
            raise OptionError(f"{where} has no text as its '{column}', but {kind_of(row[column])}. Write a text there.")
        cell = one_line(row[column])
        if is_no_text(cell):
            raise OptionError(f"{where} has no text as its '{column}', but {cell[:40]}. Write a text there.")
        if not _whole(cell):
            raise OptionError(f"{where} holds half a character (a lone surrogate) in its '{column}'. Write it anew.")
        return cell


def _whole(text: str) -> bool:
    """Whether a text can be written: JSON may hold halves of characters, which no encoding has."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_no_text(text: str) -> bool:
    """Whether a text is what programs write where they have none, or a list: ``None``, ``nan``, ``['a', 'b']``."""
    return text.lower() in _NOTHING or re.fullmatch(r"\[\s*(['\"]).*\1\s*,?\s*\]", text) is not None


def read_table(path: Path) -> Table:
    """A table: CSV (delimiter comma, semicolon or tab, with a header), or JSON lines.

    Raises:
        OptionError: it cannot be read.
    """
    return parsed_table(named(path), path.suffix, decoded(path))


def is_table(path: Path, text: str, column: str | None = None) -> bool:
    """Whether a text is a table: by its name, or because its first line is a header or a JSON object.

    Args:
        path: the file.
        text: what is in it.
        column: what its header names, where that is known.
    """
    if path.suffix.lower() in TABLES:
        return True
    first = next((line.strip() for line in lines(text) if line.strip()), "")
    cells = [cell.strip().strip('"').lower() for cell in re.split(f"[{_DELIMITERS}]", first)]
    return _is_object(first) or any(cell in (*_HEADINGS, (column or "").lower() or None) for cell in cells)


def parsed_table(name: str, suffix: str, text: str) -> Table:
    """A text as a table: JSON lines, or CSV.

    Args:
        name: for messages.
        suffix: of the file; decides where it can.
        text: what is in it.

    Raises:
        OptionError: it is none.
    """
    first = next((line.strip() for line in lines(text) if line.strip()), "")
    if suffix.lower() == ".json":
        return _json(name, text)
    if suffix.lower() in (".jsonl", ".ndjson") or (suffix.lower() not in TABLES and _is_object(first)):
        return _json_lines(name, text)
    return _csv(name, text, "\t" if suffix.lower() in (".tsv", ".tab") else None)


def _json(name: str, text: str) -> Table:
    try:
        items = parse_json(text, once=True) if text.strip() else []
    except ValueError as error:
        raise OptionError(f"'{name}' is no JSON ({error}). Correct it.") from error
    if not isinstance(items, list):
        raise OptionError(f"'{name}' holds {kind_of(items)}; it should be a list of texts, or of objects.")
    return _objects(name, list(enumerate(items, start=1)), "item")


def _json_lines(name: str, text: str) -> Table:
    items = []
    for number, line in enumerate(lines(text), start=1):
        try:
            items += [(number, parse_json(line, once=True))] if line.strip() else []
        except ValueError as error:
            raise OptionError(f"line {number} of '{name}' is no JSON ({error}). Each line is an object.") from error
    return _objects(name, items, "line")


def _objects(name: str, items: Sequence[tuple[int, Any]], unit: str) -> Table:
    rows = [(number, {TEXT_COLUMNS[0]: item} if isinstance(item, str) else item) for number, item in items]
    for number, row in rows:
        if not isinstance(row, dict):
            raise OptionError(f"{unit} {number} of '{name}' is {kind_of(row)}, no JSON object. Give objects, or texts.")
    return Table(name, tuple(dict.fromkeys(key for _, row in rows for key in row)), tuple(rows), unit)


def _csv(name: str, text: str, delimiter: str | None) -> Table:
    skipped = 0
    if separator := re.match(r"sep=(.)\r?\n", text):  # Excel's way to say it
        text, delimiter, skipped = text[separator.end() :], separator[1], 1
    delimiter = delimiter or _delimiter(text)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    numbered: list[tuple[int, list[str]]] = []
    start = 1
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells) or numbered:  # blank lines may come before the header
                numbered.append((start + skipped, cells))
            start = reader.line_num + 1
    except csv.Error as error:
        raise OptionError(
            f"'{name}' is no valid CSV file (line {start + skipped}: {error}). Save it again as comma-separated UTF-8."
        ) from error
    if not numbered:
        return Table(name, (), ())
    header = [cell.strip() for cell in numbered[0][1]]
    while header and not header[-1]:
        header.pop()
    for line, cells in numbered[1:]:
        if any(cell.strip() for cell in cells[len(header) :]):
            raise OptionError(
                f"line {line} of '{name}' has {len(cells)} cells, its header {len(header)}. Put quotes around texts "
                f"that hold the delimiter."
            )
    body = numbered[1:]
    if body and delimiter == "|" and all(re.fullmatch(r":?-+:?|", cell.strip()) for cell in body[0][1]):
        del body[0]  # the rule under the header of a Markdown table
    rows = tuple((line, dict(zip_longest(header, cells[: len(header)], fillvalue=""))) for line, cells in body)
    below = [[row[column].strip() for _, row in rows if row[column].strip()] for column in header]
    return Table(name, tuple(header), rows, headed=_is_header(header, below))


def _is_header(header: Sequence[str], below: Sequence[Sequence[str]]) -> bool:
    """Whether names stand in a first row: a usual one, or one of another kind than everything below it."""
    if any(cell.lower() in TEXT_COLUMNS for cell in header):
        return True
    if any(cell and not _is_words(cell) for cell in header):
        return False
    return any(
        cells and (not any(map(_is_words, cells)) or (len(name.split()) == 1 and all(" " in cell for cell in cells)))
        for name, cells in zip(header, below, strict=True)
    )


def _is_words(cell: Any) -> bool:
    """Whether a cell is a text: not a number, and neither the name nor the address of a picture."""
    text = cell.strip() if isinstance(cell, str) else ""
    return re.search(r"[^\W\d_]", text) is not None and not text.lower().endswith(SUFFIXES) and "://" not in text


def _delimiter(text: str) -> str:
    header = next((line for line in lines(text) if line.strip()), "")
    bare = re.sub(r'"[^"]*"', "", header)
    return max(_DELIMITERS, key=bare.count)


def _is_object(line: str) -> bool:
    try:
        return line.startswith("{") and isinstance(parse_json(line), dict)
    except ValueError:
        return False
