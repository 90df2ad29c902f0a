"""Words of a prompt with their places, and what the closed word classes say about each."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from . import grammar as g

Kind = Literal["word", "mark", "wrapper", "weight", "command", "foreign", "writing"]

FUNCTION_WORDS = g.PREPOSITIONS | g.CONJUNCTIONS | g.RELATIVES | g.PRONOUNS | g.AUXILIARIES | g.ADVERBS

_LATIN = "0-9A-Za-zªºÀ-ÖØ-öø-ʯ\u0300-\u036fḀ-ỿⱠ-ⱿꜢ-ꟿ²³¹¼-¾⁰-₉"
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)"
_LEXEMES = {
    # What prompts hold beside words, in the dialects of the common programs. A weight stands within a phrase, …
    "weight": "|".join(
        (
            r"<(?:lora|lyco|loha|lokr|hypernet|embedding|ti|wlr|segment)\s*:[^<>]*>",
            rf"(?<![\d:])::?\s*{_NUMBER}(?=\s*[)\]}}>])",  # (red:1.3)
            r"(?<=[^\W\d_]):\d*\.\d+(?!\w)",  # red:1.3
            r"(?<=[)\]])(?:\d*\.\d+|\d+)(?![\w.])",  # (a red cup)1.2
            r"(?:(?<=[^\W\d_][^\W\d_])|(?<=[)\]}\"'”’]))(?:\++|-{2,})(?![\w+-])",  # red++
            r"(?<=\{)\s*\d+(?:-\d+)?\$\$",  # {2$$red|blue}
        )
    ),
    # … a command between phrases.
    "command": "|".join(
        (
            r"(?<!\S)--(?!no\b)[A-Za-z]+(?:[ =]+(?:raw\b|[-+]?\d[\w.:%]*|https?://\S+))?(?!\S)",  # --ar 16:9
            rf"::\s*{_NUMBER}(?!\w)",  # a red cup::2
            r"\b(?:BREAK|ADDCOMM|ADDBASE|ADDROW|ADDCOL)\b",
        )
    ),
    "without": r"(?<!\S)--no(?!\S)",
    "hypertext": r"</?(?:b|i|u|em|strong|br|p|span|div)\s*/?>|\\(?=[()\[\]{}<>:|\\])",
    "address": r"\b(?:https?|ftp)://\S+|\bwww\.\S+|<\|[^<>|\s]*\|>",
    "placeholder": r"<[A-Za-z][\w-]*>",  # of textual inversion: "a <sks> dog"
    "word": rf"[{_LATIN}]+(?:[-'’][{_LATIN}]+)*",
    "foreign": rf"(?:(?![{_LATIN}])[^\W_])(?:(?![{_LATIN}])[^\W_]|[\u0590-\u10ff\u1700-\u1cff])*",
    "mark": r"[^\w\s]|_|\w",
}
_LEXEME = re.compile("|".join(f"(?P<{name}>{pattern})" for name, pattern in _LEXEMES.items()))
_KINDS: dict[str, Kind] = {
    **{"weight": "weight", "command": "command", "without": "word", "hypertext": "wrapper", "address": "mark"},
    **{"placeholder": "word", "word": "word", "foreign": "foreign", "mark": "mark"},
}


@dataclass(frozen=True)
class Token:
    """A word, a mark, or what else stands at ``plain_text[start:end]``.

    Attributes:
        text: lower case.
        kind: a word or number; a mark; a mark around words (a bracket, a quotation mark); prompt syntax within a phrase
            (a weight) or between phrases (``BREAK``); a word in another script than Latin; text to be drawn as writing.
        surface: as it is written.
    """

    text: str
    start: int
    end: int
    kind: Kind = "word"
    surface: str = ""

    @property
    def is_word(self) -> bool:
        """Whether it is a word or a number."""
        return self.kind == "word"


def tokenize(text: str) -> list[Token]:
    """Words (hyphens and apostrophes included), possessive endings, and every other mark by itself.

    Prompt syntax that stands for a word becomes that word.
    """
    tokens: list[Token] = []
    for match in _LEXEME.finditer(text):
        name, surface, start, end = str(match.lastgroup), match.group(), match.start(), match.end()
        lower = surface.lower().replace("’", "'") if name == "word" else surface.lower()
        if (
            name == "word" and lower.endswith("'s") and end - start > 2
        ):  # a possessor is a phrase of its own: "a man|'s hat"
            tokens.append(Token(lower[:-2], start, end - 2, "word", surface[:-2]))
            tokens.append(Token("'s", end - 2, end, "mark", surface[-2:]))
        else:
            tokens.append(Token(lower, start, end, _KINDS[name], surface))
    return _spelt_out(tokens)


def _spelt_out(tokens: Sequence[Token]) -> list[Token]:
    """``--no dog, cat`` is "without dog or cat"; ``{red|blue}``, ``[red|blue]`` and ``[blue:red:0.5]`` are choices."""
    depth, ruled_out = 0, False
    out: list[Token] = []
    for token in tokens:
        if token.text == "--no":
            ruled_out, token = True, replace(token, text="without", surface="without")
        elif token.kind == "command":
            ruled_out = False
        elif token.kind == "mark":
            depth = max(0, depth + (token.text in "[{") - (token.text in "]}"))
            if (depth and token.text in "|:") or (ruled_out and token.text == ","):
                token = replace(token, text="or", kind="word", surface="or")
        out.append(token)
    return out


class Reader:
    """Looks at tokens by index; indices out of range are empty words."""

    def __init__(self, tokens: Sequence[Token]) -> None:
        self.tokens = tokens

    def word(self, i: int) -> str:
        """The word at i, lower case."""
        return self.tokens[i].text if 0 <= i < len(self.tokens) else ""

    def kind(self, i: int) -> Kind | None:
        """What stands at i."""
        return self.tokens[i].kind if 0 <= i < len(self.tokens) else None

    def is_content(self, i: int) -> bool:
        """Adjective or noun, as far as closed classes can tell."""
        word = self.word(i)
        return bool(word) and self.tokens[i].is_word and not self.is_determiner(i) and word not in FUNCTION_WORDS

    def is_noun(self, i: int) -> bool:
        """Content that is no known adjective."""
        return self.is_content(i) and not self.adjective(i)

    def is_determiner(self, i: int) -> bool:
        """Article, possessive, demonstrative, quantifier or number."""
        word = self.word(i)
        return word in g.DETERMINERS or word in g.NUMBERS or word.isdecimal()

    def idiom(self, i: int) -> int:
        """Number of tokens of the idiom that starts at i, or 0."""
        words = tuple(self.word(k) for k in range(i, i + 4))
        return next((len(idiom) for idiom in g.IDIOMS if words[: len(idiom)] == idiom), 0)

    def adjective(self, i: int) -> int:
        """Number of tokens of the known adjective at i, or 0."""
        length = self.idiom(i)
        if length:
            return length if self.text(i, i + length) in g.ADJECTIVE_IDIOMS else 0
        word = self.word(i)
        parts = word.split("-")
        known = word in g.ADJECTIVES or (len(word) > 5 and word.endswith(g.ADJECTIVE_ENDINGS))
        return int(known or (len(parts) > 1 and all(part in g.ADJECTIVES or part == "and" for part in parts)))

    def text(self, i: int, stop: int) -> str:
        """The words from i up to stop."""
        return " ".join(self.word(k) for k in range(i, stop))

    def is_verbal(self, i: int) -> bool:
        """A participle ("sitting", "parked"), as far as its ending tells."""
        word = self.word(i)
        return (word.endswith("ing") and word not in g.ING_NOUNS) or (word.endswith("ed") and word not in g.ED_NOUNS)
