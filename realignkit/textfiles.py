"""The text of people's files: encodings and line ends, in one way for all."""

from __future__ import annotations

import codecs
import re
import sys
from pathlib import Path

from realignkit.arguments import refuse_address
from realignkit.errors import OptionError

STDIN = "-"
"""Stands for standard input, as a path."""

_MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
_FOREIGN = {b"PK\x03\x04": "a spreadsheet or an archive", b"\x1f\x8b": "compressed", b"%PDF": "a PDF"}
_MARKUP = (".yaml", ".yml", ".toml", ".xml", ".html", ".htm")
_DAMAGE = {"\0": "zero bytes, as UTF-16 without a mark has", "\ufffd": "what is left of a lost character"}


def named(path: Path) -> str:
    """What to call a file in a message."""
    return "standard input" if str(path) == STDIN else str(path)


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
        data = sys.stdin.buffer.read() if str(path) == STDIN else path.expanduser().read_bytes()
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
    found = re.split(r"\r\n|\n|\r", text)
    return found if found[-1] else found[:-1]


def one_line(text: str) -> str:
    """A text without line ends, tabs and the like: all white space is one space."""
    # Marks come into the middle where files are joined.
    return " ".join(text.replace("\ufeff", "").split()).strip("\u200b\u2060")
