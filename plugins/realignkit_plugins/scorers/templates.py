"""The prompt templates, as versioned files beside this module: a changed text is a new version, never an edit."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from pathlib import Path
from string import Template
from typing import Any

from realignkit.errors import ModelError, OptionError
from realignkit.types import Tag

FOLDER = Path(__file__).with_name("prompt_templates")
NEWEST = "v1"

Messages = list[dict[str, Any]]
"""Chat messages: ``role`` is "system", "user" or "assistant", ``content`` is text, or a list of texts and images."""

_SHOWN = 4000  # characters of a bad answer that are quoted when asking again


def versions() -> list[str]:
    """The versions of the templates that there are."""
    return sorted({path.name.split(".")[1] for path in FOLDER.glob("score.*.txt")})


@functools.cache
def template(name: str, version: str, part: str) -> Template:
    """A template file, ``name.version.part.txt``.

    Raises:
        OptionError: there is no such version.
    """
    try:
        return Template((FOLDER / f"{name}.{version}.{part}.txt").read_text(encoding="utf-8").strip())
    except OSError:
        raise OptionError(f"there are no templates '{version}'. Versions: {', '.join(versions())}.") from None


def question(prompt: str, tags: Sequence[Tag], version: str = NEWEST) -> Messages:
    """Ask for the likelihoods and local captions of all tags at once."""
    names = "[" + ", ".join(quoted(tag.name) for tag in tags) + "]"
    return [
        {"role": "system", "content": template("score", version, "system").template},
        {
            "role": "user",
            "content": template("score", version, "user").substitute(prompt=quoted(prompt), tags=names),
        },
    ]


def repair(answer: str, problem: str, version: str = NEWEST, name: str = "score") -> Messages:
    """Show a bad answer again and say what is wrong with it; goes behind the question of template ``name``."""
    shown = _encodable(answer if len(answer) <= _SHOWN else answer[:_SHOWN] + " …")
    text = template(name, version, "repair").substitute(problem=_encodable(problem))
    return [{"role": "assistant", "content": shown}, {"role": "user", "content": text}]


def likelihood_question(prompt: str, tag: str, version: str = NEWEST) -> str:
    """Ask for the likelihood of one tag, as a text that one more word completes."""
    return template("logprob", version, "user").substitute(prompt=quoted(prompt), tag=" ".join(tag.split()))


@functools.cache
def examples(version: str = NEWEST) -> list[dict[str, Any]]:
    """Prompts with tags of known likelihood (``prompt``, ``certain``, ``possible``, ``unlikely``), for calibration."""
    labelled: list[dict[str, Any]] = json.loads(
        (FOLDER / f"logprob.{version}.examples.json").read_text(encoding="utf-8")
    )
    return labelled


def quoted(text: str) -> str:
    """A JSON string in which no chat template finds a control token such as ``</s>`` or ``<|im_end|>``."""
    return json.dumps(_encodable(text), ensure_ascii=False).replace("<", "\\u003c")


def _encodable(text: str) -> str:
    # Half a surrogate pair fits into a Python string and a JSON escape, but into no UTF-8.
    return text.encode(errors="replace").decode()


def chat_template(name: str) -> str:
    """One of our chat templates ("vicuna", "llama2"), in Jinja as checkpoints carry them."""
    return (FOLDER / f"chat.{name}.txt").read_text(encoding="utf-8").strip("\n")


def render_chat(source: str, messages: Messages, **names: Any) -> str:
    """Messages as one text that ends where the assistant begins.

    Args:
        source: a Jinja chat template; run in a sandbox, as it may come from a file somebody else made.
        messages: what was said.
        names: what templates expect besides, such as ``bos_token``.

    Raises:
        ModelError: the template is damaged.
    """
    import jinja2
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def refuse(message: str) -> None:
        raise jinja2.TemplateError(message)

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    try:
        compiled = environment.from_string(source)
        return compiled.render(messages=messages, add_generation_prompt=True, raise_exception=refuse, **names)
    except Exception as error:  # a template is a program, and can fail in any way
        raise ModelError(
            f"the model's chat template cannot be used ({type(error).__name__}: {str(error)[:200]}). "
            f"Choose one with chat_template='vicuna' or 'llama2', or another model file."
        ) from None
