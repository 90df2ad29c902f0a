"""The settings that the page offers: in plain words, with the method's names behind them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from realignkit.attention.config import ModulationConfig
from realignkit.errors import OptionError
from realignkit.provenance import differences, in_short

if TYPE_CHECKING:
    from realignkit.realigner import Realigner


@dataclass(frozen=True)
class Setting:
    """One setting.

    Attributes:
        name: the option's, as ``--set`` takes it.
        words: what it does, for people who have not read the paper.
        paper: what the paper calls it, or "".
        low, high, step: of a number; all None for a switch or a text.
    """

    name: str
    words: str
    paper: str = ""
    low: float | None = None
    high: float | None = None
    step: float | None = None

    @property
    def about(self) -> str:
        """The method's names."""
        return f"{self.paper}: {self.name}" if self.paper else self.name

    @property
    def is_switch(self) -> bool:
        """Whether it is on or off."""
        group, name = self.name.split(".")
        return group == "modulation" and ModulationConfig.model_fields[name].annotation is bool


SETTINGS = (
    Setting("modulation.share", "How much of the drawing is steered", "share of the steps", 0, 1, 0.05),
    Setting(
        "modulation.cross_weight", "How strongly words are drawn to their objects", "w, cross-attention", 0, 4, 0.1
    ),
    Setting("modulation.self_weight", "How strongly each object keeps to itself", "w, self-attention", 0, 4, 0.1),
    Setting("modulation.power", "How soon the steering fades", "p of λ_t = w · (t / T)^p", 0, 20, 0.5),
    Setting("modulation.size_weight", "How much less large objects are steered", "1 − B", 0, 1, 0.1),
    Setting("modulation.append_missing", "Add to the prompt what it does not say of an object", "l_i"),
    Setting("modulation.suppress_unlikely", "Push away what does not belong", "s_i = 0"),
    Setting("modulation.verify", "Keep the first picture if an object gets lost"),
    Setting("sampling.num_inference_steps", "Steps of a drawing (0: as the model likes)", "T", 0, 100, 1),
    Setting(
        "sampling.guidance_scale", "How closely the prompt is followed (0: as the model likes)", "guidance", 0, 20, 0.5
    ),
    Setting("sampling.negative_prompt", "What to steer away from"),
)


def values_of(realigner: Realigner) -> list[Any]:
    """The value of each of :data:`SETTINGS`, as the page shows it: what is left to the model is 0, or empty."""
    shown = []
    for setting in SETTINGS:
        group, name = setting.name.split(".")
        value = getattr(getattr(realigner, group), name)
        shown.append(value if value is not None else "" if setting.high is None else 0)
    return shown


def with_values(realigner: Realigner, values: Sequence[Any]) -> Realigner:
    """A realigner with what the page shows, in the order of :data:`SETTINGS`.

    Raises:
        OptionError: a value is out of its range.
    """
    groups: dict[str, dict[str, Any]] = {"modulation": {}, "sampling": {}}
    for setting, value in zip(SETTINGS, values, strict=True):
        group, name = setting.name.split(".")
        left = group == "sampling" and not value  # to the model
        groups[group][name] = None if left else int(value) if setting.step == 1 else value
    return realigner.with_(**groups)


def recorded(realigner: Realigner, settings: Mapping[str, Any]) -> Realigner:
    """A realigner with the attention and the sampling of a record.

    Raises:
        OptionError: the record is of the model with other options, has an option that is not known, or a bad value.
    """
    here = realigner.settings["generator"]
    if different := differences(settings.get("generator", {}), here):
        raise OptionError(f"its model had other options ({in_short(different)}): start the page with --set generator.…")
    groups = ("modulation", "sampling", "segment_unlikely")
    return realigner.with_(**{name: settings[name] for name in groups if name in settings})
