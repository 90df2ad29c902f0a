"""What sentences say about objects: "the cup is red", "which is blue", "painted green", "made of wood"."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from . import grammar as g
from .mentions import Chunk
from .tokens import Reader, Token
from .words import is_plural

_PLURAL_COPULAS = g.words("are were look appear seem")
_MODALS = g.words("should must shall will would can could may might has have had needs to")
_BREAKS = g.words(", . ; ! and & both while but")
_COLOUR_NOUNS = g.words("colour color")
_LINKS = (g.PREPOSITIONS | g.words("front top")) - g.words("as than like before after per via except versus vs")
"""Words that join a phrase to the one it is a part of."""


@dataclass(frozen=True)
class _Predicate:
    """Attributes behind a phrase, up to token ``stop``.

    ``of_sentence``: they are its subject's, not the neighbour's; ``plural``: of several subjects, ``respectively`` one
    each; ``apart``: other words stand between that must not be part of a caption.
    """

    attributes: tuple[str, ...]
    stop: int
    of_sentence: bool = False
    plural: bool = False
    respectively: bool = False
    apart: bool = False


class Predicates(Reader):
    """Gives phrases the attributes that the words behind them state.

    Args:
        tokens: of the prompt.
        content: reads the words of a phrase at a token: (first, stop, role) of each, and where they stop.
    """

    def __init__(
        self, tokens: Sequence[Token], content: Callable[[int], tuple[list[tuple[int, int, str]], int]]
    ) -> None:
        super().__init__(tokens)
        self._content = content

    def attach(self, chunks: list[Chunk]) -> int:
        """Complete the last of the chunks, or the one that the sentence is about; where to read on.

        A relative clause or a participle describes the phrase before it, a sentence its subject: in "the lid of the red
        cup is blue" the lid. Several subjects share a plural's attributes.
        """
        chunks[-1] = self._inverted(chunks[-1])
        at = chunks[-1].stop
        while predicate := self._predicate(at, chunks[-1]) or self._of_pronoun(at, chunks):
            about = [len(chunks) - 1]
            if predicate.of_sentence:
                about = [self._with_colour(chunks, k) for k in self._subjects(chunks, predicate.plural)]
            if not all(chunks[k].listed for k in about):
                break
            each = [predicate.attributes] * len(about)
            if predicate.respectively and len(about) == len(predicate.attributes):
                each = [(attribute,) for attribute in predicate.attributes]
            right_behind = about == [len(chunks) - 1] and at == chunks[-1].stop and not predicate.apart
            for k, attributes in zip(about, each, strict=True):
                chunks[k] = _described(chunks[k], attributes, predicate.of_sentence, not right_behind)
            if right_behind:
                chunks[-1] = replace(chunks[-1], stop=predicate.stop)
            at = predicate.stop
        return at

    def _predicate(self, i: int, chunk: Chunk) -> _Predicate | None:
        """What the words from token i on say about the chunk before them, or about the subject that it belongs to."""
        if self.word(i) == "(" or self.word(i) in (":", "="):
            return self._in_brackets(i)
        j = i + 1 if self.word(i) == "," and self.word(i + 1) in g.RELATIVES | {"both"} else i
        j += self.word(j) in ("both", "all") and self.word(j + 1) == "of"
        relative = self.word(j) in g.RELATIVES
        j += relative
        modal = j
        while self.word(modal) in _MODALS:
            modal += 1
        if modal > j and self.word(modal) in ("be", "been"):
            j, reduced = modal, False
        else:
            reduced = self.word(j) in ("being", "been")  # "a cake being sliced"
        copula = self.word(j) in g.COPULAS or self.word(j) == "'s"
        both = not relative and j > i and self.word(j) == "both"
        plural = self.word(j) in _PLURAL_COPULAS or both
        if copula or both:
            j = self._past_adverbs(j + 1)
        elif j > i:
            return None
        apart = False
        if copula and self.word(j) in g.NOT:  # "is not red", or "is not red but blue"
            _, but = self.adjectives(j + 1)
            if self.word(but) != "but":
                return None
            j, apart = but + 1, True
        of_sentence = (copula and not relative and not reduced) or (plural and not is_plural(self.word(chunk.stop - 1)))
        listed = self._attributes(j, copula or both)
        if listed is None:
            return None
        attributes, stop = listed
        respectively = self.word(stop) == "respectively" or self.words_at(stop, ",", "respectively")
        return _Predicate(attributes, stop, of_sentence, plural, respectively, apart)

    def _of_pronoun(self, i: int, chunks: Sequence[Chunk]) -> _Predicate | None:
        """In "A cup. It is red." there is one thing that "it" can mean."""
        j = i
        while self.word(j) in (".", ",", ";", "!", "and"):
            j += 1
        if self.word(j) not in ("it", "they") or self.word(j + 1) not in g.COPULAS | {"'s"}:
            return None
        about = self._subjects(chunks, plural=True)
        alone = about == list(range(about[0], len(chunks))) and (self.word(j) == "they" or len(about) == 1)
        starts = about[0] == 0 or self._between(chunks[about[0] - 1], chunks[about[0]]) & {".", ";", "!"}
        predicate = self._predicate(j + 1, chunks[-1]) if alone and starts else None
        return predicate and replace(predicate, of_sentence=True, plural=self.word(j) == "they", apart=True)

    def words_at(self, i: int, *words: str) -> bool:
        """Whether these words stand at token i."""
        return all(self.word(i + k) == word for k, word in enumerate(words))

    def _past_adverbs(self, j: int) -> int:
        while self.word(j) in g.INTENSIFIERS | {"as", "both"} or (
            self.word(j).endswith("ly") and len(self.word(j)) > 4
        ):
            j += 1
        return j

    def _inverted(self, chunk: Chunk) -> Chunk:
        """In "red is the cup and blue is the box" the words before say what it is like."""
        copula = chunk.first - 1
        starts = copula < 2 or self.kind(copula - 2) == "mark" or self.word(copula - 2) in g.CONJUNCTIONS
        if not (starts and copula > 0 and self.word(copula) in g.COPULAS and self.adjective(copula - 1)):
            return chunk
        attribute = (self.word(copula - 1),)
        return _described(chunk, attribute, of_sentence=True, elsewhere=True)

    def _with_colour(self, chunks: Sequence[Chunk], k: int) -> int:
        """Of "the colour of the cup" and "the cup's colour" the cup."""
        if chunks[k].head not in _COLOUR_NOUNS:
            return k
        if k + 1 < len(chunks) and self._between(chunks[k], chunks[k + 1]) == {"of"}:
            return k + 1
        possessive = k > 0 and self._between(chunks[k - 1], chunks[k]) in ({"'s"}, {"whose"})
        return k - 1 if possessive else k

    def _in_brackets(self, i: int) -> _Predicate | None:
        """In "a cup (red)" and "cup: red"."""
        attributes, stop = self.adjectives(i + 1)
        end = self.word(stop)
        if not attributes or (end != ")" if self.word(i) == "(" else end not in (",", ";", ".", "")):
            return None
        return _Predicate(attributes, stop + (end == ")"))

    def _attributes(self, j: int, predicative: bool) -> tuple[tuple[str, ...], int] | None:
        """Attributes from token j on, and where they stop."""
        if self.word(j) == "made":
            return self._material(j + 1)
        if self.word(j) in g.PREDICATE_PARTICIPLES:
            j += 1 + (self.word(j + 1) in ("in", "all"))
        elif self.word(j) in ("in", "of") and not predicative:
            coloured = j + 1 + (self.word(j + 1) in g.ARTICLES)
            named = self.word(coloured + 1) in _COLOUR_NOUNS  # "of a red colour"
            if self.word(coloured) not in g.COLOURS or not (named or self.words_at(coloured - 1, "in")):
                return None
            j = coloured
        elif not predicative:
            return None
        attributes, stop = self.adjectives(j, shades=predicative)
        return (attributes, stop) if attributes else None

    def _material(self, j: int) -> tuple[tuple[str, ...], int] | None:
        j += self.word(j) in ("out", "up", "entirely", "completely")
        if self.word(j) not in ("of", "from") or self.is_determiner(j + 1):
            return None
        words, stop = self._content(j + 1)
        attributes = tuple(self.text(a, b) for a, b, role in words if role != "adverb")
        return (attributes, stop) if attributes else None

    def adjectives(self, i: int, shades: bool = False) -> tuple[tuple[str, ...], int]:
        """The list of adjectives at token i that modifies no noun after it, and where it stops.

        ``shades``: any word before a colour belongs to it ("deep red").
        """
        words: list[str] = []
        stop = i
        while length := self.adjective(i) or int(
            shades
            and self.is_content(i)
            and not self.is_verbal(i)
            and self.word(i + 1) in g.COLOURS
            and not self.is_content(i + 2)
        ):
            after = i + length
            after += self.word(after) in _COLOUR_NOUNS and bool(self.adjective(i))  # "in red colour"
            if self.is_noun(after) and not self.is_verbal(after) and self.adjective(i):
                break  # "… and white boats": this one belongs to the next noun
            if words and self.word(after) in g.COPULAS:
                break  # "… and blue is the box"
            words.append(self.text(i, i + length))
            i = stop = after
            i += self.word(i) == ","
            i += self.word(i) in ("and", "&")
        return tuple(words), stop

    def _subjects(self, chunks: Sequence[Chunk], plural: bool) -> list[int]:
        """The phrases, by index, that a sentence whose verb stands behind the last one is about."""
        k = self._subject(chunks, len(chunks) - 1)
        subjects = [k]
        while plural and k > 0:
            link = self._between(chunks[k - 1], chunks[k])
            if not link or not link <= {",", "and", "&"}:
                break
            other = self._subject(chunks, k - 1)
            if chunks[k - 1].predicated or ("and" not in link and len(subjects) < 2):
                break  # a sentence of its own
            if other > 0 and self._between(chunks[other - 1], chunks[other]) - _BREAKS:
                break  # the end of a clause before: "a dog sits on a mat and two cats are black"
            subjects.insert(0, other)
            k = other
        return subjects

    def _subject(self, chunks: Sequence[Chunk], k: int) -> int:
        """The phrase that phrase k is a part of: in "the lid of the red cup's handle" the lid."""
        whole = k
        while k > 0:
            link = self._between(chunks[k - 1], chunks[k])
            k -= 1
            if link == {"'s"}:
                continue
            if not link or not all(word in _LINKS or word.endswith(("ing", "ed")) for word in link):
                break
            whole = k
        return whole

    def _between(self, one: Chunk, other: Chunk) -> set[str]:
        return {self.word(i) for i in range(one.stop, other.first)}


def _described(chunk: Chunk, attributes: tuple[str, ...], of_sentence: bool, elsewhere: bool) -> Chunk:
    return replace(
        chunk,
        attributes=chunk.attributes + attributes,
        predicated=chunk.predicated + attributes if of_sentence else chunk.predicated,
        stated=chunk.stated + attributes if elsewhere else chunk.stated,
    )
