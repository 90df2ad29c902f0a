"""What prompts of any wording say about tags, by the rules of the ``lexical`` scorer."""

from __future__ import annotations

from collections.abc import Sequence

from realignkit.types import Expected, Truth


def truth_by_rules(prompt: str, tags: Sequence[str]) -> Truth:
    """What a right answer says about these tags: ``lexical`` is judged by its own measure here; other scorers are not.

    Args:
        prompt: any text.
        tags: names of objects.
    """
    from realignkit_plugins.english.noun_phrases import noun_phrases
    from realignkit_plugins.scorers.lexical import naming

    phrases = [phrase for phrase in noun_phrases(prompt) if not phrase.negated]
    named = {tag: naming(tag, phrases) for tag in tags}
    foreign = frozenset(attribute for phrase in phrases for attribute in phrase.attributes)
    expected = {}
    for tag, mentions in named.items():
        heads = {phrase.head for phrase in phrases if phrase not in mentions}
        rivals = {other for other, theirs in named.items() if other != tag and not any(p in mentions for p in theirs)}
        expected[tag] = Expected(
            named=bool(mentions),
            attributes=tuple(frozenset(phrase.attributes) for phrase in mentions),
            foreign=foreign,
            others=frozenset(heads | rivals) - {phrase.head for phrase in mentions},
        )
    covered = sum(any(phrase in mentions for mentions in named.values()) for phrase in phrases)
    return Truth(expected, len(phrases), covered)
