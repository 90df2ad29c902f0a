"""Prompts from a file of the user's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

from pydantic import Field

from realignkit.contracts import Options as PluginOptions
from realignkit.contracts import PromptSet
from realignkit.prompts import TextList, read_texts
from realignkit.tables import STDIN, named
from realignkit.types import Truth
from realignkit_plugins.prompts.wording import truth_by_rules


class FilePrompts(PromptSet):
    """The prompts of a text file (one a line), or of a column of a table, without blank ones, in the file's order.

    Tables are CSV (delimiter comma, semicolon or tab, with a header line), TSV, JSON lines, and lists in JSON. UTF-8,
    with or without a byte-order mark, or UTF-16 with one. Marks of a Markdown list (``-``, ``1.``) and lines that begin
    with ``#`` are left out.

    Raises:
        OptionError: (on use) the file cannot be read, or has no such column; the message lists its columns.
    """

    class Options(PluginOptions):
        """Options of :class:`FilePrompts`."""

        path: Path = Field(description="a .txt, .csv, .tsv, .jsonl or .json file; - is standard input")
        column: str | None = Field(
            None, description="of a table; None: prompt, caption, text or description, else the only one with texts"
        )
        limit: int | None = Field(None, ge=1, description="only the first so many")

    options: FilePrompts.Options

    @property
    def source(self) -> str:  # type: ignore[override]
        """The file's name."""
        return self.options.path.name if str(self.options.path) != STDIN else named(self.options.path)

    @property
    def summary(self) -> str:  # type: ignore[override]
        """How many prompts were read from where, and what was left out."""
        return self._read.summary

    def __iter__(self) -> Iterator[str]:
        return iter(self._read.texts)

    def __len__(self) -> int:
        return len(self._read.texts)

    def labels(self) -> list[dict[str, str]]:
        """The ``id`` of each prompt, where a table has a column of that name whose cells differ."""
        ids = self._read.ids or ("",) * len(self)
        return [{"id": each} if each else {} for each in ids]

    def truth(self, prompt: str, tags: Sequence[str]) -> Truth:
        """By rules; see :func:`realignkit_plugins.prompts.wording.truth_by_rules`."""
        return truth_by_rules(prompt, tags)

    @cached_property
    def _read(self) -> TextList:
        return read_texts(self.options.path, self.options.column, self.options.limit)
