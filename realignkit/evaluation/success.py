"""When is a scorer's answer right? Table IV's success, which the paper does not define, made exact.

An answer succeeds when it parses and

(a) every tag that the prompt names is certain,
(b) its local caption carries every attribute the prompt gives that object and none that it gives to another,
(c) no tag that the prompt does not name is certain,
(d) no local caption names an object that is not the tag.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Sequence

from realignkit.types import Expected, Likelihood, LocalCaption, Truth

NOT_CERTAIN = "(a) named, not certain"
ATTRIBUTE_MISSING = "(b) attribute missing"
ATTRIBUTE_OF_ANOTHER = "(b) another's attribute"
NOT_NAMED = "(c) certain, not named"
ANOTHER_OBJECT = "(d) another object"
REASONS = (NOT_CERTAIN, ATTRIBUTE_MISSING, ATTRIBUTE_OF_ANOTHER, NOT_NAMED, ANOTHER_OBJECT)
"""Why an answer that parses can fail, as tables show it."""

_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")


def problems(captions: Sequence[LocalCaption], truth: Truth) -> tuple[str, ...]:
    """What is wrong with an answer: some of :data:`REASONS`, each once, in their order; empty for a success.

    Every caption's tag must be in ``truth.expected``.
    """
    found: set[str] = set()
    for caption in captions:
        found |= _problems(caption, truth.expected[caption.tag])
    return tuple(reason for reason in REASONS if reason in found)


def _problems(caption: LocalCaption, expected: Expected) -> set[str]:
    found = set()
    certain = caption.likelihood is Likelihood.CERTAIN
    if expected.named:
        if not certain:
            found.add(NOT_CERTAIN)
        complete = [own for own in expected.attributes if all(mentions(caption.caption, one) for one in own)]
        if expected.attributes and not complete:
            found.add(ATTRIBUTE_MISSING)
        candidates = complete or list(expected.attributes) or [frozenset[str]()]
        if all(_strays(caption.caption, own, expected.foreign) for own in candidates):
            found.add(ATTRIBUTE_OF_ANOTHER)
    elif certain:
        found.add(NOT_NAMED)
    # "an orange cat" names no orange, and "a dining table" is about no other table.
    own_words = " ".join([caption.tag, *(one for own in expected.attributes for one in own)])
    if any(mentions(caption.caption, name) and not mentions(own_words, name) for name in expected.others):
        found.add(ANOTHER_OBJECT)
    return found


def _strays(caption: str, own: frozenset[str], foreign: frozenset[str]) -> bool:
    """Whether a caption has an attribute that is not its own nor part of one ("blue" of "dark blue")."""
    return any(mentions(caption, one) and not any(mentions(mine, one) for mine in own) for one in foreign)


def mentions(text: str, name: str) -> bool:
    """Whether a text has a name as whole words, in any case, in the singular or a regular plural."""
    words, wanted = f" {_plain(text)} ", _plain(name)
    return bool(wanted) and any(f" {wanted}{ending} " in words for ending in ("", "s", "es"))


def _plain(text: str) -> str:
    return " ".join(_WORD.findall(unicodedata.normalize("NFC", text).lower()))


def wilson(successes: float, count: float, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's score interval of a proportion of independent trials, 95 % by default; (0, 1) without observations.

    Pictures of which several have the same prompt are not independent: see
    :func:`realignkit.evaluation.statistics.share_interval`.
    """
    if count == 0:
        return 0.0, 1.0
    share, square = successes / count, z * z
    centre = (share + square / (2 * count)) / (1 + square / count)
    half = z * math.sqrt(share * (1 - share) / count + square / (4 * count * count)) / (1 + square / count)
    # Rounding must not push the share itself out of its interval.
    return max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half))
