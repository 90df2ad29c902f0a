"""Prompts that somebody names: a file (a text a line, or a table's column), standard input, or a prompt set."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from realignkit.arguments import value_of
from realignkit.calls import texts_of
from realignkit.errors import OptionError, PluginError, PromptError
from realignkit.named import Named
from realignkit.registry import Registry
from realignkit.tables import (
    STDIN,
    TABLES,
    TEXT_COLUMNS,
    Table,
    decoded,
    is_table,
    lines,
    named,
    one_line,
    parsed_table,
)

_BULLETS = "-*+•–—◦‣"
_MARK = re.compile(rf"([{re.escape(_BULLETS)}]|\d{{1,3}}[.)])(?: \[[ xX]\])?(?: |$)")
_HEADING = re.compile(r"#+(?: |$)")
_ID = "id"
"""The column by whose cells lists of pictures may call prompts."""


@dataclass(frozen=True)
class TextList:
    """The texts of a file, without blank ones, in words what was read, and each one's id where a table has ids."""

    texts: tuple[str, ...]
    summary: str
    ids: tuple[str, ...] = ()


def read_texts(path: Path, column: str | None = None, limit: int | None = None) -> TextList:
    """The prompts of a text file (one a line), of a table's column, or of JSON lines; ``-`` is standard input.

    Only real line ends separate texts (LF, CR, both); other white space becomes a space. The marks of a list in
    Markdown (``- a cup``, ``1. a cup``) are no part of its prompts, and neither are lines that begin with ``#``.

    Args:
        path: ``.csv``, ``.tsv`` and ``.jsonl`` are tables, and so is a text whose first line names columns.
        column: of a table, see :meth:`Table.column`; None: one of :data:`TEXT_COLUMNS`, else the only one with texts.
        limit: only the first so many.

    Raises:
        OptionError: it cannot be read, has no such column, or does not say which of several is meant.
    """
    name, content = named(path), decoded(path)
    source, prompts, ids, left_out = name, list[str](), list[str](), ""
    if is_table(path, content, column):
        table = parsed_table(name, path.suffix, content)
        if table.columns or column:
            chosen = table.column(column, TEXT_COLUMNS) if column or _has_usual(table) else _only_texts(table)
            source = f"{name}, column '{chosen}'"
            prompts = [table.text(line, row, chosen) for line, row in table.rows]
            ids = [] if chosen.lower() == _ID else _ids(table)
    elif column is not None:
        raise OptionError(f"'{name}' holds a prompt a line, and no columns. Leave out column, or give a CSV file.")
    else:
        prompts, left_out = _prompts_of(name, content)
    texts = [text for text in prompts if text]
    ids = [each for each, text in zip(ids, prompts, strict=True) if text] if ids else []
    return TextList(tuple(texts[:limit]), _summary(source, prompts, texts, limit) + left_out, tuple(ids[:limit]))


def is_file(spec: str) -> bool:
    """Whether a file is meant, which perhaps is not there, and no prompt set; ``-`` is standard input."""
    path = Path(spec).expanduser()
    # A pipe is a file too: --prompts <(command).
    readable = path.exists() and not path.is_dir()
    named_set = re.match(r"\w{2,}:", spec) is not None  # and no drive, which has one letter
    return spec == STDIN or readable or (path.suffix.lower() in (".txt", *TABLES) and not named_set)


def prompt_set(registry: Registry, spec: str, options: Mapping[str, Any] | None = None) -> Named:
    """The prompt set that is meant: made, and not empty.

    Args:
        registry: where prompt sets are looked up.
        spec: a file, ``-`` (standard input), or a prompt set: ``micro``, ``micro:train``, ``micro:train,size=500``,
            ``file:prompts.csv,column=caption``. A value without a name is that of the set's first option.
        options: over those in ``spec``.

    Raises:
        OptionError: the file cannot be read, or an option is wrong.
        PluginError: there is no such prompt set.
        PromptError: there are no prompts in it.
    """
    chosen: dict[str, Any] = {}
    if is_file(spec):
        info = registry.info("prompts", "file")
        chosen["path"] = spec
    else:
        name, _, text = spec.partition(":")
        try:
            info = registry.info("prompts", name)
        except PluginError as error:
            raise PluginError(f"there is no file '{spec}', and {error}") from None
        model = info.options_model()
        first = next(iter(model.model_fields), None) if model is not None else None
        for part in filter(None, text.split(",")):
            option, equals, value = part.partition("=")
            if not equals and first is None:
                raise OptionError(f"prompt set '{name}' has no options: write '{name}' alone, not '{spec}'.")
            chosen[option if equals else str(first)] = value_of(value if equals else part)
    prompts = Named("prompts", info.name, info.create(**chosen, **(options or {})))
    if not any(prompt.strip() for prompt in texts_of(prompts)):
        raise PromptError(f"there are no prompts in '{spec}'. Write one a line, or give a prompt set that has some.")
    return prompts


def labels_of(prompts: Named) -> list[dict[str, str]]:
    """What a prompt set says of each of its prompts, in their order: ``id``, and by what tables group them.

    Raises:
        PluginError: it failed, or has not as many labels as prompts, or labels that are no texts.
    """
    if not prompts.has("labels"):
        return [{} for _ in texts_of(prompts)]
    with prompts.blame():
        labels = [dict(each) for each in prompts.plugin.labels()]
        count = len(prompts.plugin)
    if len(labels) != count:
        raise prompts.breach(f"{count} prompts have {len(labels)} labels")
    if not all(isinstance(text, str) for each in labels for pair in each.items() for text in pair):
        raise prompts.breach("a label is no text")
    return labels


def _ids(table: Table) -> list[str]:
    """The cells of the column ``id``; nothing where there is none, or where one would mean several prompts."""
    column = next((name for name in table.columns if name.lower() == _ID), None)
    if column is None:
        return []
    cells = ["" if (cell := row.get(column)) is None else one_line(str(cell)) for _, row in table.rows]
    known = [cell for cell in cells if cell]
    return cells if len(set(known)) == len(known) > 0 else []


def _has_usual(table: Table) -> bool:
    return any(name.lower() in TEXT_COLUMNS for name in table.columns)


def _only_texts(table: Table) -> str:
    """The one column with texts, where no column has a usual name."""
    if not table.headed:
        raise OptionError(
            f"no column of '{table.name}' is called '{TEXT_COLUMNS[0]}', and its first line may be no header, but a "
            f"prompt: '{', '.join(table.columns)[:60]}'. Put a line with names above it, '{TEXT_COLUMNS[0]}' for the "
            f"prompts; if it is the header, choose one: {_choice(table, 'NAME')}."
        )
    columns = table.with_words()
    if len(columns) > 1:
        raise OptionError(
            f"'{table.name}' has several columns with texts, and none is called '{TEXT_COLUMNS[0]}': "
            f"{', '.join(columns)}. Choose one: {_choice(table, columns[0])}."
        )
    return table.column(columns[0] if columns else None, TEXT_COLUMNS)


def _choice(table: Table, column: str) -> str:
    file = STDIN if table.name == named(Path(STDIN)) else table.name
    return f"column={column}, on the command line --prompts 'file:{file},column={column}'"


def _prompts_of(name: str, content: str) -> tuple[list[str], str]:
    """A prompt a line, and in words what else the lines held: the marks of a list, headings and comments."""
    texts = [one_line(line) for line in lines(content)]
    headings = [_HEADING.match(text) is not None for text in texts]
    marks = [_MARK.match(text) for text in texts]
    bare = [i for i, text in enumerate(texts) if text and not marks[i] and not headings[i]]
    kinds = dict.fromkeys(mark[1] if mark[1] in _BULLETS else "1." for mark in marks if mark)
    left_out = ""
    # A number alone among many is the prompt's own: "2. world war soldier".
    if kinds and not (bare and list(kinds) == ["1."] and sum(map(bool, marks)) == 1):
        if bare:
            raise OptionError(
                f"line {bare[0] + 1} of '{name}' ('{texts[bare[0]][:40]}') has no mark of a list, as others have. "
                f"Write each prompt on one line, and '-' before all or none of them."
            )
        texts = [text[mark.end() :] if mark else text for text, mark in zip(texts, marks, strict=True)]
        left_out += f"; the list's marks ({' '.join(kinds)}) left out"
    _refuse_others(name, texts)
    if any(headings):
        left_out += f"; {sum(headings)} line{'s' if sum(headings) != 1 else ''} with # left out"
    return [text for text, heading in zip(texts, headings, strict=True) if not heading], left_out


def _refuse_others(name: str, texts: list[str]) -> None:
    for number, text in enumerate(texts, start=1):
        if re.fullmatch(r"\|.*\|", text):
            raise OptionError(
                f"line {number} of '{name}' is a row of a table ('{text[:40]}'). Leave the table alone in it."
            )
        if re.match(r"--\w|Negative prompt:|Steps: \d", text):
            raise OptionError(
                f"line {number} of '{name}' has settings ('{text[:40]}'), which are not read here. Write the prompt "
                f"alone; seeds and steps are options of the command."
            )


def _summary(source: str, prompts: list[str], texts: list[str], limit: int | None) -> str:
    count = len(texts)
    number = f"{count} prompt{'s' if count != 1 else ''}"
    if limit is not None and limit < count:
        number = f"the first {limit} of {number}"
    blank = len(prompts) - count
    again = sum(times > 1 for times in Counter(texts).values())
    return (
        f"read {number} from {source}"
        + (f"; {blank} blank line{'s' if blank != 1 else ''} left out" if blank else "")
        + (f"; {again} of them more than once" if again else "")
    )
