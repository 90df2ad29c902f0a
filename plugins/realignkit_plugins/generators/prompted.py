"""What the baselines have in common: an ordinary pipeline that does something with its prompts first."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any


class PromptedPipeline(ABC):
    """A text-to-image pipeline that is called with prompts; everything but drawing is the inner pipeline's own."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or "inner" not in self.__dict__:
            raise AttributeError(name)
        return getattr(self.inner, name)

    def __call__(
        self,
        prompt: list[str],
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        height: int | None = None,
        width: int | None = None,
        negative_prompt: list[str] | None = None,
        generator: Any = None,
        output_type: str = "pil",
        callback_on_step_end: Any = None,
    ) -> Any:
        """What the inner pipeline returns; None leaves an option to it."""
        options = {
            "num_inference_steps": num_inference_steps,
            "guidance_scale": guidance_scale,
            "height": height,
            "width": width,
            "negative_prompt": negative_prompt,
            "generator": generator,
            "callback_on_step_end": callback_on_step_end,
        }
        given = {name: value for name, value in options.items() if value is not None}
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        return self.draw(prompts, output_type=output_type, **given)

    @abstractmethod
    def draw(self, prompts: list[str], **options: Any) -> Any:
        """Draw prompts with the inner pipeline's options, as the inner pipeline would return it."""
