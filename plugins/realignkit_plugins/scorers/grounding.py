"""Whether a caption is a phrase of the prompt that names one object: what a language model's "certain" rests on."""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Iterator, Sequence

from realignkit_plugins.english.grammar import CONJUNCTIONS, PREPOSITIONS
from realignkit_plugins.english.noun_phrases import NounPhrase, noun_phrases
from realignkit_plugins.english.words import singular

from .lexical import naming
from .wrappings import MalformedAnswerError, brief

_WORD = re.compile(r"(?:[^\W_][\u0300-\u036f]*)+(?:['’](?:[^\W_][\u0300-\u036f]*)+)*")
_ARTICLES = frozenset(("a", "an", "the"))
_OPEN = CONJUNCTIONS | PREPOSITIONS
_JOINED = re.compile(r"[\s\-_'’\"“”‘]*")
"""What may lie between two neighbouring words of a phrase, whether or not the caption has it too."""


def phrase_of(caption: str, tag: str, prompt: str, others: Sequence[str] = ()) -> str:
    """The phrase of the prompt that a caption copies, in the prompt's spelling.

    Case, white space, quotation marks, hyphens, Unicode's normal forms, number (cup, cups) and the article before the
    phrase may differ. Words may not: none left out in between, none from another place, none of another object. The
    phrase must name the tag, a synonym or kind of it, where the prompt itself does so. What the prompt says with
    markup in between is its phrase as well.

    Args:
        caption: what the model wrote.
        tag: the object that it is about.
        prompt: the user's.
        others: the other tags.

    Raises:
        MalformedAnswerError: there is no such phrase in the prompt.
    """
    description = _Description(prompt, tag, others)
    problem = "it is no phrase of the description"
    for number, (start, stop) in enumerate(_spans(caption, prompt)):
        found = description.problem(start, stop)
        if not found:
            return prompt[start:stop]
        problem = problem if number else found
    for phrase in description.named:  # what does not stand there, and is understood: "a (red:1.3) cup" has a red cup
        if _words(phrase.text) == _words(caption):
            return phrase.text
    raise MalformedAnswerError(
        f"the caption of '{brief(tag)}', '{brief(caption)}', cannot be certain: {problem}", "caption"
    )


class _Description:
    """A prompt as a tag sees it: the phrases that name the tag, and the others."""

    def __init__(self, prompt: str, tag: str, others: Sequence[str]) -> None:
        self.prompt, self.tag, self.others = prompt, tag, others
        self.phrases = noun_phrases(prompt)
        self.named = naming(tag, [phrase for phrase in self.phrases if not phrase.negated])

    def problem(self, start: int, stop: int) -> str:
        """What is wrong with ``prompt[start:stop]`` as the tag's phrase; empty if nothing."""
        text = self.prompt[start:stop]
        touched = [phrase for phrase in self.phrases if phrase.start < stop and start < phrase.end]
        if any(phrase.negated for phrase in touched):
            return "the description rules it out"
        mine = [phrase for phrase in touched if phrase in self.named]
        whole = any(start <= phrase.start and phrase.end <= stop for phrase in mine)
        if not mine or not (whole or naming(self.tag, noun_phrases(text))):
            return f"it does not name the {brief(self.tag)} of the description"
        if len(mine) > 1:
            return "it names more than one"
        words = _WORD.findall(text.lower())
        if words[0] in _OPEN or words[-1] in _OPEN:
            return "it is no whole phrase"
        for phrase in touched:
            inside = start <= phrase.start and phrase.end <= stop and _belongs(phrase, mine[0], self.prompt)
            if phrase not in mine and not (inside and not any(naming(other, [phrase]) for other in self.others)):
                return f"it has words of '{brief(phrase.text)}'"
        return ""


def _belongs(phrase: NounPhrase, owner: NounPhrase, prompt: str) -> bool:
    """Whether a phrase is the content or the possessor of another: "a cup of coffee", "a man's hat"."""
    content = prompt[owner.end : phrase.start].strip().lower() == "of"
    return content or prompt[phrase.end : owner.start].strip().replace("’", "'") == "'s"


def _spans(caption: str, prompt: str) -> Iterator[tuple[int, int]]:
    """Where the prompt has a caption's words next to each other, with its article if the caption has one too."""
    words = _words(caption)
    article = _WORD.findall(caption.lower())[:1] in ([one] for one in _ARTICLES)
    places = [(match.start(), match.end(), _comparable(match.group())) for match in _WORD.finditer(prompt)]
    gaps = _gaps(caption)[article:]
    for i in range(len(places) - len(words) + 1 if words else 0):
        run = places[i : i + len(words)]
        if [word for _, _, word in run] != words:
            continue
        between = [prompt[left[1] : right[0]] for left, right in itertools.pairwise(run)]
        if all(_JOINED.fullmatch(gap) or gap.strip() == own for gap, own in zip(between, gaps, strict=True)):
            first = i - 1 if article and i and _is_article_of(places[i - 1], run[0], prompt) else i
            yield places[first][0], run[-1][1]


def _words(text: str) -> list[str]:
    """Comparable words, without an article at the start."""
    words = [_comparable(word) for word in _WORD.findall(unicodedata.normalize("NFC", text))]
    return words[1:] if words and words[0] in _ARTICLES else words


def _gaps(caption: str) -> list[str]:
    matches = list(_WORD.finditer(caption))
    return [caption[a.end() : b.start()].strip() for a, b in itertools.pairwise(matches)]


def _is_article_of(place: tuple[int, int, str], word: tuple[int, int, str], prompt: str) -> bool:
    return place[2] in _ARTICLES and not prompt[place[1] : word[0]].strip()


def _comparable(word: str) -> str:
    return singular(unicodedata.normalize("NFC", word).lower().replace("’", "'"))
