"""Noun phrases of an image prompt, with their attributes, by rules.

Prompts are short and concrete ("a red book and a yellow pen", "two brown dogs to the left of a blue car"), so a
chunker over closed word classes does without a statistical parser: whatever is no function word, verb or known
adjective is a noun, and the last one of a chunk is its head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from . import grammar as g
from .lexicon import COMPOUNDS
from .mentions import Chunk, negated_lists, one_mention_each
from .predicates import Predicates
from .reading import Reading
from .tokens import Reader, Token
from .words import is_plural, singular, with_article

_MAX_WORDS = 24  # of one phrase; keeps the time linear in the length of the prompt
_MAX_DEPTH = 6  # "a pair of a pair of …": nobody means that, and recursion must end
_COUNT_OF_MEASURE = {"pair": 2, "couple": 2, "trio": 3}
_ARRANGEMENTS = frozenset(("row", "line", "circle", "pile", "group", "stack"))


@dataclass(frozen=True)
class NounPhrase:
    """An object that a prompt names.

    Attributes:
        text: the phrase in plain words. It stands so in the prompt, unless there is markup within ("a (red:1.3) cup")
            or an attribute comes from elsewhere ("the cup and the box are red": "the red cup").
        head: the noun, lower case and singular; of several words where it is a compound ("cell phone").
        attributes: what the prompt says it is like, lower case, in order ("back to back", "wooden"); no numbers.
        count: how many; None for a plural without a number.
        start, end: character offsets in the prompt of the phrase with its markup.
        negated: the prompt says that there is none ("without a hat", "no dogs").
    """

    text: str
    head: str
    attributes: tuple[str, ...]
    count: int | None
    start: int
    end: int
    negated: bool = False


def noun_phrases(prompt: str | Reading) -> list[NounPhrase]:
    """The objects that a prompt names, in order. Never raises; empty when it names none.

    Words that only frame or place ("a photo of", "on the left side of", "a group of") are no phrases of their own; text
    that the picture is to show in writing is none either.
    """
    reading = prompt if isinstance(prompt, Reading) else Reading.of(prompt)
    tokens = reading.tokens
    predicates = Predicates(tokens, lambda i: _Parser(tokens, ()).content(i, True))
    chunks: list[Chunk] = []
    position = 0
    while position < len(tokens):
        chunk = _Parser(tokens, chunks).parse(position)
        if chunk is None:
            position += 1
            continue
        chunks.append(chunk)
        position = max(predicates.attach(chunks), position + 1)
    chunks = one_mention_each(tokens, negated_lists(tokens, chunks))
    return [_phrase(reading, chunk) for chunk in chunks if chunk.listed]


def _phrase(reading: Reading, chunk: Chunk) -> NounPhrase:
    first, stop = reading.tokens[chunk.first], reading.tokens[chunk.stop - 1]
    start, end = reading.plain.place(first.start, stop.end)
    return NounPhrase(_text(reading, chunk), chunk.head, chunk.attributes, chunk.count, start, end, chunk.negated)


def _text(reading: Reading, chunk: Chunk) -> str:
    if chunk.stated:
        return _with_stated(reading, chunk)
    text = reading.phrase(chunk.first, chunk.stop)
    if not reading.has(chunk.first, chunk.stop) and reading.tokens[chunk.first].text in g.ARTICLES:
        # In 'a "red dog"' the words without the article stand in the prompt as they are.
        return reading.phrase(chunk.content, chunk.stop) if reading.has(chunk.content, chunk.stop) else text
    return text


def _with_stated(reading: Reading, chunk: Chunk) -> str:
    """The phrase with what is said of it elsewhere before its noun: "a big cup", said to be red, is "a big red cup"."""
    reader, noun = Reader(reading.tokens), chunk.content
    while noun < chunk.stop and (length := reader.adjective(noun) or int(reader.word(noun) in (",", "and", "&"))):
        noun += length
    noun = chunk.content if noun >= chunk.stop else noun
    parts = (reading.phrase(chunk.content, noun) if noun > chunk.content else "", *chunk.stated)
    described = " ".join(part for part in (*parts, reading.phrase(noun, chunk.stop)) if part)
    before = [token.surface for token in reading.tokens[chunk.first : chunk.content]]
    before = before[before[:1] in (["both"], ["Both"]) and len(before) > 1 :]
    return (
        with_article(described)
        if [word.lower() for word in before] in (["a"], ["an"])
        else " ".join([*before, described])
    )


class _Parser(Reader):
    """Recognises one noun phrase at a position, given those found before it."""

    def __init__(self, tokens: Sequence[Token], before: Sequence[Chunk], depth: int = 0) -> None:
        super().__init__(tokens)
        self.before = before
        self.depth = depth

    def ends_phrase(self, i: int) -> bool:
        """Whether a phrase found before stops right before token i."""
        return bool(self.before) and self.before[-1].stop == i

    # -- a phrase ---------------------------------------------------------------------------------------------

    def parse(self, first: int) -> Chunk | None:
        """The phrase that starts exactly at ``first``, or None."""
        i, count, negated, counted = self._determiners(first)
        determined = i > first
        content, stop = self.content(i, determined)
        if not content:
            return None
        chunk = self._headed(first, content, count, determined)
        if chunk is None:
            return self._shared_head(first, content, stop, count)
        if not counted and is_plural(self.word(content[-1][0])):
            chunk = replace(chunk, count=None)
        chunk = replace(chunk, negated=negated or self._is_ruled_out(first), content=i)
        return self._framed(chunk)

    def _determiners(self, i: int) -> tuple[int, int | None, bool, bool]:
        count: int | None = 1
        negated = counted = False
        relative = self.word(i) == "that" and self.ends_phrase(i)
        while self.is_determiner(i) and not relative:
            word = self.word(i)
            if word in g.NUMBERS or word.isdecimal():
                count, counted = g.NUMBERS.get(word, int(word[:9]) if word.isdecimal() else 1), True
            negated = negated or word == "no"
            i += 1
            if self.word(i) == "of" and self.is_determiner(i + 1):  # "one of the dogs"
                i += 1
        return i, count, negated, counted

    def content(self, i: int, determined: bool) -> tuple[list[tuple[int, int, str]], int]:
        """Words of the phrase as (first token, stop, role), role in {adjective, adverb, noun}."""
        words: list[tuple[int, int, str]] = []
        start = i
        while i < len(self.tokens) and len(words) < _MAX_WORDS:
            if self.kind(i) == "writing" and self.is_noun(i + 1) and (words or determined):
                i += 1  # a "STOP" sign
                continue
            has_noun = any(role == "noun" for _, _, role in words)
            length = self.adjective(i)
            if self.idiom(i) and (not length or has_noun or not self.is_content(i + length)):
                break
            if length:
                words.append((i, i + length, "adjective"))
                i += length
                continue
            word = self.word(i)
            if word in (",", "and", "&", "or", "/"):
                if not words or has_noun or not self._list_goes_on(words[-1], i):
                    break
                i += 1
                continue
            if word in ("one", "ones") and words and not has_noun:
                words.append((i, i + 1, "noun"))
                i += 1
                break
            role = self._role(i, has_noun, bool(words) or determined, start, words)
            if role is None:
                break
            words.append((i, i + 1, role))
            i += 1
        while words and words[-1][2] == "adverb":
            words.pop()
        return words, words[-1][1] if words else i

    def _list_goes_on(self, last: tuple[int, int, str], i: int) -> bool:
        """Whether the list of adjectives goes on after the comma or conjunction at token i."""
        if not self.is_content(i + 1) and not self.adjective(i + 1):
            return False
        nounable = self.text(last[0], last[1]) in g.NOUNABLE
        after = self.adjective(i + 1)
        if self.word(i) == "," or nounable:  # "an orange and white cat", but "an orange and banana"
            beyond = i + 1 + after
            return bool(after) and (self.is_content(beyond) or self.word(beyond) in (",", "and", "&", "or"))
        return True

    def _role(
        self, i: int, has_noun: bool, begun: bool, start: int, words: Sequence[tuple[int, int, str]]
    ) -> str | None:
        """What token i is within the phrase; None where the phrase stops before it."""
        word = self.word(i)
        more = self.is_content(i + 1)
        if word in g.INTENSIFIERS:
            return "adverb" if more and not has_noun else None
        # A verb right after a subject, where no determiner says otherwise.
        subject = not begun and (self.ends_phrase(start) or self.word(start - 1) in g.RELATIVES | g.PRONOUNS | {"to"})
        if word.endswith("ing") and len(word) > 4 and word not in g.ING_NOUNS:
            return "adjective" if more and not has_noun and (begun or i == 0) else None
        if word in g.PREDICATE_PARTICIPLES and has_noun:
            return None  # "a car painted red"
        if word.endswith("ed") and len(word) > 4 and word not in g.ED_NOUNS:
            return "adjective" if more and not subject else None
        if not self.is_content(i):
            return None
        if word.endswith("ly") and len(word) > 4 and word not in g.LY_NOUNS_AND_ADJECTIVES:
            return "adverb" if more and not has_noun else None
        if word in g.VERBS_S or word in g.VERBS_BASE:
            if subject:
                return None
            if has_noun:
                previous = self.word(words[-1][0])
                compound = f"{previous} {singular(word)}" in COMPOUNDS
                agrees = is_plural(previous) == (word in g.VERBS_BASE)
                return None if agrees and not compound else "noun"
        return "noun"

    def _headed(
        self, first: int, content: Sequence[tuple[int, int, str]], count: int | None, determined: bool
    ) -> Chunk | None:
        nouns = [k for k, (_, _, role) in enumerate(content) if role == "noun"]
        if nouns:
            k = nouns[-1]
        elif (
            self.text(*content[-1][:2]) in g.NOUNABLE
            and (determined or first == 0)
            and self.kind(content[-1][1]) != "foreign"  # "an orange 杯子" is no orange
        ):
            k = len(content) - 1
        else:
            return None
        begin, head = k, singular(self.text(*content[k][:2]))
        if head == "one" and self.before:
            head = self.before[-1].head
        for width in (3, 2):
            low = k - width + 1
            if low >= 0 and content[k][1] - content[low][0] == width:
                compound = singular(self.text(content[low][0], content[k][1]))
                if compound in COMPOUNDS:
                    begin, head = low, compound
                    break
        attributes = [
            self.text(a, b)
            for n, (a, b, role) in enumerate(content)
            if (n < begin or n > k) and role != "adverb" and self.word(a) not in ("colored", "coloured")
        ]
        chunk = Chunk(first, content[-1][1], head, tuple(attributes), count)
        words = {self.word(i) for a, b, _ in content for i in range(a, b)}
        placed = self.word(first - 1) in g.PREPOSITIONS or self.word(first) not in ("a", "an", "one", "two")
        if words <= g.POSITIONS and placed:
            return replace(chunk, listed=False)
        if head in _ARRANGEMENTS and self.word(first - 1) == "in" and self.word(chunk.stop) != "of":
            return replace(chunk, listed=False)
        return chunk

    def _shared_head(
        self, first: int, content: Sequence[tuple[int, int, str]], stop: int, count: int | None
    ) -> Chunk | None:
        """In "a red and a blue car" the first colour borrows the noun of the second."""
        if self.depth >= _MAX_DEPTH or self.word(stop) not in ("and", "or", "&") or not self.is_determiner(stop + 1):
            return None
        other = _Parser(self.tokens, self.before, self.depth + 1).parse(stop + 1)
        if other is None or not other.attributes:
            return None
        adjectives = tuple(self.text(a, b) for a, b, role in content if role == "adjective")
        total = count + other.count if count is not None and other.count is not None else None
        return replace(other, first=first, attributes=adjectives + other.attributes, count=total)

    def _is_ruled_out(self, first: int) -> bool:
        """Whether the words before token ``first`` say that there is none."""
        before = self.word(first - 1)
        if before in g.NEGATIONS or (self.word(first - 2), before) in g.NEGATIVE_PAIRS:
            return True
        if before in ("or", "nor"):  # in "without a cat or a dog" there is no dog either
            return self.ends_phrase(first - 1) and self.before[-1].negated
        # "does not have a lid"
        verb = before in g.POSSESSION or before in g.VERBS_BASE
        return verb and (self.word(first - 2) in g.NOT or self.word(first - 2).endswith("n't"))

    def _framed(self, chunk: Chunk) -> Chunk:
        """A "group of people" is people, a "photo of …" no object at all."""
        if self.word(chunk.stop) != "of" or self.depth >= _MAX_DEPTH:
            return chunk
        if chunk.head in g.DEPICTIONS:
            return replace(chunk, stop=chunk.stop + 1, listed=False)
        if chunk.head in g.MEASURES or self.word(chunk.stop - 1) in g.MEASURES:
            inner = _Parser(self.tokens, self.before, self.depth + 1).parse(chunk.stop + 1)
            if inner is not None and inner.listed:
                return replace(inner, first=chunk.first, count=_COUNT_OF_MEASURE.get(chunk.head), negated=chunk.negated)
        return chunk
