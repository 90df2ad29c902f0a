"""Words of a prompt with their places, and what the closed word classes say about each."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from . import grammar as g

_DETERMINERS = g.ARTICLES | g.POSSESSIVES | g.DEMONSTRATIVES | g.QUANTIFIERS
_FUNCTION_WORDS = g.PREPOSITIONS | g.CONJUNCTIONS | g.RELATIVES | g.PRONOUNS | g.AUXILIARIES | g.ADVERBS
_TOKEN = re.compile(r"[^\W_]+(?:[-'’][^\W_]+)*|[^\w\s]|_")


@dataclass(frozen=True)
class Token:
    """A word (lower case) or a punctuation mark, at ``prompt[start:end]``."""

    text: str
    start: int
    end: int

    @property
    def is_word(self) -> bool:
        """Whether it is a word or a number."""
        return self.text[0].isalnum()


def tokenize(prompt: str) -> list[Token]:
    """Words (hyphens and apostrophes included), possessive endings, and every other mark by itself."""
    tokens = []
    for match in _TOKEN.finditer(prompt):
        text, start, end = match.group().lower().replace("’", "'"), match.start(), match.end()
        if text.endswith("'s") and end - start > 2:  # a possessor is a phrase of its own: "a man|'s hat"
            tokens += [Token(text[:-2], start, end - 2), Token("'s", end - 2, end)]
        else:
            tokens.append(Token(text, start, end))
    return tokens


class Reader:
    """Looks at tokens by index; indices out of range are empty words."""

    def __init__(self, tokens: Sequence[Token]) -> None:
        self.tokens = tokens

    def word(self, i: int) -> str:
        """The word at i, lower case."""
        return self.tokens[i].text if 0 <= i < len(self.tokens) else ""

    def is_content(self, i: int) -> bool:
        """Adjective or noun, as far as closed classes can tell."""
        word = self.word(i)
        return bool(word) and self.tokens[i].is_word and not self.is_determiner(i) and word not in _FUNCTION_WORDS

    def is_determiner(self, i: int) -> bool:
        """Article, possessive, demonstrative, quantifier or number."""
        word = self.word(i)
        return word in _DETERMINERS or word in g.NUMBERS or word.isdecimal()

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
