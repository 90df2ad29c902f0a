"""Dense supervision for the rewards' reading: every colour and noun of a caption is true of the picture, or not.

Whether a caption matches is one bit, and a swapped colour is the last thing that it teaches: networks trained on it
alone stay bags of words (BLIP's here told swapped captions apart in 56 of 100 cases). Which *word* is wrong is known.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

from realignkit_plugins.micro.world import COLOURS, NOUNS, Scene
from realignkit_plugins.micro.world.vocabulary import plural

_SINGULAR = {form: noun for noun in NOUNS for form in (noun, plural(noun))}
UNASKED = -1.0
"""The label of words that are neither a colour nor a noun."""


def truths(caption: str, scene: Scene | None) -> list[float]:
    """Per word and comma of a caption: 1 true of the scene, 0 not, :data:`UNASKED`.

    A colour is true when an object of the noun that follows has it. None is a picture of nothing.
    """
    pairs = {(thing.noun, thing.colour) for thing in scene.things} if scene else set()
    nouns = {noun for noun, _ in pairs}
    words = caption.replace(",", " ,").split()
    labels = []
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if word in COLOURS and following in _SINGULAR:
            labels.append(float((_SINGULAR[following], word) in pairs))
        else:
            labels.append(float(_SINGULAR[word] in nouns) if word in _SINGULAR else UNASKED)
    return labels


class Words(nn.Module):
    """The head that says which words are true; dropped after training.

    Args:
        width: of the text encoder's hidden states.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.true = nn.Linear(width, 1)

    def loss(self, hidden: torch.Tensor, captions: Sequence[str], scenes: Sequence[Scene | None]) -> torch.Tensor:
        """Cross-entropy over the colours and nouns of all captions.

        Args:
            hidden: states of the tokens, having seen the picture: float (B, L, width), [CLS] first, then word by word.
            captions: B texts.
            scenes: what their pictures show; None for a malformed one.
        """
        labels = torch.full(hidden.shape[:2], UNASKED)
        for row, (caption, scene) in enumerate(zip(captions, scenes, strict=True)):
            answers = truths(caption, scene)[: labels.shape[1] - 1]
            labels[row, 1 : 1 + len(answers)] = torch.tensor(answers)
        asked = labels != UNASKED
        return binary_cross_entropy_with_logits(self.true(hidden[asked]).squeeze(-1), labels[asked])
