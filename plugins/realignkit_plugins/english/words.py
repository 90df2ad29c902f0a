"""Singulars and articles of English nouns: a few rules, and a file of the plurals that follow none."""

from __future__ import annotations

import functools
import re
import unicodedata
from importlib import resources

from .grammar import NUMBERS
from .lexicon import INVARIANT, IRREGULAR, NO_ARTICLE

# Of a plural, the first that fits says how the singular ends. "glass", "bus" and "tennis" are no plurals.
_SINGULAR_ENDINGS = (
    (re.compile(r"(?<=..)ies$"), "y"),
    (re.compile(r"((?:^|[^aeo])li|wi|ni)ves$"), r"\1fe"),
    (re.compile(r"(?<=[ae]l|ar|ea|oa|oo)ves$"), "f"),
    (re.compile(r"((?:[^aeiou]o|ch|sh|ss|x|zz|[^aeo]us))es$"), r"\1"),
    (re.compile(r"men$"), "man"),
    (re.compile(r"people$"), "person"),
    (re.compile(r"children$"), "child"),
    (re.compile(r"feet$"), "foot"),
    (re.compile(r"teeth$"), "tooth"),
    (re.compile(r"(?<=[^sui])s$"), ""),
)
# By sound, not by letter: "a unicorn", "an hour". What is spelt out begins as its first letter's name does: "an x-ray".
_BEGINS_LIKE_YOU_OR_ONE = re.compile(
    r"eu(?!ler)|ew|onc?e(sie|time)?\b|oui|u[bcfghjkqrst][aeiou]|ukr|unani|uni(mo|(?![nmd]))|u(fo|k|n|s[ab]?|v)?\b"
)
_BEGINS_WITH_A_VOWEL = re.compile(
    r"[aeiou]|heir|honest|hono[ur]|hour(?!i)|[fhlmnrsx][bcdfghjklmnpqrstvwxz0-9]*\b|(fbi|mri|sos|suv)\b|y(gg|ps|tt)"
)
_SPELT_OUT = re.compile(r"(?!F[LR]|RH|S[CHKLMNPQTW])[FHLMNRSX][B-DF-HJ-NP-TV-Z][A-Z0-9]{0,2}\b|LED\b")


@functools.cache
def _irregular() -> dict[str, str]:
    lines = (resources.files(__package__) / "plurals.txt").read_text(encoding="utf-8").splitlines()
    pairs = dict(line.split() for line in lines if not line.startswith("#"))
    return {**pairs, **dict.fromkeys(INVARIANT, ""), **IRREGULAR}


def by_rule(plural: str) -> str:
    """The singular that a plural's ending tells; the word itself where it tells of no plural."""
    for ending, singular_ending in _SINGULAR_ENDINGS:
        word, changes = ending.subn(singular_ending, plural)
        if changes:
            return word
    return plural


@functools.lru_cache(maxsize=4096)
def singular(word: str) -> str:
    """The singular of a lower-case noun (its last word, when there are several); itself when it has none."""
    before, space, last = word.rpartition(" ")
    if last in _irregular():
        return f"{before}{space}{_irregular()[last] or last}"
    if len(last) < 3 or not last.isalpha():
        return word
    return f"{before}{space}{by_rule(last)}"


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
    plain = unicodedata.normalize("NFD", words[0])  # "éclair" begins with an e
    vowel = _BEGINS_WITH_A_VOWEL.match(plain) or _SPELT_OUT.match(name)
    return f"{'an' if vowel and not _BEGINS_LIKE_YOU_OR_ONE.match(plain) else 'a'} {name}"
