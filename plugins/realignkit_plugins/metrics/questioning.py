"""What metrics share that mark each image, or ask questions about it: who answers, and numbers over a set."""

from __future__ import annotations

import statistics
from abc import abstractmethod
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pydantic import Field

from realignkit.contracts import Metric
from realignkit.contracts import Options as PluginOptions
from realignkit.errors import OptionError, PluginError
from realignkit.named import Named
from realignkit.registry import default_registry
from realignkit.resolve import make

if TYPE_CHECKING:
    from PIL.Image import Image

Record = Mapping[str, Any]


class MarkMetric(Metric):
    """A metric that marks each image by itself (:meth:`judge_each`); its numbers over a set are means by prompt."""

    yes_or_no = ()  # a mark of 0 or 1, such as the share of one question, is no yes or no
    options: Any

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.seen: list[Record] = []

    @abstractmethod
    def judge_each(self, images: Sequence[Image], prompts: Sequence[str]) -> list[dict[str, Any]]:
        """Values of each image alone, and under ``details`` what they were made from."""

    def summarise(self, records: Sequence[Record]) -> dict[str, float]:
        """The means over prompts of the means over their images."""
        names = dict.fromkeys(name for record in records for name, value in record.items() if _is_value(name, value))
        return {name: mean_by_prompt(records, name) for name in names}

    def update(self, images: Sequence[Image], prompts: Sequence[str]) -> None:
        """Take in images (RGB) and their prompts; errors as for :meth:`judge_each`."""
        judged = self.judge_each(images, prompts)
        self.seen += [{**values, "prompt": prompt} for prompt, values in zip(prompts, judged, strict=True)]

    def compute(self) -> dict[str, float]:
        """:meth:`summarise` of everything taken in, and ``n``.

        Raises:
            PluginError: nothing has been judged yet.
        """
        if not self.seen:
            raise PluginError("nothing to compute: call update(images, prompts) first.")
        return {**self.summarise(self.seen), "n": len(self.seen)}

    def merge(self, other: Metric) -> None:
        """Take in what another has judged.

        Raises:
            PluginError: it is another metric, or has other options.
        """
        if not isinstance(other, MarkMetric) or type(other) is not type(self) or other.options != self.options:
            raise PluginError(f"cannot merge another metric into {type(self).__name__}. Use equal options.")
        self.seen += other.seen


class QuestionMetric(MarkMetric):
    """A metric that has a plugin of kind ``vqa`` answer questions about each image.

    A child says what is found out about each image (:meth:`judge_each`), and may :meth:`summarise` in its own way.
    """

    class Options(PluginOptions):
        """Options of every metric that asks questions."""

        vqa: str = Field("blip_vqa", description="who answers: name of a vqa plugin", min_length=1)
        vqa_options: dict[str, Any] = Field({}, description="its options")

    @cached_property
    def answerer(self) -> Named:
        """Who answers, under its name.

        Raises:
            PluginError: there is none of that name.
            OptionError: it does not know an option.
        """
        (named,) = make([default_registry().info("vqa", self.options.vqa)], self.options.vqa_options)
        return named

    @property
    def vqa(self) -> Any:
        """Who answers."""
        return self.answerer.plugin

    @property
    def usage(self) -> Any:
        """What the question answerer has used of a service; None of one that asks none."""
        return getattr(self.vqa, "usage", None)

    def check(self) -> str:
        """What keeps the question answerer from working here."""
        return str(self.vqa.check()) if hasattr(self.vqa, "check") else ""

    def out_of_reach(self) -> str:
        """What the question answerer cannot get, see :class:`realignkit.contracts.Plugin`."""
        return str(getattr(self.vqa, "out_of_reach", str)())

    def identity(self) -> dict[str, Any]:
        """Who answers, with its options, and what it says of itself."""
        says = self.vqa.identity() if hasattr(self.vqa, "identity") else {}
        return {"vqa": self.options.vqa, **{f"vqa.{name}": value for name, value in says.items()}}


def check_pairs(images: Sequence[Any], prompts: Sequence[str]) -> None:
    """Refuse another number of prompts than of images.

    Raises:
        OptionError: it is another one.
    """
    if len(images) != len(prompts):
        raise OptionError(f"{len(images)} images but {len(prompts)} prompts: give one prompt per image.")


def mean_by_prompt(records: Sequence[Record], name: str) -> float:
    """The mean over prompts of the means over their images, of those that have the value."""
    prompts: dict[str, list[float]] = defaultdict(list)
    for record in records:
        if name in record:
            prompts[record["prompt"]].append(record[name])
    return statistics.fmean(statistics.fmean(values) for values in prompts.values())


def pooled(records: Sequence[Record], group: str, value: str) -> dict[str, float]:
    """The mean of a detail's value in each group of details, over all images.

    Args:
        records: of images, each with ``details``.
        group: what a detail is grouped by.
        value: which of its values.
    """
    groups: dict[str, list[float]] = defaultdict(list)
    for record in records:
        for detail in record.get("details", ()):
            groups[detail[group]].append(float(detail[value]))
    return {name: statistics.fmean(values) for name, values in groups.items()}


def _is_value(name: str, value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and name not in ("id", "seed", "index", "n")
