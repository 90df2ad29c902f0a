"""Prompts from a file of the user's."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

from pydantic import Field

from realignkit.contracts import Options as PluginOptions
from realignkit.contracts import PromptSet
from realignkit.errors import OptionError
from realignkit.types import Expected, Truth


class FilePrompts(PromptSet):
    """The prompts of a text file (one a line) or of a column of a CSV file, without blank ones, in the file's order.

    UTF-8, with or without a byte-order mark.

    Raises:
        OptionError: (on use) the file cannot be read, or has no such column; the message lists its columns.
    """

    class Options(PluginOptions):
        """Options of :class:`FilePrompts`."""

        path: Path = Field(description="a .txt file, or a .csv file with a header line")
        column: str | None = Field(None, description="the CSV column; None: 'prompt' or 'caption', else the first")
        limit: int | None = Field(None, ge=1, description="only the first so many")

    options: FilePrompts.Options

    @property
    def source(self) -> str:  # type: ignore[override]
        """The file's name."""
        return self.options.path.name

    def __iter__(self) -> Iterator[str]:
        return iter(self._prompts)

    def __len__(self) -> int:
        return len(self._prompts)

    def truth(self, prompt: str, tags: Sequence[str]) -> Truth:
        """By the rules of the ``lexical`` scorer, which is judged by its own measure here; the others are not."""
        from realignkit_plugins.english.noun_phrases import noun_phrases
        from realignkit_plugins.scorers.lexical import naming

        phrases = [phrase for phrase in noun_phrases(prompt) if not phrase.negated]
        named = {tag: naming(tag, phrases) for tag in tags}
        foreign = frozenset(attribute for phrase in phrases for attribute in phrase.attributes)
        expected = {}
        for tag, own in named.items():
            heads = {phrase.head for phrase in phrases if phrase not in own}
            rivals = {other for other, theirs in named.items() if other != tag and not any(p in own for p in theirs)}
            expected[tag] = Expected(
                named=bool(own),
                attributes=tuple(frozenset(phrase.attributes) for phrase in own),
                foreign=foreign,
                others=frozenset(heads | rivals) - {phrase.head for phrase in own},
            )
        found = sum(any(phrase in own for own in named.values()) for phrase in phrases)
        return Truth(expected, len(phrases), found)

    @cached_property
    def _prompts(self) -> tuple[str, ...]:
        path = self.options.path.expanduser()
        try:
            text = path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeError) as error:
            raise OptionError(
                f"the prompts in '{path}' cannot be read ({error}). Give the path of a UTF-8 .txt or .csv file."
            ) from error
        lines = self._column(text) if path.suffix.lower() == ".csv" else text.splitlines()
        # Prompts are single lines, also where a CSV cell was wrapped.
        prompts = [" ".join(line.split()) for line in lines]
        return tuple(prompt for prompt in prompts if prompt)[: self.options.limit]

    def _column(self, text: str) -> list[str]:
        path, column = self.options.path, self.options.column
        try:
            rows = list(csv.reader(io.StringIO(text, newline=""), strict=True))
        except csv.Error as error:
            raise OptionError(
                f"'{path}' is no valid CSV file ({error}). Save it again as comma-separated UTF-8."
            ) from error
        if not rows:
            return []
        header, body = [name.strip() for name in rows[0]], rows[1:]
        if column is not None and column not in header:
            raise OptionError(f"'{path}' has no column '{column}'. Its columns: {', '.join(header)}.")
        if column is None:
            usual = [name for name in header if name.lower() in ("prompt", "caption")]
            column = usual[0] if usual else header[0]
        at = header.index(column)
        return [row[at] for row in body if len(row) > at]
