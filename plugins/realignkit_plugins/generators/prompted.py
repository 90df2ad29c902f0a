"""What the baselines have in common: an ordinary pipeline that does something with its prompts first."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any


def takes(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Say which options a call of ``(self, prompt, output_type, **options)`` takes: the engine asks its signature."""

    def state(call: Callable[..., Any]) -> Callable[..., Any]:
        signature = inspect.signature(call)
        fixed = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
        options = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None) for name in names]
        call.__signature__ = signature.replace(parameters=[*fixed, *options])  # type: ignore[attr-defined]
        return call

    return state


class PromptedPipeline(ABC):
    """A text-to-image pipeline that is called with prompts; everything but drawing is the inner pipeline's own."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or "inner" not in self.__dict__:
            raise AttributeError(name)
        return getattr(self.inner, name)

    @takes(
        *("num_inference_steps", "guidance_scale", "height", "width"),
        *("negative_prompt", "generator", "callback_on_step_end"),
    )
    def __call__(self, prompt: list[str], output_type: str = "pil", **options: Any) -> Any:
        """What the inner pipeline returns; None leaves an option to it."""
        given = {name: value for name, value in options.items() if value is not None}
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        return self.draw(prompts, output_type=output_type, **given)

    @abstractmethod
    def draw(self, prompts: list[str], **options: Any) -> Any:
        """Draw prompts with the inner pipeline's options, as the inner pipeline would return it."""
