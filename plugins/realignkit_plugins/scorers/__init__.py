"""Scorers: judge and describe tags in the light of a prompt (eq. 6)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from realignkit import hookimpl

if TYPE_CHECKING:
    from realignkit.registry import Register


@hookimpl
def register_scorers(register: Register) -> None:
    """The rule-based scorer; it always answers, so it ends every fallback chain."""
    register(
        "lexical",
        "realignkit_plugins.scorers.lexical:LexicalScorer",
        "rules over the prompt's noun phrases; no model, no network, always answers",
    )
