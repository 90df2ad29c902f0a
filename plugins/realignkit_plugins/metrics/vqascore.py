"""VQAScore (Lin et al., 2024): how probable the answer "Yes" is when one asks whether an image shows its prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field, field_validator

from realignkit.questions import probabilities
from realignkit_plugins.metrics.questioning import QuestionMetric, check_pairs
from realignkit_plugins.metrics.spellings import YES

if TYPE_CHECKING:
    from PIL.Image import Image

TEMPLATE = 'Does this figure show "{}"? Please answer yes or no.'
"""As VQAScore asks CLIP-FlanT5; GenEval 2 and later models of VQAScore are asked in other words (docs)."""


class VQAScore(QuestionMetric):
    """``vqascore``: the probability of "Yes", in [0, 1], by any question answerer that gives probabilities.

    It is the sum over spellings of the probability of each one's first token; spellings that begin alike count once.
    CLIP-FlanT5's own score is the geometric mean over all tokens of "Yes", that which ends it included.
    """

    class Options(QuestionMetric.Options):
        """Options of :class:`VQAScore`."""

        template: str = Field(TEMPLATE, description="the question; {} is the prompt")
        spellings: tuple[str, ...] = Field(YES, min_length=1, description="what counts as yes")

        @field_validator("template")
        @classmethod
        def _has_a_place(cls, template: str) -> str:
            if template.count("{}") != 1:
                raise ValueError("must have {} once, where the prompt goes")
            return template

    options: VQAScore.Options

    def judge_each(self, images: Sequence[Image], prompts: Sequence[str]) -> list[dict[str, Any]]:
        """``vqascore`` of each image (RGB).

        Raises:
            OptionError: not as many prompts as images, or the question answerer gives no probabilities.
            PluginError: it failed.
        """
        check_pairs(images, prompts)
        questions = [self.options.template.replace("{}", prompt) for prompt in prompts]
        likely = probabilities(self.answerer, images, questions, [self.options.spellings] * len(images))
        return [{"vqascore": min(1.0, sum(each))} for each in likely]

    def identity(self) -> dict[str, Any]:
        """Who answers what, and how yes is spelt."""
        return {**super().identity(), "template": self.options.template, "spellings": list(self.options.spellings)}
