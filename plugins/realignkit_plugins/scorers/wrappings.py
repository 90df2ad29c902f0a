"""From a language model's text to the entries of its answer: thoughts cut off, fences, prose and calls seen through.

Nothing is guessed. Whatever looks like JSON must be read to its end, and when there are several values they must say
the same; anything else is refused, so that no draft and no half of an answer is taken for the answer.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from typing import Any, NoReturn

from realignkit.errors import ScorerError

MAX_ANSWER = 65_536
"""Characters of an answer that are looked at, thoughts not counted; a longer one is refused."""
FIELDS = ("tag", "caption", "likelihood")
Entries = list[dict[str, Any]]

_MAX_DEPTH = 8  # of calls and texts within each other
_MAX_FAILURES = 20  # to read braces around a fenced answer, each of which costs the length of the text
_CALLS = ("arguments", "parameters", "function", "function_call", "tool_calls")

_NAMES = r"(?:seed:|antml:)?(?:think(?:ing)?|thoughts?|reason(?:ing)?|analysis|reflection|scratchpad)"
_THOUGHT = re.compile(
    rf"(?P<opens><{_NAMES}(?:\s[^<>]*)?>|\[{_NAMES}\]|◁think▷|<\|begin_of_thought\|>|<\|START_THINKING\|>"
    r"|<\|inner_prefix\|>|<\|channel>)"
    rf"|(?P<closes></{_NAMES}\s*>|\[/{_NAMES}\]|◁/think▷|<\|end_of_thought\|>|<\|END_THINKING\|>"
    r"|<\|inner_suffix\|>|<channel\|>)",
    re.IGNORECASE,
)
"""How models mark what they think: DeepSeek, Qwen, Mistral, Kimi, Seed, Cohere, Apertus, Gemma, and relatives."""
_CHANNEL = re.compile(
    r"<\|channel\|>\s*(?P<name>\w+)(?P<to>[^<]*)(?:<\|constrain\|>[^<]*)?<\|message\|>"
    r"(?P<text>.*?)(?=<\|(?:end|return|call|start|channel)\|>|\Z)",
    re.DOTALL,
)
"""One message of OpenAI's harmony format."""
_BARE_CHANNELS = re.compile(
    r"\s*(?:analysis|commentary)(?=\w|<\|message\|>)"
)  # harmony whose tokens a server has left out
_FENCE = re.compile(r"(?P<mark>```|~~~)(?:[ \t]*[\w+-]*\s)?(?P<body>.*?)(?P=mark)", re.DOTALL)
_ENDS = r"</s>|<\|(?:im_end|eot_id|endoftext|end|return|end_of_text)\|>|<end_of_turn>|<turn\|>|<｜end▁of▁sentence｜>"
_START = re.compile(rf"[{{\[}}\]]|{_ENDS}")
_PLACEHOLDER = re.compile(r"[{\[][^{}\[\]\"':,\n]{1,60}[}\]]")  # "{tag}", "[INST]": prose, not JSON
_LEXEME = re.compile(
    r"""(?P<string>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*'|[“”„][^“”„"\\\n]*[“”„])"""
    r"""|(?P<comment>//[^\n]*|/\*.*?(?:\*/|\Z))|(?P<bracket>[{}\[\]])""",
    re.DOTALL,
)
_TRAILING = re.compile(r"""(?P<string>"(?:[^"\\]|\\.)*")|,(?P<close>\s*[}\]])""")


class MalformedAnswerError(ScorerError):
    """The model answered, and the answer cannot be used; ``reason`` says in which way. Asking again may help."""

    def __init__(self, problem: str, reason: str) -> None:
        super().__init__(problem, reason, final=True)


def entries(text: str) -> Entries:
    """The objects of an answer's list, each with texts for ``tag``, ``caption`` and ``likelihood``.

    Raises:
        MalformedAnswerError: there is no such list, or not only one.
    """
    return _read(text, 0)


def only_object(text: str) -> dict[str, Any]:
    """The JSON object that an answer is, from the first brace to the last; empty where there is none.

    Raises:
        MalformedAnswerError: the model has not finished to think, or the JSON is broken.
    """
    text = thoughtless(text)
    start, end = text.find("{"), text.rfind("}")
    try:
        value = json.loads(text[start : end + 1]) if start >= 0 else None
    except (ValueError, RecursionError) as error:
        raise MalformedAnswerError(f"its JSON is broken ({brief(str(error))})", "broken JSON") from None
    return value if isinstance(value, dict) else {}


def thoughtless(text: str) -> str:
    """An answer without what the model thought before it.

    Raises:
        MalformedAnswerError: the model has not finished to think.
    """
    if messages := list(_CHANNEL.finditer(text)):
        return _final(messages)
    if _BARE_CHANNELS.match(text):
        _, final, text = text.rpartition("assistantfinal")
        if not final:
            raise _unfinished()
    kept: list[str] = []
    at, thinking = 0, False
    for mark in _THOUGHT.finditer(text):
        if mark["opens"]:
            if not thinking:
                kept.append(text[at : mark.start()])
            thinking = True
        else:
            if not thinking:  # opened before the answer began, by the model's chat template
                kept.clear()
            at, thinking = mark.end(), False
    if thinking:
        raise _unfinished()
    return "".join([*kept, text[at:]])


def _final(messages: list[re.Match[str]]) -> str:
    final = [message["text"] for message in messages if message["name"] == "final"]
    calls = [message["text"] for message in messages if "to=" in message["to"]]
    if not final and not calls:
        raise _unfinished()
    return "\n".join(final or calls)


def _unfinished() -> MalformedAnswerError:
    return MalformedAnswerError("it ends before the model has finished to think", "truncated")


def _read(text: str, depth: int) -> Entries:
    value = _whole(text)
    if value is not None:
        return _unwrapped(value, depth)
    text = thoughtless(text)
    if not text.strip():
        raise MalformedAnswerError("it is empty", "empty")
    if len(text) > MAX_ANSWER:
        raise MalformedAnswerError(f"it is {len(text)} characters long", "too long")
    values = _candidates(text, depth)
    if not values:
        raise MalformedAnswerError("it has no JSON", "no JSON")
    if len(values) > 1 and all(map(_is_entry, values)):  # JSON lines
        return _unwrapped(values, depth)
    answers = [_unwrapped(value, depth) for value in values]
    if any(_essence(answer) != _essence(answers[0]) for answer in answers):
        raise MalformedAnswerError("it holds several JSON values that differ", "broken JSON")
    return answers[0]


def _whole(text: str) -> Any:
    """The value, where the text is JSON and nothing else; None otherwise."""
    body = text.strip().removeprefix("\ufeff").strip()
    if not body.startswith(("{", "[", '"')) or len(body) > MAX_ANSWER:
        return None
    try:
        return _DECODER.decode(body)
    except (ValueError, RecursionError):
        return None


def _candidates(text: str, depth: int) -> list[Any]:
    """The values of which the answer must be one, or which must all say the same."""
    blocks = [block for block in _FENCE.finditer(text) if set(block["body"]) & set("{[")]
    if len(blocks) != 1:
        return _meant(list(_values(text)))
    before, behind = text[: blocks[0].start()], text[blocks[0].end() :]
    # What is around a fenced answer may have any braces, as long as it is no second answer.
    others = [value for part in (before, behind) for value in _values(part, strict=False)]
    return [*_meant(list(_values(blocks[0]["body"]))), *(value for value in others if _is_answer(value, depth))]


def _meant(values: list[Any]) -> list[Any]:
    """Without lists of mere words or numbers ("the objects are ["book", "pen"]"), where there is something else."""
    return [value for value in values if isinstance(value, dict) or any(map(_is_entry, value))] or values


def _values(text: str, *, strict: bool = True) -> Iterator[Any]:
    """Every JSON array or object in a text, outermost ones; ``strict``: what only looks like one is refused."""
    at = failures = 0
    while start := _START.search(text, at):
        if start.group() not in "{[]}":  # the end of the model's turn: what comes behind it is nobody's answer
            if text[: start.start()].strip():
                return
            at = start.end()
            continue
        if placeholder := _PLACEHOLDER.match(text, start.start()):
            at = placeholder.end()
            continue
        try:
            value, at = _value(text, start.start())
        except MalformedAnswerError:
            failures += 1
            if strict or failures > _MAX_FAILURES:
                raise
            at = text.find("\n", start.end()) + 1 or len(text)
            continue
        yield value


def _value(text: str, start: int) -> tuple[Any, int]:
    """The JSON value at ``start``, and where it ends."""
    try:
        return _DECODER.raw_decode(text, start)
    except (ValueError, RecursionError) as error:
        problem = error
    stop = _closing(text, start)
    if stop is not None:
        with contextlib.suppress(ValueError, RecursionError):
            return _DECODER.decode(_plain_json(text[start:stop])), stop
    reason = str(problem) if isinstance(problem, ValueError) else "it is nested too deeply"
    raise MalformedAnswerError(f"its JSON is broken ({brief(reason)})", "broken JSON")


def _closing(text: str, start: int) -> int | None:
    """The end of the bracket that opens at ``start``, or None; brackets in strings and comments do not count."""
    depth = 0
    for lexeme in _LEXEME.finditer(text, start):
        if lexeme["bracket"]:
            depth += 1 if lexeme["bracket"] in "{[" else -1
            if depth <= 0:
                return lexeme.end()
    return None


def _plain_json(text: str) -> str:
    """JSON without comments, trailing commas, single and typographic quotes: all that can be read in one way only."""
    quoted = _LEXEME.sub(lambda m: _double_quoted(m["string"]) if m["string"] else m["bracket"] or " ", text)
    return _TRAILING.sub(lambda m: m["string"] or m["close"], quoted)


def _double_quoted(string: str) -> str:
    if string[0] == "'":
        inner = re.sub(r"\\.|\"", lambda m: {"\\'": "'", '"': '\\"'}.get(m.group(), m.group()), string[1:-1])
        return f'"{inner}"'
    return f'"{string[1:-1]}"'


def _unwrapped(value: Any, depth: int) -> Entries:
    """The list of objects in a JSON value, out of the calls, texts and single keys around it."""
    if depth <= _MAX_DEPTH:
        if isinstance(value, str):
            return _read(value, depth + 1)
        if isinstance(value, list) and (not value or all(map(_is_entry, value))):
            return [_lower_keys(entry) for entry in value]
        if isinstance(value, list) and all(isinstance(item, dict) for item in value):  # of calls
            return [entry for item in value for entry in _unwrapped(item, depth + 1)]
        if isinstance(value, dict):
            if _is_entry(value):
                return [_lower_keys(value)]
            keyed = _lower_keys(value)
            if isinstance(objects := keyed.get("objects"), list | str):
                return _unwrapped(objects, depth + 1)
            for name in _CALLS:
                if name in keyed:
                    return _unwrapped(keyed[name], depth + 1)
            if len(keyed) == 1 and isinstance(only := next(iter(keyed.values())), list | dict):
                return _unwrapped(only, depth + 1)
    raise MalformedAnswerError('it is not of the form {"objects": [{"tag": …, "caption": …, "likelihood": …}]}', "form")


def _is_answer(value: Any, depth: int) -> bool:
    try:
        return bool(_unwrapped(value, depth))
    except MalformedAnswerError:
        return False


def _is_entry(value: Any) -> bool:
    return isinstance(value, dict) and any(name.casefold() == "tag" for name in value)


def _lower_keys(value: dict[str, Any]) -> dict[str, Any]:
    return _no_duplicates([(name.casefold(), item) for name, item in value.items()])


def _essence(answer: Entries) -> str:
    return json.dumps([[entry.get(field) for field in FIELDS] for entry in answer])


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({name for name, _ in pairs}) < len(pairs):
        raise MalformedAnswerError("its JSON says something twice", "broken JSON")
    return dict(pairs)


def _no_constants(name: str) -> NoReturn:
    raise MalformedAnswerError(f"its JSON has {name}", "broken JSON")


_DECODER = json.JSONDecoder(object_pairs_hook=_no_duplicates, parse_constant=_no_constants)


def brief(text: str) -> str:
    """A foreign text for a message: on one line, printable, of bearable length."""
    plain = "".join(c if c.isprintable() else "?" for c in text)
    return plain if len(plain) <= 60 else plain[:59] + "…"
