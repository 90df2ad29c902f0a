"""Figures of matplotlib as files: text stays text, and the same figure is the same file."""

from __future__ import annotations

import importlib.util
import io
import unicodedata
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from realignkit.errors import OptionError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "realignkit",
    "pdf.fonttype": 42,  # letters, not outlines
    "font.sans-serif": ["DejaVu Sans"],
    "axes.titlesize": 10,
    "text.parse_math": False,  # a prompt's dollars are dollars
    "text.usetex": False,
}
"""Of every figure: nothing depends on the user's own settings, on the day or on chance."""

FORMATS = ("png", "svg", "pdf")
_NO_DATE = {"png": {"Software": None}, "svg": {"Date": None, "Creator": None}, "pdf": {"CreationDate": None}}
_JOINERS = "\u200c\u200d"  # unseen, but scripts need them


def check_matplotlib() -> None:
    """Say what to install where it is missing.

    Raises:
        OptionError: matplotlib is not installed.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise OptionError(
            "figures are drawn by matplotlib, which is not installed. Run: pip install 'realignkit[plots]'."
        )


def document(figure: Figure, kind: str, title: str, dpi: float = 150) -> bytes:
    """A figure, made within :data:`STYLE`, as a file's content.

    Args:
        figure: of matplotlib.
        kind: one of :data:`FORMATS`.
        title: what the file says of itself.
        dpi: pixels per inch, of PNG.
    """
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, dpi=dpi, metadata={**_NO_DATE[kind], "Title": title})
    if kind != "svg":
        return buffer.getvalue()
    return b"\n".join(line.rstrip() for line in buffer.getvalue().splitlines()) + b"\n"


def visible(text: str) -> str:
    """A text on one line in which nothing is unseen: control characters and turns of direction show as U+FFFD."""
    line = " ".join(text.split())
    hidden = {character for character in line if unicodedata.category(character) in ("Cc", "Cf", "Cs")}
    return "".join("\ufffd" if c in hidden and c not in _JOINERS else c for c in line)


def wrapped(text: str, width: int) -> list[str]:
    """A text in lines of at most ``width`` columns; East Asian characters take two. Longer words are broken."""
    lines = [""]
    for word in visible(text).split(" "):
        line = f"{lines[-1]} {word}" if lines[-1] else word
        if columns(line) <= width:
            lines[-1] = line
            continue
        if lines[-1]:
            lines.append("")
        for character in word:
            if columns(lines[-1] + character) > width:
                lines.append("")
            lines[-1] += character
    return lines


def columns(text: str) -> int:
    """How many columns of a typewriter a text takes."""
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else int(not unicodedata.combining(c)) for c in text)


def fonts_for(texts: Iterable[str]) -> tuple[list[str], str]:
    """Installed font families that have the characters of some texts, the usual one first, and the characters of none.

    Without a font, PNG and PDF show boxes; SVG leaves the choice to who shows it.
    """
    from matplotlib import font_manager

    names, missing = list(STYLE["font.sans-serif"]), {c for text in texts for c in text if not c.isspace()}
    first = font_manager.findfont(font_manager.FontProperties(family=names))
    missing -= _characters(first)
    for entry in sorted(font_manager.fontManager.ttflist, key=lambda entry: entry.fname) if missing else ():
        if entry.style != "normal" or entry.name.startswith("Last Resort"):  # which has a box for everything
            continue
        if found := missing & _characters(entry.fname):
            names.append(entry.name)
            missing -= found
    return list(dict.fromkeys(names)), "".join(sorted(missing))


def _characters(font: str) -> set[str]:
    from matplotlib import font_manager

    return {chr(code) for code in font_manager.get_font(font).get_charmap()}
