"""The scorer that always answers: rules over the prompt's noun phrases (eq. 6)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pydantic import Field

from realignkit.contracts import Options as PluginOptions
from realignkit.contracts import Scorer
from realignkit.types import Likelihood, LocalCaption, Tag
from realignkit_plugins.english.grammar import COLOURS
from realignkit_plugins.english.lexicon import CANONICAL, COMPANIONS, KIND_OF, OBJECTS, OTHER_THINGS, SCENERY
from realignkit_plugins.english.noun_phrases import NounPhrase, noun_phrases
from realignkit_plugins.english.other_languages import other_language, other_scripts
from realignkit_plugins.english.reading import Reading
from realignkit_plugins.english.words import singular, with_article


class LexicalScorer(Scorer):
    """Judges tags by the words of the prompt; needs no model and no network, and never fails.

    - *certain*: the prompt names the tag (itself, a synonym, a kind of it, or what it is a kind of). Its local caption
      is the phrase that names it, attributes included, as it stands in the prompt ("a red book", "the book is red").
      Where it stands with markup within, or its attributes elsewhere, the caption is put together: "a red book" for "a
      (red:1.3) book", "the red book" for "the book and the pen are red". Of several phrases with the same noun the
      first is taken.
    - *possible*: scenery ("desk", "sky"), parts and usual company of something the prompt names (boat -> water),
      and nouns that the prompt uses only within another ("an apple tree": apple).
    - *unlikely*: everything else, what the prompt rules out ("without a hat"), and what it only quotes as text to be
      drawn ('a sign that says "red dog"').

    The caption of a possible or unlikely tag is the tag itself ("a desk").
    """

    class Options(PluginOptions):
        """Options of :class:`LexicalScorer`."""

        kinds: bool = Field(True, description="a kind counts as naming: 'person' for 'a man', 'desk' for 'a table'")
        scenery: bool = Field(True, description="backgrounds that the prompt does not mention are possible")

    options: LexicalScorer.Options

    def __call__(self, prompt: str, tags: Sequence[Tag]) -> tuple[LocalCaption, ...]:
        """One local caption per tag, in order."""
        phrases = noun_phrases(prompt)
        return tuple(self._judge(tag.name, phrases) for tag in tags)

    def notes(self, prompt: str, captions: Sequence[LocalCaption]) -> tuple[str, ...]:
        """What the rules read over, and that they read English only."""
        reading = Reading.of(prompt)
        remarks = []
        if reading.syntax:
            remarks.append(
                f"prompt weights and commands are not applied, only the words are read ({_some(reading.syntax)}); "
                f"leave them out, and every phrase is found where it stands in the prompt"
            )
        if unread := (*other_scripts(reading), *other_language(reading)):
            remarks.append(
                f"the lexical scorer reads English and does not understand {_some(unread)}; "
                f"for other languages choose a scorer that asks a language model, such as gpt4 or llama_cpp"
            )
        return tuple(remarks)

    def _judge(self, tag: str, phrases: Sequence[NounPhrase]) -> LocalCaption:
        name = _Name.of(tag)
        named = self._naming(name, [phrase for phrase in phrases if not phrase.negated])
        if named is not None:
            return LocalCaption(tag, named.text, Likelihood.CERTAIN)
        ruled_out = self._naming(name, [phrase for phrase in phrases if phrase.negated]) is not None
        possible = not ruled_out and self._is_possible(name, phrases)
        return LocalCaption(tag, with_article(tag), Likelihood.POSSIBLE if possible else Likelihood.UNLIKELY)

    def _naming(self, name: _Name, phrases: Sequence[NounPhrase]) -> NounPhrase | None:
        return next(iter(_naming(name, phrases, self.options.kinds)), None)

    def _is_possible(self, name: _Name, phrases: Sequence[NounPhrase]) -> bool:
        if self.options.scenery and ({name.text, name.canonical, name.last} & SCENERY) and name.text not in OBJECTS:
            return True
        for phrase in (phrase for phrase in phrases if not phrase.negated):
            head = canonical(phrase.head)
            for thing in {phrase.head, head, phrase.head.split()[-1], *kinds(head)}:
                if COMPANIONS.get(thing, frozenset()) & {name.text, name.canonical}:
                    return True
            within = {singular(word) for text in (phrase.head, *phrase.attributes) for word in text.split()}
            if name.text in within - COLOURS:
                return True
        return False


def _some(texts: Sequence[str], most: int = 3, length: int = 40) -> str:
    shown = ", ".join(f"'{text[:length]}{'…' if len(text) > length else ''}'" for text in texts[:most])
    return f"{shown} …" if len(texts) > most else shown


@dataclass(frozen=True)
class _Name:
    """A tag's name, made comparable: lower case, singular, without article."""

    text: str
    canonical: str

    @classmethod
    def of(cls, tag: str) -> _Name:
        words = tag.lower().replace("_", " ").replace("-", " ").split()
        if len(words) > 1 and words[0] in ("a", "an", "the"):
            words = words[1:]
        text = singular(" ".join(words))
        return cls(text, canonical(text))

    @property
    def last(self) -> str:
        return self.text.rpartition(" ")[2]


def naming(tag: str, phrases: Sequence[NounPhrase], with_kinds: bool = True) -> list[NounPhrase]:
    """All phrases that name a tag, by the strictest rule that any of them satisfies."""
    return _naming(_Name.of(tag), phrases, with_kinds)


def _naming(name: _Name, phrases: Sequence[NounPhrase], with_kinds: bool) -> list[NounPhrase]:
    rules: list[Callable[[_Name, NounPhrase], bool]] = [_same_words, _synonym]
    if with_kinds:
        rules += [_kind, _last_word]
    matches = ([phrase for phrase in phrases if rule(name, phrase)] for rule in rules)
    return next(filter(None, matches), [])


def canonical(noun: str) -> str:
    """The name by which synonyms are compared ("bicycle" for "bike")."""
    return CANONICAL.get(noun, noun)


def kinds(noun: str) -> frozenset[str]:
    """Everything that a thing is a kind of, at any distance ("man" -> "person"; "desk" -> "table", "furniture")."""
    ancestors: set[str] = set()
    todo = {noun}
    while todo:
        todo = {kind for thing in todo for kind in KIND_OF.get(thing, frozenset())} - ancestors
        ancestors |= todo
    return frozenset(ancestors)


def _same_words(name: _Name, phrase: NounPhrase) -> bool:
    words = [singular(word) for word in name.text.split()]
    head = phrase.head.split()
    if not words or words[-len(head) :] != head:
        return name.text == phrase.head.replace("-", " ")
    described = {singular(word) for attribute in phrase.attributes for word in attribute.split()}
    return all(word in described for word in words[: -len(head)])


def _synonym(name: _Name, phrase: NounPhrase) -> bool:
    return bool(name.text) and name.canonical == canonical(phrase.head)


def _kind(name: _Name, phrase: NounPhrase) -> bool:
    head = canonical(phrase.head)
    return head in kinds(name.canonical) or name.canonical in kinds(head) | kinds(phrase.head)


def _last_word(name: _Name, phrase: NounPhrase) -> bool:
    """A sports car is a car and a stop sign a sign; but a teddy bear is no bear, a blue car no red one."""
    if name.text in OTHER_THINGS or phrase.head in OTHER_THINGS:
        return canonical(OTHER_THINGS.get(name.text, name.canonical)) == canonical(
            OTHER_THINGS.get(phrase.head, phrase.head)
        )
    if (" " in name.text and " " in phrase.head) or not name.text:
        return False  # two different compounds of one noun: a wall clock is no alarm clock
    colours = set(name.text.split()) & COLOURS
    described = set(" ".join(phrase.attributes).split())
    return canonical(name.last) == canonical(phrase.head.rpartition(" ")[2]) and colours <= described
