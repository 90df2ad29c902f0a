"""Options of chat services: which one, how it is asked, and the bounds on time, tokens and money."""

from __future__ import annotations

import os
import re
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from realignkit.contracts import Options as PluginOptions
from realignkit.errors import url_secrets

from .dialects import FORMS, LENGTHS, Dialect
from .language_model import LanguageModelOptions

OPENAI_URL = "https://api.openai.com/v1"
_OPENAI_VARIABLE = "OPENAI_API_KEY"


class ServiceOptions(PluginOptions):
    """Options of every plugin that asks a chat service."""

    model: str = Field("gpt-4o", min_length=1, description="the model's name at the service")
    base_url: str = Field(OPENAI_URL, description="the service; anything that speaks the protocol")
    auth_env: str | None = Field(
        None, description="environment variable with the key; None: OPENAI_API_KEY for OpenAI itself, else no key"
    )
    timeout: float = Field(60.0, gt=0, le=3600, description="seconds for one request, at most")
    total_timeout: float = Field(
        600.0, gt=0, le=86400, description="seconds for one question, at most: all requests and waits together"
    )
    retries: int = Field(4, ge=0, le=20, description="repeated requests per question after 429, 5xx or no connection")
    backoff: float = Field(1.0, ge=0, le=60, description="seconds before the first of them; doubles each time")
    concurrency: int = Field(8, ge=1, le=256, description="requests at once")
    length_parameter: Literal["auto", "max_tokens", "max_completion_tokens"] = Field(
        "auto", description="what bounds the length of an answer is called; auto: as the service takes it"
    )
    system_role: Literal["auto", "system", "user"] = Field(
        "auto", description="role of the instructions; user: before the question; auto: system, where that is taken"
    )
    temperature: float | None = Field(
        0.0, ge=0, le=2, description="None: not sent; 0 is not sent either to a service that refuses it"
    )
    max_output_tokens: int = Field(1024, ge=64, description="length of an answer")
    max_total_tokens: int | None = Field(1_000_000, ge=1, description="cap on all tokens of this process; None: none")
    max_cost: float | None = Field(None, gt=0, description="cap in US dollars; needs the two prices")
    input_price: float | None = Field(None, ge=0, description="US dollars per million tokens in")
    output_price: float | None = Field(None, ge=0, description="US dollars per million tokens out")

    @field_validator("base_url")
    @classmethod
    def _plain_url(cls, url: str) -> str:
        try:
            parts = urlsplit(url)
            right = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
        except ValueError:
            right = False
        if not right:
            raise ValueError("must be an http:// or https:// address such as http://localhost:8000/v1")
        if url_secrets(url):
            raise ValueError(
                "must hold no user, password, ;params, ?query or #fragment, which may be keys: name an environment "
                "variable with auth_env instead"
            )
        return url.rstrip("/?#;")

    @field_validator("auth_env")
    @classmethod
    def _a_name(cls, name: str | None) -> str | None:
        # A key given by mistake would be on record, and must not be quoted here.
        if name is not None and not re.fullmatch(r"[A-Z_][A-Z0-9_]*", name) and name not in os.environ:
            raise ValueError("must be the name of an environment variable, such as MY_KEY, not the key itself")
        return name

    @model_validator(mode="after")
    def _consistent(self) -> ServiceOptions:
        if self.max_cost is not None and (self.input_price is None or self.output_price is None):
            raise ValueError("max_cost needs input_price and output_price")
        if self.key and self.key in self.base_url:
            raise ValueError(f"base_url must not hold the key, which {self.variable} has")
        return self

    @property
    def is_openai(self) -> bool:
        """Whether the service is OpenAI's own."""
        return urlsplit(self.base_url).hostname == urlsplit(OPENAI_URL).hostname

    @property
    def variable(self) -> str | None:
        """The environment variable that a key is taken from."""
        return self.auth_env or (_OPENAI_VARIABLE if self.is_openai else None)

    @property
    def key(self) -> str:
        """The key, empty where there is none; never a field, which would be on record."""
        return os.environ.get(self.variable or "", "").strip()

    def key_problem(self) -> str:
        """Why the key cannot be sent, with the remedy; empty if nothing is known to be wrong."""
        if self.variable and not self.key:
            return f"no key: set the environment variable {self.variable}"
        if not (self.key.isascii() and self.key.isprintable()):
            return f"what {self.variable} has is no key: set it to plain ASCII, on one line"
        return ""

    @property
    def forms(self) -> tuple[str, ...]:
        """How the form of an answer may be enforced, the preferred way first; a text in words has none."""
        return ("none",)

    def dialect(self) -> Dialect:
        """The ways of asking that these options leave open."""
        # OpenAI's newer models know only the new name, other services mostly the old one.
        lengths = LENGTHS[::-1] if self.is_openai else LENGTHS
        return Dialect(
            length=lengths if self.length_parameter == "auto" else (self.length_parameter,),
            system=("system", "user") if self.system_role == "auto" else (self.system_role,),
            temperature=(0.0, None) if self.temperature == 0 else (self.temperature,),
            form=self.forms,
        )


class OpenAIChatOptions(ServiceOptions, LanguageModelOptions):
    """Options of :class:`~realignkit_plugins.scorers.openai_chat.OpenAIChatScorer`."""

    structured: Literal["auto", "json_schema", "json_object", "none"] = Field(
        "auto", description="how the form of the answer is enforced; auto: the strictest that the service takes"
    )

    @property
    def forms(self) -> tuple[str, ...]:
        """How the form of an answer may be enforced, the preferred way first."""
        every = {"auto": FORMS, "json_object": ("json_object", "plain_json_object")}
        return every.get(self.structured, (self.structured,))
