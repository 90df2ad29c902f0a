"""A page of tables and of pictures with what is said of them: self-contained, and escaped."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from realignkit.files import atomic_write
from realignkit.images import open_image
from realignkit.report.html import environment

THUMBNAIL = 256
"""Pixels of a picture's longer side at most."""


class AnyTable(Protocol):
    """A table under its title."""

    @property
    def title(self) -> str:
        """What it is of; may be empty."""

    @property
    def headings(self) -> Sequence[str]:
        """Of its columns."""

    @property
    def rows(self) -> Sequence[Sequence[str]]:
        """Its cells, row by row."""


@dataclass(frozen=True)
class Card:
    """A prompt with one picture or several (caption -> file), and what is said of them."""

    prompt: str
    text: str
    pictures: tuple[tuple[str, Path], ...]


@dataclass(frozen=True)
class Section:
    """Cards under a heading."""

    heading: str
    cards: tuple[Card, ...]


def write_gallery(
    path: str | Path, title: str, about: Sequence[str], tables: Sequence[AnyTable], sections: Sequence[Section]
) -> Path:
    """Write a page; it needs no other file, no script and no network.

    Args:
        path: of the page.
        title: its heading.
        about: paragraphs below it.
        tables: shown first.
        sections: then these.

    Returns:
        The path.

    Raises:
        OptionError: a picture cannot be read.
        OutputError: it cannot be written.
    """
    page = (
        environment()
        .get_template("gallery.html.jinja")
        .render(title=title, about=about, tables=tables, sections=sections, thumbnail=thumbnail)
    )
    return atomic_write(path, page)


def thumbnail(path: Path) -> str:
    """A picture as a ``data:`` URI, no larger than :data:`THUMBNAIL`; small ones as they are."""
    image, _ = open_image(path)
    buffer = io.BytesIO()
    if max(image.size) <= THUMBNAIL // 2:
        image.save(buffer, "PNG", optimize=True)
        kind = "png"
    else:
        image.thumbnail((THUMBNAIL, THUMBNAIL))
        image.save(buffer, "JPEG", quality=88)
        kind = "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
