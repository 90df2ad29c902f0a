"""Whether a caption is a phrase of the prompt that names one object: what a language model's "certain" rests on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from realignkit_plugins.english.grammar import CONJUNCTIONS, PREPOSITIONS
from realignkit_plugins.english.noun_phrases import NounPhrase, noun_phrases
from realignkit_plugins.english.reading import Reading
from realignkit_plugins.english.tokens import Token
from realignkit_plugins.english.words import singular

from .lexical import naming
from .wrappings import MalformedAnswerError, brief

_ARTICLES = frozenset(("a", "an", "the"))
_OPEN = CONJUNCTIONS | PREPOSITIONS


def phrase_of(caption: str, tag: str, prompt: str, others: Sequence[str] = ()) -> str:
    """The phrase of the prompt that a caption copies, in the prompt's spelling.

    Case, white space, markup around words, Unicode's normal forms, number (cup, cups) and the article before the phrase
    may differ. Words may not: none left out in between, none from another place, none of another object. The phrase
    must name the tag, a synonym or kind of it, where the prompt itself does so. A whole phrase may be copied without
    its commas and hyphens, and what the prompt says of an object in another place ("the cup and the box are red": a
    red cup) is its phrase as well.

    Args:
        caption: what the model wrote.
        tag: the object that it is about.
        prompt: the user's.
        others: the other tags.

    Raises:
        MalformedAnswerError: there is no such phrase in the prompt.
    """
    description = _Description(prompt, tag, others)
    words = _words(caption)
    problems = []
    for first, stop in description.places(words):
        problem = description.problem(first, stop)
        if not problem:
            return description.reading.phrase(first, stop)
        problems.append(problem)
    for phrase in description.named:
        if _letters(_words(phrase.text)) == _letters(words):
            return phrase.text
    reason = problems[0] if problems else "it is no phrase of the description"
    raise MalformedAnswerError(
        f"the caption of '{brief(tag)}', '{brief(caption)}', cannot be certain: {reason}", "caption"
    )


class _Description:
    """A prompt as a tag sees it: the phrases that name the tag, and the others."""

    def __init__(self, prompt: str, tag: str, others: Sequence[str]) -> None:
        self.prompt, self.tag, self.others = prompt, tag, others
        self.reading = Reading.of(prompt)
        self.phrases = noun_phrases(self.reading)
        self.named = naming(tag, [phrase for phrase in self.phrases if not phrase.negated])

    def places(self, words: Sequence[str]) -> Iterator[tuple[int, int]]:
        """Where the prompt has these words next to each other, as tokens first .. stop - 1; with its own article."""
        tokens = [_comparable(token) for token in self.reading.tokens]
        bare = _bare(words)
        for i in range(len(tokens) - len(bare) + 1 if bare else 0):
            if tokens[i : i + len(bare)] == bare:
                article = len(bare) < len(words) and i > 0 and tokens[i - 1] in _ARTICLES
                yield i - article, i + len(bare)

    def problem(self, first: int, stop: int) -> str:
        """What is wrong with tokens first .. stop - 1 as the tag's phrase; empty if nothing."""
        tokens = self.reading.tokens[first:stop]
        start, end = self.reading.plain.place(tokens[0].start, tokens[-1].end)
        touched = [phrase for phrase in self.phrases if phrase.start < end and start < phrase.end]
        if any(phrase.negated for phrase in touched):
            return "the description rules it out"
        mine = [phrase for phrase in touched if phrase in self.named]
        whole = any(start <= phrase.start and phrase.end <= end for phrase in mine)
        if not mine or not (whole or naming(self.tag, noun_phrases(self.reading.phrase(first, stop)))):
            return f"it does not name the {brief(self.tag)} of the description"
        if len(mine) > 1:
            return "it names more than one"
        if tokens[0].text in _OPEN or tokens[-1].text in _OPEN:
            return "it is no whole phrase"
        for phrase in touched:
            inside = start <= phrase.start and phrase.end <= end and _belongs(phrase, mine[0], self.prompt)
            if phrase not in mine and not (inside and not any(naming(other, [phrase]) for other in self.others)):
                return f"it has words of '{brief(phrase.text)}'"
        return ""


def _belongs(phrase: NounPhrase, owner: NounPhrase, prompt: str) -> bool:
    """Whether a phrase is the content or the possessor of another: "a cup of coffee", "a man's hat"."""
    content = prompt[owner.end : phrase.start].strip().lower() == "of"
    return content or prompt[phrase.end : owner.start].strip().replace("’", "'") == "'s"


def _words(text: str) -> list[str]:
    """The words of a text, and the marks between them, in comparable form."""
    words = [_comparable(token) for token in Reading.of(text).tokens]
    while words and not any(map(str.isalnum, words[-1])):
        words.pop()
    return words


def _bare(words: Sequence[str]) -> list[str]:
    """Without an article at the start."""
    return list(words[1:] if words and words[0] in _ARTICLES else words)


def _letters(words: Sequence[str]) -> list[str]:
    """Without commas and hyphens too: "a red shiny car" is "a red, shiny car"."""
    return [part for word in _bare(words) for part in word.split("-") if part not in ("", ",")]


def _comparable(token: Token) -> str:
    return singular(token.text)
