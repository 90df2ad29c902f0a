"""Singulars and articles: thin, never-raising wrappers around ``inflect``."""

from __future__ import annotations

import functools

import inflect

from .grammar import NUMBERS
from .lexicon import INVARIANT, IRREGULAR, NO_ARTICLE


@functools.cache
def _engine() -> inflect.engine:
    return inflect.engine()


@functools.lru_cache(maxsize=4096)
def singular(word: str) -> str:
    """The singular of a lower-case noun (its last word, when there are several); itself when it has none."""
    before, space, last = word.rpartition(" ")
    if last in IRREGULAR:
        return f"{before}{space}{IRREGULAR[last]}"
    # inflect strips an "s" from any word; these endings are hardly ever plurals.
    if last in INVARIANT or len(last) < 3 or not last.isalpha() or last.endswith(("ss", "us", "is")):
        return word
    return f"{before}{space}{_engine().singular_noun(last) or last}"


def is_plural(word: str) -> bool:
    """Whether a lower-case noun is recognisably plural."""
    return singular(word) != word


def with_article(name: str) -> str:
    """``"a desk"`` for ``"desk"``; mass nouns, plurals, and what is no word stay as they are."""
    words = name.lower().split()
    if not words or not name[:1].isalpha() or words[0] in ("a", "an", "the") or words[0] in NUMBERS:
        return name
    if words[-1] in NO_ARTICLE or is_plural(words[-1]):
        return name
    article = str(_engine().a(name)).partition(" ")[0]
    return f"{article} {name}"
