"""What is found out about each picture: a metric's verdict, rewards as scores, features."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from realignkit.calls import measure, rate
from realignkit.errors import ModelError, OptionError, ScorerError
from realignkit.evaluation.results import Features
from realignkit.images import image_files, open_image
from realignkit.machine import full_precision
from realignkit.named import Named
from realignkit.provenance import EFFORT, MACHINE, contents, digest_of, stamps, without
from realignkit.registry import Registry
from realignkit.resolve import make, measuring_reward

if TYPE_CHECKING:
    from PIL.Image import Image

REFERENCES = 1000
"""Reference pictures that a metric draws at most."""
PER_PROMPT = 4
DETAILS = "details"
"""What is no value in a metric's mapping for a picture, but a list of what it found, a dict each."""


@dataclass(frozen=True, eq=False)
class Judgement:
    """What was found out about one picture; see :class:`realignkit.evaluation.results.Measurement`."""

    values: Mapping[str, float]
    scores: Mapping[str, float] = field(default_factory=dict)
    features: Features | None = None


class Inquiry:
    """A metric, asked about prompts and pictures; what it gets no usable answer about is left out, and ends nothing.

    It is not asked again about a prompt. :attr:`PATIENCE` failures before anything else end all the same: whom it asks
    is taken to be unable.

    Attributes:
        left_out: what was left out and why, a sentence each.
        heard: whether it has said anything of a picture.
    """

    PATIENCE = 5

    def __init__(self, metric: Named) -> None:
        self.metric, self.heard = metric, False
        self.left_out: list[str] = []
        self._known: dict[str, bool] = {}

    def knows(self, prompt: str) -> bool:
        """Whether it can judge pictures of a prompt; one without ``can_judge(prompt)`` takes any.

        Raises:
            PluginError: it failed.
            ScorerError: it cannot ask, or gets no usable answer about any prompt.
        """
        if prompt not in self._known:
            try:
                with self.metric.blame():
                    able = bool(self.metric.plugin.can_judge(prompt)) if self.metric.has("can_judge") else True
            except ScorerError as error:
                self._leave_out(f"'{prompt[:60]}'", error, any(self._known.values()))
                able = False
            self._known[prompt] = able
        return self._known[prompt]

    def judge_each(self, images: Sequence[Image], prompts: Sequence[str]) -> list[dict[str, Any]]:
        """As :func:`judge_each`; nothing of a picture that is left out.

        Raises:
            ScorerError: it cannot ask, or gets no usable answer about any picture.
        """
        try:
            judged = judge_each(self.metric, images, prompts)
        except ScorerError as error:
            if len(images) > 1 and error.final:  # find out which
                return [self.judge_each([image], [text])[0] for image, text in zip(images, prompts, strict=True)]
            self._leave_out(f"a picture of '{prompts[0][:60]}'", error, self.heard)
            return [{}]
        self.heard = True
        return judged

    def _leave_out(self, what: str, error: ScorerError, otherwise: bool) -> None:
        if not error.final or (len(self.left_out) >= self.PATIENCE and not otherwise):
            raise error
        self.left_out.append(f"{self.metric.whose} leaves out {what}: {error}")


class Judging:
    """A metric, rewards, and whoever has features.

    Args:
        registry: where plugins are looked up.
        metric: its name, or ``name.value`` where another of its values decides than the first.
        options: of the metric.
        scores: rewards (specs, see :func:`realignkit.resolve.make_reward`) whose mean is shown beside the metric.
        companions: the generator's.
        reference: a folder of pictures for the Fréchet distance; None: the metric's own, where it draws some.

    Raises:
        PluginError: an unknown metric or reward.
        OptionError: an unknown option, or a reference folder without pictures or without anybody to look at them.
    """

    def __init__(
        self,
        registry: Registry,
        metric: str,
        *,
        options: Mapping[str, Any] | None = None,
        scores: Sequence[str] = (),
        companions: Mapping[str, str] | None = None,
        reference: Path | None = None,
    ) -> None:
        name, _, self.value = metric.partition(".")
        (self.metric,) = make([registry.info("metric", name)], options or {})
        self.scores = [Named("reward", spec, measuring_reward(registry, spec, None, companions)) for spec in scores]
        self.companions = dict(companions or {})
        able = [judge for judge in (self.metric, *self.scores) if judge.has("features")]
        self._eyes = able[0] if able else None
        if reference is not None and self._eyes is None:
            raise OptionError(
                f"--reference needs features of pictures: neither {self.metric.whose} nor a --score has them. "
                f"Add --score clip."
            )
        self._files = [] if reference is None else _pictures(reference)
        if self._eyes is not None and not self._files and not self.metric.has("reference"):
            self._eyes = None

    @cached_property
    def inquiry(self) -> Inquiry:
        """The metric, asked about pictures."""
        return Inquiry(self.metric)

    @property
    def settings(self) -> dict[str, Any]:
        """What results depend on, as JSON values."""
        return {
            "metric": {"name": self.metric.name, **self.metric.options},
            "scores": {reward.name: reward.options for reward in self.scores},
            "features": None if self._eyes is None else self._eyes.name,
            "reference": None if self._eyes is None else _fingerprint(self._files) if self._files else self.metric.name,
        }

    @cached_property
    def contents(self) -> dict[str, str]:
        """What is in the files that options of the metric and of the scores name, by the option's dotted name."""
        options = {"metric": self.metric.options, "scores": {reward.name: reward.options for reward in self.scores}}
        return contents(without(options, MACHINE | EFFORT))

    def able(self, prompts: Sequence[str], say: Callable[[str], None] = lambda text: None) -> list[str]:
        """The prompts that the metric knows; ``say`` is told about which it got no usable answer.

        Raises:
            OptionError: it knows none of them.
            ScorerError: see :class:`Inquiry`.
        """
        inquiry = Inquiry(self.metric)
        judged = [prompt for prompt in prompts if inquiry.knows(prompt)]
        for text in inquiry.left_out:
            say(text)
        if not judged:
            raise OptionError(
                f"{self.metric.whose} can judge none of {len(prompts)} prompts. Give prompts that it knows, or "
                f"another --metric."
            )
        return judged

    def __call__(self, images: Sequence[Image], prompts: Sequence[str], batch_size: int) -> list[Judgement]:
        """Look at pictures (RGB) of these prompts.

        Raises:
            PluginError: a metric or reward failed.
            ModelError: what it computed is no number.
            OptionError: the metric has no value of the wanted name.
            ScorerError: it gets no usable answer about any picture; where it gets some, others have no values.
        """
        values = self._values(images, prompts)
        scores: list[dict[str, float]] = [{} for _ in images]
        features: list[Features | None] = [None] * len(images)
        for start in range(0, len(images), batch_size):
            part = slice(start, start + batch_size)
            for reward in self.scores:
                for place, score in enumerate(rate(reward, images[part], prompts[part]), start=start):
                    scores[place][reward.name] = round(score, 6)
            if self._eyes is not None:
                features[part] = list(_features(self._eyes, images[part]))
        return [Judgement(v, s, f) for v, s, f in zip(values, scores, features, strict=True)]

    def _values(self, images: Sequence[Image], prompts: Sequence[str]) -> list[dict[str, float]]:
        ordered: list[dict[str, float]] = []
        for judged in self.inquiry.judge_each(images, prompts):
            if not judged:  # left out
                ordered.append({})
                continue
            numbers = {name: value for name, value in judged.items() if name not in ("n", DETAILS)}
            decides = self.value or next(iter(numbers), "")
            if decides not in numbers:
                raise OptionError(f"{self.metric.whose} has no value '{decides}'. It has: {', '.join(numbers)}.")
            ordered.append({decides: numbers.pop(decides), **numbers})  # what decides comes first
        return ordered

    def reference(self, prompts: Sequence[str], batch_size: int) -> Features | None:
        """Features (m, D) of the reference pictures; None where there are none.

        Args:
            prompts: for a metric that draws what they say: each up to :data:`PER_PROMPT` times, and no more than
                :data:`REFERENCES` pictures unless there are more prompts.
            batch_size: pictures per forward pass.

        Raises:
            OptionError: a picture cannot be read.
            PluginError: the metric failed.
        """
        if self._eyes is None:
            return None
        if self._files:
            batches = [self._files[i : i + batch_size] for i in range(0, len(self._files), batch_size)]
            pictures = ([open_image(path)[0] for path in batch] for batch in batches)
            return np.concatenate([_features(self._eyes, batch) for batch in pictures])
        count = min(PER_PROMPT * len(prompts), max(REFERENCES, len(prompts)))
        with self.metric.blame():
            drawn = list(self.metric.plugin.reference(list(prompts), count))
        starts = range(0, len(drawn), batch_size)
        return np.concatenate([_features(self._eyes, drawn[start : start + batch_size]) for start in starts])


def judge_each(metric: Named, images: Sequence[Image], prompts: Sequence[str]) -> list[dict[str, Any]]:
    """What a metric says of each picture (RGB) alone: floats by name, and perhaps :data:`DETAILS`, as it gave them.

    Without a method of that name, a copy of the metric looks at each.

    Raises:
        PluginError: it failed or broke its contract.
        ModelError: it computed NaN or infinity.
        OptionError: it looks at the set as a whole.
    """
    if metric.has("judge_each"):
        with metric.calling(), full_precision():
            judged = metric.plugin.judge_each([image.copy() for image in images], list(prompts))
            judgements = [dict(values) for values in judged]
    elif metric.has("state"):
        raise OptionError(f"{metric.whose} says nothing of single pictures, which is what is asked for here.")
    else:
        judgements = [measure(metric, [image], [prompt]) for image, prompt in zip(images, prompts, strict=True)]
    if len(judgements) != len(images):
        raise metric.breach(f"{len(images)} images got {len(judgements)} judgements")
    return [_checked(metric, values) for values in judgements]


def _checked(metric: Named, values: Mapping[str, Any]) -> dict[str, Any]:
    details = values.get(DETAILS, [])
    if not isinstance(details, list) or not all(isinstance(each, dict) for each in details):
        raise metric.breach(f"its {DETAILS} are no list of dicts")
    with metric.blame():
        numbers = {name: float(value) for name, value in values.items() if name != DETAILS}
    if not all(math.isfinite(number) for number in numbers.values()):
        raise ModelError(f"{metric.whose} computed NaN or infinity. Choose another one.")
    return {**numbers, DETAILS: details} if DETAILS in values else numbers


def _features(eyes: Named, images: Sequence[Image]) -> Features:
    with eyes.calling(), full_precision():
        features = np.asarray(eyes.plugin.features([image.copy() for image in images]), dtype=np.float32)
    if features.ndim != 2 or len(features) != len(images) or not np.isfinite(features).all():
        raise eyes.breach(f"{len(images)} images got features of shape {features.shape}, or no numbers")
    return features


def _pictures(folder: Path) -> list[Path]:
    files = image_files(folder)
    if len(files) < 2:
        raise OptionError(
            f"{folder} holds {len(files)} pictures; --reference takes a folder with many (PNG, JPEG, WebP)."
        )
    return files


def _fingerprint(files: Sequence[Path]) -> str:
    return f"{len(files)} pictures, {digest_of([*(path.name for path in files), *stamps(files)])}"
