"""Prompt sets whose files are published elsewhere: found, checked, and read as they are. None is part of realignkit."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import Field

from realignkit.contracts import Options as PluginOptions
from realignkit.contracts import PromptSet
from realignkit.errors import OptionError
from realignkit.tables import one_line
from realignkit.types import Truth
from realignkit_plugins.datafiles import DataFile
from realignkit_plugins.prompts.wording import truth_by_rules


@dataclass(frozen=True)
class Entry:
    """A prompt, and what the file says of it: ``id``, and what tables group by."""

    text: str
    labels: Mapping[str, str] = field(default_factory=dict)


GivenPath = Annotated[
    str | None,
    Field(description="the file, a folder that has it, or one on the hub; None: looked for in REALIGNKIT_DATA"),
]
Limit = Annotated[int | None, Field(ge=1, description="only the first so many")]


class PublishedOptions(PluginOptions):
    """The options of a published prompt set that has no more."""

    path: GivenPath = None
    limit: Limit = None


class PublishedPrompts(PromptSet):
    """Base of a prompt set that is one published file; a child says which, and reads it.

    Raises:
        OptionError: (on use) the file is not there, is another one than was published, or damaged.
    """

    Options: ClassVar[type[PluginOptions]] = PublishedOptions
    options: Any

    @property
    @abstractmethod
    def file(self) -> DataFile:
        """The file as it is published."""

    @property
    @abstractmethod
    def count(self) -> int:
        """How many prompts it has."""

    @abstractmethod
    def read(self, path: Path) -> list[Entry]:
        """All its prompts, in its order.

        Raises:
            OptionError, ValueError, KeyError, TypeError: it is no such file.
        """

    def choose(self, entries: list[Entry]) -> list[Entry]:
        """Those that the options ask for."""
        return entries

    @cached_property
    def entries(self) -> list[Entry]:
        """The prompts of this set with their labels.

        Raises:
            OptionError: as the class.
        """
        path = self.file.check(self.file.find(self.options.path))
        try:
            entries = self.read(path)
        except (ValueError, KeyError, TypeError, AttributeError, OSError, RecursionError) as error:
            raise OptionError(
                f"'{path}' is not {self.file.name} as it is published ({type(error).__name__}: {error}). Get it again "
                f"from {self.file.source}."
            ) from error
        if len(entries) != self.count:
            raise OptionError(
                f"'{path}' holds {len(entries)} prompts, {self.file.name} as it is published {self.count}. Get it "
                f"again from {self.file.source}; a list of your own is read as 'file:PATH'."
            )
        return self.choose(entries)[: self.options.limit]

    def __iter__(self) -> Iterator[str]:
        return (entry.text for entry in self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def labels(self) -> list[dict[str, str]]:
        """What the file says of each prompt."""
        return [dict(entry.labels) for entry in self.entries]

    @property
    def source(self) -> str:  # type: ignore[override]
        """The file's name, and where it is from."""
        return f"{self.file.name} ({self.file.source})"

    def check(self) -> str:
        """Where to get the file, where it is not on this machine."""
        return "" if self.options.path is not None else self.file.missing()

    def truth(self, prompt: str, tags: Sequence[str]) -> Truth:
        """By rules; see :func:`realignkit_plugins.prompts.wording.truth_by_rules`."""
        return truth_by_rules(prompt, tags)


def text_of(value: Any) -> str:
    """A prompt as one line.

    Raises:
        ValueError: it is no text, or blank.
    """
    text = one_line(value) if isinstance(value, str) else ""
    if not text:
        raise ValueError("a prompt is no text")
    return text
