"""A prompt as a sequence of words: what is wrapped around them is seen through, what is to be written is set apart.

Brackets and quotation marks, underscores, asterisks and weights may stand around the words of a phrase ("a (red:1.3)
cup", 'a "red" cup', "red_cup"). They vanish where they stand within a phrase, and stay, ending it, where words on both
sides would run together ("a cat (dog behind it)"). Text that the picture is to show in writing ('a sign that says "red
dog"') becomes one token that names nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from .plain_text import PlainText
from .quotations import quotations
from .tokens import Reader, Token, tokenize

_CLOSING = dict(zip("([{", ")]}", strict=True))
_EMPHASIS = frozenset("_*`~\\")
_NOT = frozenset(("not", "never"))


@dataclass(frozen=True)
class Reading:
    """What a prompt says.

    Attributes:
        plain: its characters; tokens' places refer to its ``text``.
        tokens: its words, marks and writings, in order.
        syntax: the prompt syntax that was read over, as it stands in the prompt: "(red:1.3)", "BREAK", "--ar 16:9".
    """

    plain: PlainText
    tokens: tuple[Token, ...]
    syntax: tuple[str, ...] = ()

    @classmethod
    def of(cls, prompt: str) -> Reading:
        """Read any string."""
        plain = PlainText.of(prompt)
        tokens = tokenize(plain.text)
        syntax = tuple(dict.fromkeys(_syntax(plain.text, tokens)))
        return cls(plain, tuple(_without_denials(_unwrapped(tokens))), syntax)

    def phrase(self, first: int, stop: int) -> str:
        """The words of tokens first .. stop - 1."""
        return self._as_it_stands(first, stop) if self.has(first, stop) else join(self.tokens[first:stop])

    def has(self, first: int, stop: int) -> bool:
        """Whether tokens first .. stop - 1 stand in the prompt with nothing else between them."""
        words = "".join(token.surface for token in self.tokens[first:stop])
        return "".join(self._as_it_stands(first, stop).split()) == "".join(words.split())

    def _as_it_stands(self, first: int, stop: int) -> str:
        return self.plain.text[self.tokens[first].start : self.tokens[stop - 1].end]


def join(tokens: Sequence[Token]) -> str:
    """Tokens as a text, with spaces where English has them."""
    text = ""
    for token in tokens:
        space = " " if text and not text.endswith("(") and token.text not in (",", "'s", *".;:!?)") else ""
        text += f"{space}{token.surface}"
    return text


def _syntax(text: str, tokens: Sequence[Token]) -> Iterator[str]:
    """Weights and commands as they stand in the text, with the word that they are written to."""
    for i, token in enumerate(tokens):
        start, end = token.start, token.end
        written = text[start:end]
        choice = token.text == "or" and written in ("|", ":")
        doubled = token.kind == "mark" and written in ("(", "[", "{") and text[end : end + 1] == written
        if token.kind not in ("weight", "command") and not choice and not doubled:
            continue
        if i and tokens[i - 1].is_word and tokens[i - 1].end == start:
            start = tokens[i - 1].start
        if doubled or choice:
            end = next((after.end for after in tokens[i + 1 : i + 3] if after.is_word), end)
        yield text[start:end].strip()


def _unwrapped(tokens: Sequence[Token]) -> list[Token]:
    """Tokens without weights and wrappers, quotations of text to be drawn made one."""
    tokens = [token for token in tokens if token.kind not in ("weight", "wrapper") and token.text not in _EMPHASIS]
    quoted = {quotation.first: quotation for quotation in quotations(tokens)}
    out: list[Token] = []
    closing: list[tuple[str | int, bool, bool]] = []  # for each open wrapper what closes it, whether it is kept, where
    i = 0
    while i < len(tokens):
        token, quotation = tokens[i], quoted.get(i)
        if quotation is not None and quotation.is_writing:
            surface = join(tokens[i : quotation.last + 1])
            out.append(Token('"', token.start, tokens[quotation.last].end, "writing", surface))
            i = quotation.last + 1
            continue
        mark = token.text if token.kind == "mark" else ""
        if quotation is not None or mark in _CLOSING:
            kept = bool(out) and Reader(out).is_noun(len(out) - 1)
            closing.append((_CLOSING[mark] if quotation is None else quotation.last, kept, _in_phrase(out)))
        elif closing and closing[-1][0] in (i, mark):
            _, kept, within = closing.pop()
            kept = kept or not _closes_unseen(out, tokens, i, within)
        else:
            kept = True
        if kept:
            out.append(token)
        i += 1
    return out


def _in_phrase(out: Sequence[Token]) -> bool:
    """Whether the phrase so far still waits for its noun."""
    reader, last = Reader(out), len(out) - 1
    return reader.is_determiner(last) or bool(reader.is_content(last) and reader.adjective(last))


def _closes_unseen(out: Sequence[Token], tokens: Sequence[Token], i: int, within: bool) -> bool:
    """Whether words before and after the closing mark at i may stand side by side."""
    reader, after = Reader(out), Reader(tokens)
    last = len(out) - 1
    if not reader.is_noun(last) or reader.is_verbal(last):
        return True
    alone = not reader.is_content(last - 1)
    return after.is_noun(i + 1) and (within or alone)


def _without_denials(tokens: Sequence[Token]) -> list[Token]:
    """Leave out what a thing is said not to be like: "a red, not blue, cup" is a red cup."""
    reader = Reader(tokens)
    out: list[Token] = []
    i = 0
    while i < len(tokens):
        j = i + (reader.word(i) in (",", "but", "and") and reader.word(i + 1) in _NOT)
        stop = j + 1
        if reader.word(j) in _NOT and _in_phrase(out):
            while length := reader.adjective(stop):
                stop += length + (
                    reader.word(stop + length) in ("or", "nor", "and") and bool(reader.adjective(stop + length + 1))
                )
            if stop > j + 1:
                i = stop + (reader.word(stop) == ",")
                continue
        out.append(tokens[i])
        i += 1
    return out
