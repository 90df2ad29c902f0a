"""A GBNF grammar (of llama.cpp) that admits valid answers alone: every tag once, in order, one of three likelihoods."""

from __future__ import annotations

import json
from collections.abc import Sequence

from realignkit.types import Likelihood, Tag

from .answers import MAX_CAPTION

_CAPTION_LENGTH = min(80, MAX_CAPTION)


def answer_grammar(tags: Sequence[Tag]) -> str:
    """The grammar of answers about these tags; the captions are free text without quotes and line breaks."""
    entries = ' ", " '.join(f"{_literal(_head(tag.name))} caption likelihood" for tag in tags)
    likelihoods = " | ".join(_literal(json.dumps(likelihood.value)) for likelihood in Likelihood)
    return "\n".join(
        [
            f"root ::= {_literal(_OPENING)} {entries} {_literal(']}')}",
            f'caption ::= "\\"" [^"\\\\\\x00-\\x1F]{{1,{_CAPTION_LENGTH}}} "\\""',
            f"likelihood ::= {_literal(_BETWEEN)} ({likelihoods}) {_literal('}')}",
        ]
    )


_OPENING = '{"objects": ['
_BETWEEN = ', "likelihood": '


def _head(tag: str) -> str:
    return f'{{"tag": {json.dumps(tag)}, "caption": '


def _literal(text: str) -> str:
    """A GBNF string for this text (ASCII, as JSON made it)."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
