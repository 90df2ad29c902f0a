"""Questions about any English prompt by rules over its noun phrases: is it there, how many, in which colour, where?"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise

from realignkit_plugins.english.grammar import COLOURS, MATERIALS
from realignkit_plugins.english.lexicon import CANONICAL, KIND_OF, SCENERY
from realignkit_plugins.english.noun_phrases import NounPhrase, noun_phrases
from realignkit_plugins.english.words import is_plural, with_article
from realignkit_plugins.metrics.tifa_questions import YES_NO, Question

_COLOUR_CHOICES = ("red", "blue", "green", "yellow", "black", "white", "brown", "orange")
_CHOICES = 4
_MOST = 10
"""Numbers above are not asked for: nobody counts so far."""
_RELATIONS = (
    *("to the left of", "to the right of", "on the left of", "on the right of", "left of", "right of", "in front of"),
    *("on top of", "next to", "close to", "on", "in", "inside", "under", "underneath", "below", "beneath", "above"),
    *("over", "behind", "beside", "near", "by", "at"),
)
_RELATION = re.compile(
    rf"\W*(?:(?:is|are|sits?|sitting|stands?|standing|lies|lying) )?({'|'.join(_RELATIONS)})\W*", re.I
)


def questions_about(prompt: str) -> list[Question]:
    """Questions that every image of a prompt should be answered as stated; none where it names no object.

    Each object is asked for; where the prompt says so also its number, its colour (among others, and by yes or no),
    material and other attributes, and where it is to the next object ("on", "to the left of" and the like). Objects of
    one name that differ ("a red book and a blue book") are asked for with their attributes. What a prompt rules out is
    asked for too, and "no" is right. Activities are not asked for.
    """
    phrases = noun_phrases(prompt)
    several = Counter(phrase.head for phrase in phrases)
    asked: list[Question] = []
    for phrase in phrases:
        alone = several[phrase.head] == 1
        if _of_several(phrase):
            asked += [_presence(replace(phrase, attributes=(each,), count=1), True) for each in phrase.attributes]
            continue
        asked.append(_presence(phrase, described=not alone))
        if phrase.negated:
            continue
        asked += _number(phrase)
        if alone:
            asked += _attributes(phrase)
    asked += _relations(prompt, [p for p in phrases if several[p.head] == 1 and not _of_several(p)])
    unique = {question.question: question for question in asked}
    return [replace(question, id=prompt, caption=prompt) for question in unique.values()]


def _name(phrase: NounPhrase) -> str:
    """The noun as the prompt has it, in the plural where it stands there so."""
    last = _last_words(phrase)
    return last if _plural(phrase) and is_plural(last) else phrase.head


def _plural(phrase: NounPhrase) -> bool:
    return phrase.count != 1


def _of_several(phrase: NounPhrase) -> bool:
    """Whether a noun in the singular stands for one thing of each attribute ("a red and a blue car")."""
    return (phrase.count or 0) > 1 and not is_plural(_last_words(phrase))


def _last_words(phrase: NounPhrase) -> str:
    return " ".join(phrase.text.lower().split()[-len(phrase.head.split()) :])


def _presence(phrase: NounPhrase, described: bool) -> Question:
    name = " ".join([*(phrase.attributes if described else ()), _name(phrase)])
    asked = f"are there {name}?" if _plural(phrase) else f"is there {with_article(name)}?"
    return Question(asked, YES_NO, YES_NO[phrase.negated], _type(phrase.head), phrase.head)


def _type(head: str) -> str:
    """The element type of a noun."""
    kinds, left = set[str](), [CANONICAL.get(head, head)]
    while left:
        kind = left.pop()
        if kind not in kinds:
            kinds.add(kind)
            left += KIND_OF.get(kind, ())
    if kinds & {"person", "animal"}:
        return "animal/human"
    if "food" in kinds:
        return "food"
    return "location" if head in SCENERY else "object"


def _number(phrase: NounPhrase) -> Iterator[Question]:
    if phrase.count is None or not 2 <= phrase.count <= _MOST:
        return
    name = " ".join([*phrase.attributes, _name(phrase)])
    first = max(1, phrase.count - 2)
    choices = tuple(str(number) for number in range(first, first + _CHOICES))
    yield Question(f"how many {name} are there?", choices, str(phrase.count), "counting", str(phrase.count))


def _attributes(phrase: NounPhrase) -> Iterator[Question]:
    name, verb = _name(phrase), "are" if _plural(phrase) else "is"
    colours = [attribute for attribute in phrase.attributes if attribute in COLOURS]
    if len(colours) == 1:
        others = [colour for colour in _COLOUR_CHOICES if colour != colours[0]][: _CHOICES - 1]
        choices = tuple(sorted((colours[0], *others)))
        yield Question(f"what color {verb} the {name}?", choices, colours[0], "color", colours[0])
    for attribute in phrase.attributes:
        kind = "color" if attribute in COLOURS else "material" if attribute in MATERIALS else "attribute"
        yield Question(f"{verb} the {name} {attribute}?", YES_NO, "yes", kind, attribute)


def _relations(prompt: str, phrases: Sequence[NounPhrase]) -> Iterator[Question]:
    for first, second in pairwise(phrases):
        between = _RELATION.fullmatch(prompt[first.end : second.start])
        if between and not first.negated and not second.negated:
            relation, verb = between[1].lower(), "are" if _plural(first) else "is"
            asked = f"{verb} the {_name(first)} {relation} the {_name(second)}?"
            yield Question(asked, YES_NO, "yes", "spatial", relation)
