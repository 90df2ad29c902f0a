"""From a language model's text to local captions: strict reading, harmless repairs, and a reason for every refusal.

A repair changes the wrapping of an answer (code fences, prose around it, order, white space), never what it says:
whatever cannot be read in exactly one way is refused, so that no malformed answer is taken for a judgement.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Sequence
from typing import Any, NoReturn

from realignkit.errors import ScorerError
from realignkit.types import Likelihood, LocalCaption, Tag
from realignkit_plugins.english.words import singular, with_article

from .lexical import canonical, kinds

MAX_ANSWER = 65_536
"""Characters of an answer that are looked at; a longer one is refused."""
MAX_CAPTION = 200

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

_FENCE = re.compile(r"\s*```[a-zA-Z]*\s*\n(?P<body>.*?)\n?\s*```\s*", re.DOTALL)
_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
_ARTICLES = frozenset(("a", "an", "the"))


class MalformedAnswerError(ScorerError):
    """The model answered, and the answer cannot be used; ``reason`` says in which way. Asking again may help."""

    def __init__(self, problem: str, reason: str) -> None:
        super().__init__(problem, reason, final=True)


def read_answer(text: str, prompt: str, tags: Sequence[Tag]) -> tuple[LocalCaption, ...]:
    """One local caption per tag, in the tags' order, as the answer says.

    A certain object's caption must be made of the prompt's words; where it is a span of the prompt, the prompt's own
    spelling is used. The caption of any other object is its name with an article, since the prompt does not describe
    it.

    Raises:
        MalformedAnswerError: no JSON or not only one, another form, tags left out, invented or repeated, a likelihood
            that there is not, a caption that is empty, not of the prompt, or about another object.
    """
    entries = _entries(text)
    wanted = {tag.name: tag.name for tag in tags}
    loose = _unique({tag.name: _loose(tag.name) for tag in tags})
    found: dict[str, LocalCaption] = {}
    for entry in entries:
        name = _text(entry, "tag")
        tag = wanted.get(name) or loose.get(_loose(name))
        if tag is None:
            raise MalformedAnswerError(f"it names '{_brief(name)}', which is not in the list", "tags")
        if tag in found:
            raise MalformedAnswerError(f"it has '{tag}' twice", "tags")
        likelihood = _likelihood(_text(entry, "likelihood"))
        caption = _caption(_text(entry, "caption"), tag, likelihood, prompt, tags)
        found[tag] = LocalCaption(tag, caption, likelihood)
    missing = [tag.name for tag in tags if tag.name not in found]
    if missing:
        raise MalformedAnswerError(f"it leaves out {', '.join(map(repr, missing))}", "tags")
    return tuple(found[tag.name] for tag in tags)


def _entries(text: str) -> list[dict[str, Any]]:
    if not text.strip():
        raise MalformedAnswerError("it is empty", "empty")
    if len(text) > MAX_ANSWER:
        raise MalformedAnswerError(f"it is {len(text)} characters long", "too long")
    value = _json(text)
    objects = value.get("objects") if isinstance(value, dict) else value
    if not isinstance(objects, list) or not all(isinstance(entry, dict) for entry in objects):
        raise MalformedAnswerError(
            'it is not of the form {"objects": [{"tag": …, "caption": …, "likelihood": …}]}', "form"
        )
    return objects


def _json(text: str) -> Any:
    body = text.strip().removeprefix("\ufeff").strip()
    if fenced := _FENCE.fullmatch(body):
        body = fenced["body"].strip()
    if not body.startswith(("{", "[")):
        # Prose before or after: everything from the first to the last brace must be one value, or it is refused.
        start, stop = body.find("{"), body.rfind("}")
        if start < 0 or stop < start:
            raise MalformedAnswerError("it has no JSON", "no JSON")
        body = body[start : stop + 1]
    elif body.startswith("{"):
        body = body[: body.rfind("}") + 1] or body
    try:
        return json.loads(body, object_pairs_hook=_no_duplicates, parse_constant=_no_constants)
    except MalformedAnswerError:
        raise
    except (ValueError, RecursionError) as error:  # also numbers with thousands of digits
        raise MalformedAnswerError(f"its JSON is broken ({_brief(str(error))})", "broken JSON") from None


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({name for name, _ in pairs}) < len(pairs):
        raise MalformedAnswerError("its JSON says something twice", "broken JSON")
    return dict(pairs)


def _no_constants(name: str) -> NoReturn:
    raise MalformedAnswerError(f"its JSON has {name}", "broken JSON")


def _text(entry: dict[str, Any], name: str) -> str:
    value = entry.get(name)
    if not isinstance(value, str):
        raise MalformedAnswerError(f'an object has no text for "{name}"', "form")
    return value


def _likelihood(text: str) -> Likelihood:
    try:
        return Likelihood(text.strip().lower())
    except ValueError:
        raise MalformedAnswerError(f"'{_brief(text)}' is no likelihood", "likelihood") from None


def _caption(text: str, tag: str, likelihood: Likelihood, prompt: str, tags: Sequence[Tag]) -> str:
    caption = " ".join(unicodedata.normalize("NFC", text).split()).rstrip(".,;")
    if not caption or not caption.isprintable() or len(caption) > MAX_CAPTION:
        raise MalformedAnswerError(f"the caption of '{tag}' is empty, too long or unreadable", "caption")
    if likelihood is not Likelihood.CERTAIN:
        return with_article(tag)
    words, known = _words(caption), set(_words(prompt))
    strange = [word for word in words if word not in known | _ARTICLES]
    if strange or not set(words) - _ARTICLES:
        detail = f": '{_brief(strange[0])}' is not in it" if strange else ""
        raise MalformedAnswerError(f"the caption of '{tag}' is certain but not from the description{detail}", "caption")
    if other := _other_object(words, tag, tags):
        raise MalformedAnswerError(f"the caption of '{tag}' is about '{other}'", "caption")
    return _as_in_prompt(caption, prompt)


def _other_object(caption: list[str], tag: str, tags: Sequence[Tag]) -> str | None:
    """Another tag that a caption names without naming its own, unless the two can mean one thing (man, person)."""
    if _contains(caption, _words(tag)):
        return None
    others = (other.name for other in tags if other.name != tag and _contains(caption, _words(other.name)))
    return next((other for other in others if not _related(tag, other)), None)


def _related(one: str, other: str) -> bool:
    a, b = " ".join(_words(one)), " ".join(_words(other))
    same_noun = a.rpartition(" ")[2] == b.rpartition(" ")[2]
    return same_noun or canonical(a) == canonical(b) or canonical(a) in kinds(b) or canonical(b) in kinds(a)


def _contains(words: list[str], part: list[str]) -> bool:
    return bool(part) and any(words[i : i + len(part)] == part for i in range(len(words) - len(part) + 1))


def _words(text: str) -> list[str]:
    plain = unicodedata.normalize("NFC", text).lower()
    return [singular(word) for word in _WORD.findall(plain)]


def _as_in_prompt(caption: str, prompt: str) -> str:
    pattern = r"\W+".join(map(re.escape, _WORD.findall(caption)))
    match = re.search(rf"(?<!\w){pattern}(?!\w)", prompt, re.IGNORECASE)
    return match.group() if match else caption


def _loose(name: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", name).casefold().replace("_", " ").split())


def _unique(names: dict[str, str]) -> dict[str, str]:
    """The other way round, without what two names have in common."""
    values = list(names.values())
    return {value: name for name, value in names.items() if values.count(value) == 1}


def _brief(text: str) -> str:
    plain = "".join(c if c.isprintable() else "?" for c in text)
    return plain if len(plain) <= 60 else plain[:59] + "…"
