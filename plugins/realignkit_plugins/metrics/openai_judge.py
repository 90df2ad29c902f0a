"""A language model that looks at pictures, asked how well each shows its prompt."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from realignkit.calls import spread
from realignkit.images import png, to_rgb
from realignkit_plugins.metrics.questioning import MarkMetric, check_pairs
from realignkit_plugins.scorers import templates
from realignkit_plugins.scorers.answers import AnswerForm
from realignkit_plugins.scorers.language_model import Task
from realignkit_plugins.scorers.openai_chat import ChatModel
from realignkit_plugins.scorers.wrappings import MalformedAnswerError, brief, only_object

if TYPE_CHECKING:
    from PIL.Image import Image

BEST = 10
"""The highest mark; the lowest is 0."""
_LONGEST = 300  # characters of a reason; the rest is cut off
FORM = AnswerForm(
    "judgement",
    {
        "type": "object",
        "properties": {"reason": {"type": "string"}, "mark": {"type": "integer", "enum": list(range(BEST + 1))}},
        "required": ["reason", "mark"],
        "additionalProperties": False,
    },
)
"""The form of an answer; the reason comes first, so that the mark follows from it."""


@dataclass(frozen=True)
class Judgement:
    """What was said of a picture: what is missing or wrong, and a mark of at most :data:`BEST`."""

    reason: str
    mark: float


class OpenAIJudge(ChatModel, MarkMetric):
    """``openai_judge``: the mark that a chat service gives a picture for its prompt, in [0, 1].

    Several are asked at once; valid answers are kept on disk under the picture's checksum, the prompt and the question.
    The key is treated as :class:`~realignkit_plugins.scorers.chat_service.ChatService` says. Pictures are sent as PNG.
    """

    answers_folder = "judges"
    asker = "judge"

    def judge_each(self, images: Sequence[Image], prompts: Sequence[str]) -> list[dict[str, Any]]:
        """``openai_judge`` of each image (RGB), and why.

        Raises:
            OptionError: not as many prompts as images.
            ScorerError: no key, no connection, refused, over budget, or no usable answer within the attempts.
        """
        check_pairs(images, prompts)
        pairs = list(zip(images, prompts, strict=True))
        judged = spread(lambda pair: self._judge(*pair), pairs, self.concurrency)
        return [{"openai_judge": each.mark / BEST, "details": [asdict(each)]} for each in judged]

    def _judge(self, image: Image, prompt: str) -> Judgement:
        version = self.options.template
        picture = f"data:image/png;base64,{base64.b64encode(png(to_rgb(image))).decode()}"
        description = templates.template("judge", version, "user").substitute(prompt=templates.quoted(prompt))
        messages: templates.Messages = [
            {"role": "system", "content": templates.template("judge", version, "system").template},
            {
                "role": "user",
                "content": [
                    {"type": "image_url", "image_url": {"url": picture}},
                    {"type": "text", "text": description},
                ],
            },
        ]
        return self.ask(
            Task(
                messages,
                FORM,
                read_judgement,
                lambda judgement: json.dumps(asdict(judgement)),
                lambda answer, problem: templates.repair(answer, problem, version, "judge"),
            )
        )


def read_judgement(text: str) -> Judgement:
    """The judgement of an answer.

    Raises:
        MalformedAnswerError: it is no JSON object with a mark in its range.
    """
    answer = only_object(text)
    mark, reason = answer.get("mark"), answer.get("reason", "")
    if isinstance(mark, bool) or not isinstance(mark, int | float) or not 0 <= mark <= BEST:
        raise MalformedAnswerError(f"'{brief(str(mark))}' is no mark from 0 to {BEST}", "form")
    if not isinstance(reason, str):
        raise MalformedAnswerError(f"'{brief(str(reason))}' is no reason in words", "form")
    return Judgement(" ".join(reason.split())[:_LONGEST], float(mark))
