"""Quoted text: which words only carry quotation marks, and which are to be drawn as writing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from . import grammar as g
from .tokens import Reader, Token

_PAIRS = {
    **{'"': '"', "'": "'", "“": "”", "”": "”", "„": "“”", "‟": "”", "‘": "’", "‚": "‘’", "‛": "’"},
    **{"«": "»", "»": "«", "‹": "›", "›": "‹", "「": "」", "『": "』", "《": "》", "〈": "〉", "【": "】"},
    **{"〝": "〞〟", "❝": "❞", "❛": "❜", "″": "″"},
}
"""Each opening quotation mark with those that close it."""
_APOSTROPHES = "'‘’‚‛"
_CLITICS = frozenset(("s", "t", "re", "ve", "ll", "d", "m", "n", "em", "til", "tis", "cause"))

_SPEECH = g.words(
    """
    says say said saying reads read reading spells spelled spelling states stating writes write written wrote writing
    labelled labeled labelling labeling label titled entitled title named called dubbed captioned caption inscribed
    inscription engraved printed embroidered stamped scrawled typed word words text texts phrase letters lettering
    letter message slogan motto quote logo headline signage subtitle graffiti handwriting font typography calligraphy
    shouting shouts screaming screams whispering yelling exclaims exclaiming asks asking name
    """
)
"""Words that introduce what is written or said."""
_SURFACES = g.words(
    """
    sign signs signpost signboard poster posters banner banners billboard placard plaque sticker badge shirt t-shirt
    tshirt tee hoodie sweatshirt jersey whiteboard blackboard chalkboard book magazine newspaper note menu ticket
    marquee storefront neon screen tag bumper nameplate headstone tombstone scroll flyer leaflet envelope postcard
    certificate mug cake
    """
)
"""Things that bear writing."""
_BEARING = frozenset(
    (":", ",", "-", "–", "—", "=", "with", "bearing", "displaying", "showing", "featuring", "advertising")
)
_BETWEEN = _BEARING | g.words("the that a an of in just only : simply loudly out")
_AFTER = g.words(
    "written printed inscribed engraved embroidered spelled carved etched stamped scrawled lettering letters text"
)


_MAX_TOKENS = 300  # of one quotation; keeps the time linear in the length of the prompt


@dataclass(frozen=True)
class Quotation:
    """Tokens first .. last, marks included; ``is_writing`` where they are to be drawn as they stand."""

    first: int
    last: int
    is_writing: bool


def quotations(tokens: Sequence[Token]) -> list[Quotation]:
    """The quoted texts, and unquoted ones behind "says" and "the words", in order and without overlap."""
    quotes: list[Quotation] = []
    reader = _QuotationReader(tokens)
    i = 0
    while i < len(tokens):
        last = reader.closing(i)
        if last is not None:
            quotes.append(Quotation(i, last, reader.is_writing(i, last, quotes)))
            # What is not writing may hold quotations of its own.
            i = last + 1 if quotes[-1].is_writing else i + 1
            continue
        last = reader.unquoted(i)
        if last is not None:
            quotes.append(Quotation(i, last, True))
            i = last
        i += 1
    return quotes


class _QuotationReader(Reader):
    """Finds quotation marks that belong together and what is said about the words between them."""

    def __init__(self, tokens: Sequence[Token]) -> None:
        super().__init__(tokens)
        self.closed: set[int] = set()
        self.all_shouted = "".join(token.surface for token in tokens if token.is_word).isupper()

    def closing(self, i: int) -> int | None:
        """The token that closes the quotation that token i opens; None where it opens none."""
        if self.kind(i) != "mark" or self.word(i) not in _PAIRS or i in self.closed:
            return None
        mark = self.word(i)
        if mark in _APOSTROPHES and not self._opens(i):
            return None
        if mark == '"' and i and self.word(i - 1).isdecimal() and self._touches(i - 1):
            return None  # a 12" pizza
        for k in range(i + 1, min(i + _MAX_TOKENS, len(self.tokens))):
            if self.kind(k) == "mark" and self.word(k) in _PAIRS[mark] and k not in self.closed:
                if mark in _APOSTROPHES and not self._closes(k):
                    continue
                self.closed.add(k)
                return k if k > i + 1 else None
        return len(self.tokens) - 1 if self._speaks(i) and i + 1 < len(self.tokens) else None

    def _touches(self, i: int) -> bool:
        return i + 1 < len(self.tokens) and self.tokens[i].end == self.tokens[i + 1].start

    def _opens(self, i: int) -> bool:
        loose = i == 0 or not self._touches(i - 1) or not self.tokens[i - 1].is_word
        return loose and self._touches(i) and self.word(i + 1) not in _CLITICS and not self.word(i + 1)[:1].isdecimal()

    def _closes(self, k: int) -> bool:
        return self._touches(k - 1) and not (self._touches(k) and self.tokens[k + 1].is_word)

    def _speaks(self, i: int) -> bool:
        """Whether the words before token i introduce writing, whatever follows."""
        k = i - 1
        while k >= 0 and i - k < 6 and (self.word(k) in _BETWEEN or (self.adjective(k) and self.word(k - 1) == "in")):
            k -= 1
        return self.word(k) in _SPEECH

    def is_writing(self, first: int, last: int, before: Sequence[Quotation]) -> bool:
        """Whether the quotation is text to be drawn, and not only words that carry quotation marks."""
        if self._speaks(first):
            return True
        previous = next((q for q in reversed(before) if q.last < first), None)
        joined = previous and {self.word(k) for k in range(previous.last + 1, first)} <= {"and", "or", ",", "&", "then"}
        if previous and previous.is_writing and joined:
            return True
        inside = range(first + 1, last)
        described = all(self.adjective(k) for k in inside)
        next_one = last + 1 + (self.word(last + 1) in g.COPULAS)
        after = self.word(next_one)
        if after in _AFTER or (after in _SURFACES and next_one == last + 1 and not described):
            return True
        if after == "on" and self.word(next_one + 1) in ("it", "them") and not self.is_content(next_one + 2):
            return True
        if described or self.is_content(last + 1) or (first == 0 and last == len(self.tokens) - 1):
            return False
        k = first - 1
        while k >= 0 and self.word(k) in _BEARING:
            k -= 1
        return self.word(k) in _SURFACES or self._is_no_phrase(inside)

    def _is_no_phrase(self, inside: Sequence[int]) -> bool:
        """Whether the words are a sentence or a shout: "I love my dog", "BEWARE OF THE DOG"."""
        said = g.PRONOUNS | g.AUXILIARIES | {"!", "?"}
        surfaces = [self.tokens[k].surface for k in inside if self.tokens[k].is_word]
        shouted = not self.all_shouted and "".join(surfaces).isupper()
        return shouted or any(self.word(k) in said for k in inside)

    def unquoted(self, i: int) -> int | None:
        """The last token of text that begins at token i without quotation marks: "a sign that says no parking"."""
        word, before = self.word(i - 1), self.word(i - 2)
        subject = self.word(i - 3) if before in g.RELATIVES else before
        introduced = word in ("says", "saying") or (word == "reads" and subject in _SURFACES)
        introduced = introduced or (word in ("word", "words", "text") and before == "the")
        if not introduced or not self.is_content(i):
            return None
        stop = i
        while stop < len(self.tokens) and self._goes_on(stop):
            stop += 1
        return stop - 1

    def _goes_on(self, i: int) -> bool:
        if not self.tokens[i].is_word and self.word(i) != "'s":
            return False
        ends = self.word(i) in g.CONJUNCTIONS | g.PREPOSITIONS and self.is_determiner(i + 1)
        return not (ends or self.idiom(i) or self.word(i) in g.COPULAS)
