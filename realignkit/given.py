"""A pipeline that the user has made, as the generator of a realigner."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field

from realignkit.arguments import shown
from realignkit.contracts import Generator
from realignkit.contracts import Options as PluginOptions
from realignkit.errors import ModelError, OptionError
from realignkit.pipelines import families, refusals
from realignkit.registry import PluginInfo

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline


class GivenPipeline(Generator):
    """A pipeline as it is: on its device, with its attention, precision and scheduler.

    Raises:
        ModelError: it is no text-to-image pipeline, or a part of it is missing.
    """

    class Options(PluginOptions):
        """What goes on record."""

        model: str = Field("", description="where it was loaded from, as far as it knows")

    def __init__(self, pipeline: DiffusionPipeline) -> None:
        if reason := refusals.why_not_drawn(pipeline):
            raise ModelError(reason)
        super().__init__(model=str(getattr(getattr(pipeline, "config", None), "_name_or_path", "")))
        self._pipeline = pipeline

    @property
    def attention_family(self) -> str | None:  # type: ignore[override]
        """``"unet"``, ``"pixart"``, or None where attention cannot be modulated."""
        family = families.family_of(self._pipeline)
        return None if family is None else family.name

    def pipeline(self) -> DiffusionPipeline:
        """The pipeline."""
        return self._pipeline


def generator_info(model: Any) -> PluginInfo:
    """A generator that is already made, or a pipeline, like a registered one.

    Raises:
        OptionError: it is neither.
        ModelError: see :class:`GivenPipeline`.
    """
    if not isinstance(model, type) and callable(getattr(model, "pipeline", None)):
        made = model
    elif _is_pipeline(model):
        made = GivenPipeline(model)
    else:
        raise OptionError(
            f"a model is the name of a generator, a folder or hub id, a pipeline of diffusers, or a generator that is "
            f"made, not {shown(model)}."
        )
    return PluginInfo("generator", type(model).__name__, "given", _Made(made))


class _Made:
    """Stands where the class of a plugin does."""

    def __init__(self, plugin: Any) -> None:
        self.plugin, self.companions = plugin, getattr(plugin, "companions", {})

    def __call__(self, **options: Any) -> Any:
        if options:
            raise OptionError("options for a generator that is already made: give them when making it.")
        return self.plugin


def _is_pipeline(value: Any) -> bool:
    import diffusers

    if isinstance(value, type):
        return False
    return isinstance(value, diffusers.DiffusionPipeline) or families.is_text_to_image(value)
