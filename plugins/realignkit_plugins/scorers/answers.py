"""From a language model's text to local captions: strict reading, harmless repairs, and a reason for every refusal.

A repair changes the wrapping of an answer (see :mod:`.wrappings`, and order, case, white space), never what it says:
whatever cannot be read in exactly one way is refused, so that no malformed answer is taken for a judgement.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from realignkit.types import Likelihood, LocalCaption, Tag
from realignkit_plugins.english.words import singular, with_article

from .grounding import phrase_of
from .wrappings import FIELDS, MalformedAnswerError, brief, entries

MAX_CAPTION, _GRAMMAR_CAPTION = 200, 80
"""Characters of a caption: as it is read, and as the grammar lets a model write it."""
_OPENING, _BETWEEN = '{"objects": [', ', "likelihood": '

ANSWER_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "objects": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "tag": {"type": "string"},
                    "caption": {"type": "string"},
                    "likelihood": {"type": "string", "enum": [likelihood.value for likelihood in Likelihood]},
                },
                "required": ["tag", "caption", "likelihood"],
                "additionalProperties": False,
            },
        }
    },
    "required": ["objects"],
    "additionalProperties": False,
}
"""The JSON schema of an answer. The same for all prompts, since services compile a schema once and keep it."""


@dataclass(frozen=True)
class AnswerForm:
    """The form that a language model's answer must have, for those that can be held to it.

    Attributes:
        name: what a service calls it.
        schema: a JSON schema.
        grammar: of llama.cpp, stricter than the schema; "": the schema's.
    """

    name: str
    schema: Mapping[str, Any]
    grammar: str = ""


def objects_form(tags: Sequence[Tag]) -> AnswerForm:
    """The form of an answer about tags."""
    return AnswerForm("objects", ANSWER_SCHEMA, answer_grammar(tags))


def answer_grammar(tags: Sequence[Tag]) -> str:
    """A grammar of llama.cpp (GBNF) that admits valid answers alone: every tag once, in order, with a likelihood.

    Captions are free text without quotes and line breaks.
    """
    objects = ' ", " '.join(f"{_literal(_head(tag.name))} caption likelihood" for tag in tags)
    likelihoods = " | ".join(_literal(json.dumps(likelihood.value)) for likelihood in Likelihood)
    return "\n".join(
        [
            f"root ::= {_literal(_OPENING)} {objects} {_literal(']}')}",
            f'caption ::= "\\"" [^"\\\\\\x00-\\x1F]{{1,{_GRAMMAR_CAPTION}}} "\\""',
            f"likelihood ::= {_literal(_BETWEEN)} ({likelihoods}) {_literal('}')}",
        ]
    )


def _head(tag: str) -> str:
    return f'{{"tag": {json.dumps(tag)}, "caption": '


def _literal(text: str) -> str:
    """A GBNF string for this text (ASCII, as JSON made it)."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def read_answer(text: str, prompt: str, tags: Sequence[Tag]) -> tuple[LocalCaption, ...]:
    """One local caption per tag, in the tags' order, as the answer says.

    A certain object's caption must be a phrase of the prompt that names the object and no other (see
    :func:`phrase_of`), and is given in the prompt's own spelling. The caption of any other object is its name with an
    article, since the prompt does not describe it.

    Raises:
        MalformedAnswerError: no JSON or not only one, another form, tags left out, invented or repeated, a likelihood
            that there is not, a caption that is empty, no phrase of the prompt, or about another object.
    """
    wanted = {tag.name: tag.name for tag in tags}
    loose = _unique({tag.name: _loose(tag.name) for tag in tags})
    captions: dict[str, LocalCaption] = {}
    for entry in entries(text):
        name = _text(entry, "tag")
        tag = wanted.get(name) or loose.get(_loose(name))
        if tag is None:
            raise MalformedAnswerError(f"it names '{brief(name)}', which is not in the list", "tags")
        if tag in captions:
            raise MalformedAnswerError(f"it has '{tag}' twice", "tags")
        likelihood = _likelihood(_text(entry, "likelihood"))
        caption = _caption(_text(entry, "caption"), tag, likelihood, prompt, tags)
        captions[tag] = LocalCaption(tag, caption, likelihood)
    missing = [tag.name for tag in tags if tag.name not in captions]
    if missing:
        raise MalformedAnswerError(f"it leaves out {', '.join(map(repr, missing))}", "tags")
    return tuple(captions[tag.name] for tag in tags)


def write_answer(captions: Sequence[LocalCaption]) -> str:
    """What has been read, in the form that :func:`read_answer` takes: to be kept in place of the model's own text."""
    objects = [dict(zip(FIELDS, (c.tag, c.caption, c.likelihood.value), strict=True)) for c in captions]
    return json.dumps({"objects": objects})


def _text(entry: dict[str, Any], name: str) -> str:
    value = entry.get(name)
    if not isinstance(value, str):
        raise MalformedAnswerError(f'an object has no text for "{name}"', "form")
    return value


def _likelihood(text: str) -> Likelihood:
    try:
        return Likelihood(text.strip().lower())
    except ValueError:
        raise MalformedAnswerError(f"'{brief(text)}' is no likelihood", "likelihood") from None


def _caption(text: str, tag: str, likelihood: Likelihood, prompt: str, tags: Sequence[Tag]) -> str:
    caption = " ".join(unicodedata.normalize("NFC", text).split()).rstrip(".,;")
    if not caption or not caption.isprintable() or len(caption) > MAX_CAPTION:
        raise MalformedAnswerError(f"the caption of '{tag}' is empty, too long or unreadable", "caption")
    if likelihood is not Likelihood.CERTAIN:
        return with_article(tag)
    return phrase_of(caption, tag, prompt, [other.name for other in tags if other.name != tag])


def _loose(name: str) -> str:
    plain = " ".join(unicodedata.normalize("NFKC", name).casefold().replace("_", " ").split())
    return singular(plain)


def _unique(names: dict[str, str]) -> dict[str, str]:
    """The other way round, without what two names have in common."""
    values = list(names.values())
    return {value: name for name, value in names.items() if values.count(value) == 1}
