"""How models that follow instructions are asked, and what of their answers counts."""

from __future__ import annotations

from collections.abc import Sequence

SHORT = "Answer with one word or a short phrase."


def worded(question: str, choices: Sequence[str] | None) -> str:
    """A question as an instruction: to choose, where there are choices, else to be brief."""
    if choices is None:
        return f"{question} {SHORT}"
    return f"{question} Choose one of: {', '.join(choices)}. Answer with the choice alone."


def short(text: str) -> str:
    """The first line of an answer that says something, without quotation marks around it and the full stop."""
    line = next((line for line in text.splitlines() if line.strip()), "")
    return line.strip().strip("\"'`“”*").rstrip(".").strip()
