"""Plugins in environments of their own, for packages that cannot be installed beside realignkit's libraries.

Such a plugin is a class here, with its options, and a program there: one Python file that imports nothing of ours. The
class derives from that of its kind below, and names the program::

    class OldReward(IsolatedReward):
        environment = "old-reward"
        requires = ("old-reward==1.5",)
        program = Path(__file__).with_name("old_reward_program.py")

The program has a class ``Plugin``, made with the options as keyword arguments, and called as the contract of its kind
says, but with what every environment has: pictures are uint8 arrays (H, W, 3), tags and captions are dicts of their
fields. A reward is called with a torch tensor, and its gradient comes back through the worker.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from pydantic import Field, SecretStr

from realignkit import contracts
from realignkit.arguments import shown
from realignkit.contracts import Metric, Plugin, Reward, Scorer, Segmenter, Tagger
from realignkit.errors import ModelError, breach, option_secrets
from realignkit.isolation import environments
from realignkit.isolation.process import Process
from realignkit.layout import Likelihood, LocalCaption, Mask, Tag

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

__all__ = [
    "Isolated",
    "IsolatedMetric",
    "IsolatedReward",
    "IsolatedScorer",
    "IsolatedSegmenter",
    "IsolatedTagger",
    "IsolatedVQA",
]


class Isolated(Plugin):
    """Base of a plugin whose work is done by a program in another environment.

    Attributes:
        environment: its name, as ``realignkit env create`` is told.
        requires: what it must hold, as pip takes it.
        python: the version of its Python, such as "3.8"; "": that of this process.
        program: the file that runs there.
    """

    environment: ClassVar[str]
    requires: ClassVar[tuple[str, ...]] = ()
    python: ClassVar[str] = ""
    program: ClassVar[Path]

    class Options(contracts.Options):
        """What every isolated plugin can be told; the others go to the program."""

        timeout: float = Field(600.0, gt=0, description="seconds that an answer may take, loading included")

    options: Any

    def check(self) -> str:
        """The environment that is missing, with the command that makes it."""
        if environments.find(self.environment) is not None:
            return ""
        return (
            f"the environment '{self.environment}' is not on this machine: run "
            f"{environments.remedy(self.environment, self.requires, self.python)}"
        )

    def out_of_reach(self) -> str:
        """As :meth:`check`: nothing can be computed without it."""
        said = self.check()
        return f"{said}." if said else ""

    @cached_property
    def process(self) -> Process:
        """The worker, started when it is first asked.

        Raises:
            ModelError: its environment is missing.
        """
        environment = environments.find(self.environment)
        if environment is None:
            raise ModelError(f"{self.check()}.")
        options, secrets = self.options.model_dump(mode="json", exclude={"timeout"}), option_secrets(dict(self.options))
        for name, value in self.options:
            if isinstance(value, SecretStr):
                options[name] = value.get_secret_value()
        program = Path(self.program)
        return Process(environment, program, "Plugin", options, self.options.timeout, secrets=secrets)

    def _answers(self, **arguments: Any) -> list[Any]:
        """What the program says when it is called with these: a list.

        Raises:
            PluginError: it is none.
        """
        said = self.process.ask("call", **arguments)
        if not isinstance(said, list | np.ndarray):
            raise breach(f"program '{Path(self.program).name}'", f"it gave {shown(said)}, not a list")
        return list(said)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        """Another one with the same options, which starts a worker of its own."""
        return type(self)(**self.options.model_dump())


class IsolatedTagger(Isolated, Tagger):
    """A tagger; its program is called with ``images`` and returns a list of lists of ``[name, confidence]``."""

    def __call__(self, images: Sequence[Image]) -> list[tuple[Tag, ...]]:
        """See :class:`realignkit.contracts.Tagger`."""
        said = self._answers(images=_arrays(images))
        return [tuple(Tag(name, confidence) for name, confidence in each) for each in said]


class IsolatedScorer(Isolated, Scorer):
    """A scorer; its program is called with ``prompt`` and ``tags``, ``[name, confidence]`` each, and returns
    ``[tag, caption, likelihood]`` each.
    """

    def __call__(self, prompt: str, tags: Sequence[Tag]) -> tuple[LocalCaption, ...]:
        """See :class:`realignkit.contracts.Scorer`."""
        said = self._answers(prompt=prompt, tags=[[tag.name, tag.confidence] for tag in tags])
        return tuple(LocalCaption(tag, caption, Likelihood(likelihood)) for tag, caption, likelihood in said)


class IsolatedSegmenter(Isolated, Segmenter):
    """A segmenter; its program is called with ``image`` and ``phrases``; it returns ``[mask, confidence]`` or None."""

    def __call__(self, image: Image, phrases: Sequence[str]) -> list[tuple[Mask, float] | None]:
        """See :class:`realignkit.contracts.Segmenter`."""
        said = self._answers(image=_arrays([image])[0], phrases=list(phrases))
        return [None if each is None else (each[0], each[1]) for each in said]


class IsolatedVQA(Isolated, contracts.VQA):
    """A question answerer; its program is called with ``images``, ``questions`` and ``choices``, and returns texts."""

    def __call__(
        self, images: Sequence[Image], questions: Sequence[str], choices: Sequence[Sequence[str]] | None = None
    ) -> list[str]:
        """See :class:`realignkit.contracts.VQA`."""
        listed = None if choices is None else [list(each) for each in choices]
        return self._answers(images=_arrays(images), questions=list(questions), choices=listed)


class IsolatedReward(Isolated, Reward):
    """A reward; its program is called with a torch tensor, float (B, 3, H, W) in [0, 1], and prompts, and returns (B,).

    Each call seeds the worker's torch from the generator here, so that the same seed draws the same.
    """

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """See :class:`realignkit.contracts.Reward`."""
        from realignkit.isolation.gradients import rate

        return rate(self.process, images, prompts, self.differentiable)


class IsolatedMetric(Isolated, Metric):
    """A metric that looks at each picture alone; its program is called with ``images`` and ``prompts``, and returns a
    dict of numbers for each.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._values: list[dict[str, float]] = []

    def judge_each(self, images: Sequence[Image], prompts: Sequence[str]) -> list[dict[str, float]]:
        """The numbers of each picture, summing up nothing."""
        said = self._answers(images=_arrays(images), prompts=list(prompts)) if images else []
        if len(said) != len(images):
            raise breach(f"program '{Path(self.program).name}'", f"{len(said)} answers for {len(images)} images")
        return [{name: float(value) for name, value in each.items()} for each in said]

    def update(self, images: Sequence[Image], prompts: Sequence[str]) -> None:
        """See :class:`realignkit.contracts.Metric`."""
        self._values += self.judge_each(images, prompts)

    def compute(self) -> dict[str, float]:
        """Means over pictures."""
        names = dict.fromkeys(name for each in self._values for name in each)
        return {name: float(np.mean([each[name] for each in self._values if name in each])) for name in names}

    def merge(self, other: Metric) -> None:
        """See :class:`realignkit.contracts.Metric`."""
        assert isinstance(other, IsolatedMetric)
        self._values += other._values

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        """One that has seen the same, and asks the same worker."""
        twin = type(self)(**self.options.model_dump())
        twin._values = [dict(each) for each in self._values]
        if "process" in self.__dict__:
            twin.__dict__["process"] = self.process
        return twin


def _arrays(images: Sequence[Image]) -> list[Any]:
    return [np.asarray(image.convert("RGB")) for image in images]
