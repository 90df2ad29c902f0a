"""GPT-4, ChatGPT and every other service that speaks OpenAI's chat protocol: asked, and as a scorer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from .answers import AnswerForm
from .chat_options import OpenAIChatOptions
from .chat_service import ChatService
from .language_model import LanguageModel, LanguageModelScorer
from .meter import Usage
from .replies import answer_text
from .templates import Messages


class ChatModel(LanguageModel):
    """A language model behind a chat service; valid answers are kept on disk.

    The key comes from the environment and goes to the service only: it is in no option, message, file or report, and
    OpenAI's key is not sent to other services unless ``auth_env`` says so.
    """

    Options = OpenAIChatOptions
    options: OpenAIChatOptions
    asker: ClassVar[str] = "scorer"
    """What kind of plugin it is, in messages."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.service = ChatService(self.options, self.asker)

    @property
    def concurrency(self) -> int:
        """How many calls may run at once."""
        return self.options.concurrency

    @property
    def usage(self) -> Usage:
        """Tokens and money used so far."""
        return self.service.meter.usage

    def check(self) -> str:
        """What is missing; asks nobody."""
        return self.options.key_problem()

    def identity(self) -> Mapping[str, Any]:
        """Model, service and sampling."""
        o = self.options
        return {
            self.asker: "openai_chat",
            **{
                name: getattr(o, name)
                for name in ("model", "base_url", "temperature", "max_output_tokens", "system_role", "template")
            },
        }

    def complete(self, messages: Messages, form: AnswerForm, state: dict[str, Any]) -> str:
        """One answer of the service, without the key, should the service have written it there.

        Raises:
            MalformedAnswerError: it is no chat completion with a text.
            ScorerError: no key, no connection, refused, cut off, over budget, or still failing after the retries or
                the time for the question.
        """
        return answer_text(self.service.ask(messages, state, form), self.options.max_output_tokens)


class OpenAIChatScorer(ChatModel, LanguageModelScorer):  # type: ignore[override]
    """Asks a chat service about tags."""
