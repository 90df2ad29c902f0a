"""Lists of prompts from people's files: a text a line, or a table's column."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from realignkit.errors import OptionError
from realignkit.textfiles import decoded, lines, named, one_line
from realignkit.texttables import TEXT_COLUMNS, Table, is_table, parsed_table


@dataclass(frozen=True)
class TextList:
    """The texts of a file, without blank ones, and in words what was read."""

    texts: tuple[str, ...]
    summary: str


def read_texts(path: Path, column: str | None = None, limit: int | None = None) -> TextList:
    """The prompts of a text file (one a line), of a table's column, or of JSON lines; ``-`` is standard input.

    Only real line ends separate texts (LF, CR, both); other white space becomes a space.

    Args:
        path: ``.csv``, ``.tsv`` and ``.jsonl`` are tables, and so is a text whose first line names columns.
        column: of a table, see :meth:`Table.column`; None: one of :data:`TEXT_COLUMNS`, else the first with texts.
        limit: only the first so many.

    Raises:
        OptionError: it cannot be read, or has no such column.
    """
    name, content = named(path), decoded(path)
    source, found = name, list[str]()
    if is_table(path, content):
        table = parsed_table(name, path.suffix, content)
        if table.columns or column:
            chosen = table.column(column, TEXT_COLUMNS) if column or _has_usual(table) else _first_with_texts(table)
            source = f"{name}, column '{chosen}'"
            found = [table.text(line, row, chosen) for line, row in table.rows]
    elif column is not None:
        raise OptionError(f"'{name}' holds a prompt a line, and no columns. Leave out column, or give a CSV file.")
    else:
        found = [one_line(line) for line in lines(content)]
        _refuse_flags(name, found)
    texts = [text for text in found if text]
    return TextList(tuple(texts[:limit]), _summary(source, found, texts, limit))


def _has_usual(table: Table) -> bool:
    return any(name.lower() in TEXT_COLUMNS for name in table.columns)


def _first_with_texts(table: Table) -> str:
    """The first column whose cells are words; a header that is a sentence itself is most likely the first prompt."""
    words = [
        name
        for name in table.columns
        if any(re.search(r"[^\W\d_]", str(row.get(name, ""))) for _, row in table.rows) or not table.rows
    ]
    chosen = (words or list(table.columns))[0]
    if len(chosen.split()) > 2:
        raise OptionError(
            f"the first line of '{table.name}' is no header: '{chosen[:60]}'. Put 'prompt' above the prompts, or save "
            f"them as .txt, one a line."
        )
    return chosen


def _refuse_flags(name: str, texts: list[str]) -> None:
    for number, text in enumerate(texts, start=1):
        if re.match(r"--\w|Negative prompt:|Steps: \d", text):
            raise OptionError(
                f"line {number} of '{name}' has settings ('{text[:40]}'), which are not read here. Write the prompt "
                f"alone; seeds and steps are options of the command."
            )


def _summary(source: str, found: list[str], texts: list[str], limit: int | None) -> str:
    count = len(texts)
    number = f"{count} prompt{'s' if count != 1 else ''}"
    if limit is not None and limit < count:
        number = f"the first {limit} of {number}"
    blank = len(found) - count
    again = sum(times > 1 for times in Counter(texts).values())
    return (
        f"read {number} from {source}"
        + (f"; {blank} blank line{'s' if blank != 1 else ''} left out" if blank else "")
        + (f"; {again} of them more than once" if again else "")
    )
