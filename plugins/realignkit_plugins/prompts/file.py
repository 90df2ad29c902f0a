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
from realignkit.types import Expected, Truth


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

    def truth(self, prompt: str, tags: Sequence[str]) -> Truth:
        """By the rules of the ``lexical`` scorer, which is judged by its own measure here; the others are not."""
        from realignkit_plugins.english.noun_phrases import noun_phrases
        from realignkit_plugins.scorers.lexical import naming

        phrases = [phrase for phrase in noun_phrases(prompt) if not phrase.negated]
        named = {tag: naming(tag, phrases) for tag in tags}
        foreign = frozenset(attribute for phrase in phrases for attribute in phrase.attributes)
        expected = {}
        for tag, mentions in named.items():
            heads = {phrase.head for phrase in phrases if phrase not in mentions}
            rivals = {
                other for other, theirs in named.items() if other != tag and not any(p in mentions for p in theirs)
            }
            expected[tag] = Expected(
                named=bool(mentions),
                attributes=tuple(frozenset(phrase.attributes) for phrase in mentions),
                foreign=foreign,
                others=frozenset(heads | rivals) - {phrase.head for phrase in mentions},
            )
        covered = sum(any(phrase in mentions for mentions in named.values()) for phrase in phrases)
        return Truth(expected, len(phrases), covered)

    @cached_property
    def _read(self) -> TextList:
        return read_texts(self.options.path, self.options.column, self.options.limit)
