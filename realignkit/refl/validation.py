"""Validations: what has been found of held-out prompts, judged by another than the reward, and compared over time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from realignkit.arguments import shown
from realignkit.calls import measure
from realignkit.contracts import Metric, Reward
from realignkit.errors import ModelError, OptionError
from realignkit.named import Named
from realignkit.refl.algorithms import PART
from realignkit.refl.options import TrainingOptions
from realignkit.refl.scope import left_range
from realignkit.types import Validation

if TYPE_CHECKING:
    from PIL.Image import Image

CLEAR = 1.0
"""How many standard errors a mean must move to count as moved, where there is a value per image."""


class Judge:
    """A reward or a metric that decides which weights are best.

    Args:
        plugin: a reward (one value per image), or a metric (values over all of them; it is copied for each
            validation, so it must be as it was made).
        name: what to call it.
        value: which of a metric's values decides; None: the first that is not the count ``n``.

    Raises:
        OptionError: it is neither a reward nor a metric.
    """

    def __init__(self, plugin: Reward | Metric, name: str, value: str | None = None) -> None:
        if isinstance(plugin, type) or not (callable(plugin) or hasattr(plugin, "compute")):
            raise OptionError(f"the judge is a reward or a metric that is made, not {shown(plugin)}.")
        self.named = Named("metric" if hasattr(plugin, "compute") else "reward", name, plugin)
        self.value = value

    @classmethod
    def of(cls, judge: Reward | Metric | Judge | None, name: str | None, reward: Named) -> Judge | None:
        """A judge of a training by ``reward``; what is no judge yet is called ``name``, or else by its class.

        Raises:
            OptionError: it is the training reward itself.
        """
        made = judge if judge is None or isinstance(judge, Judge) else cls(judge, name or type(judge).__name__)
        if made is not None and (made.named.plugin is reward.plugin or made.name == reward.name):
            raise OptionError(
                "the judge is the training reward itself, so it could not notice that the reward is exploited. Give "
                "another reward or a metric, or none."
            )
        return made

    @property
    def name(self) -> str:
        """What it is called."""
        return self.named.name

    @property
    def is_reward(self) -> bool:
        """Whether it gives a value per image."""
        return self.named.kind == "reward"

    @property
    def higher_is_better(self) -> bool:
        """Which way its values are meant."""
        return bool(getattr(self.named.plugin, "higher_is_better", True))

    def judge_all(self, images: Sequence[Image], prompts: Sequence[str]) -> dict[str, float]:
        """A metric's values over all images.

        Raises:
            PluginError: it failed, or computed nothing.
            ModelError: what it computed is no number.
            OptionError: it has no value of that name.
        """
        values = measure(self.named, images, prompts)
        self.deciding(values)
        return values

    def deciding(self, values: dict[str, float]) -> float:
        """The value of a metric that decides.

        Raises:
            PluginError, OptionError, ModelError: as for :meth:`judge_all`.
        """
        if not values:
            raise self.named.breach("it computed no value at all")
        names = [name for name in values if name != "n"] or list(values)
        name = self.value or names[0]
        if name not in values:
            raise OptionError(f"metric '{self.name}' has no value '{name}'. It has: {', '.join(values)}.")
        if not math.isfinite(values[name]):
            raise ModelError(f"metric '{self.name}' computed {values[name]} for {name}. Choose another one.")
        return values[name]


def check_reach(config: TrainingOptions, reward: Named, judge: Judge | None, validates: bool) -> None:
    """Refuse to begin what those that will be asked could not go on with. May ask the network.

    Raises:
        ModelError: one has weights that are neither on this machine nor to be had.
    """
    asked = [reward] if validates or config.reward_weight != 0 else []
    if judge is not None and validates:
        asked.append(judge.named)
    for each in asked:
        each.check_reach(f"Take another {each.kind}; 'realignkit plugins --kind {each.kind}' shows them.")


def validation(
    iteration: int,
    rewards: Sequence[float],
    judge: Judge | None,
    judged: Sequence[float] | dict[str, float],
    parts: Mapping[str, Sequence[float]] | None = None,
    scope: Mapping[str, tuple[float, ...]] | None = None,
) -> Validation:
    """Put together what one validation found.

    Args:
        iteration: optimizer steps done.
        rewards: the training reward per image.
        judge: None: the training reward decides.
        judged: a reward judge's value per image, or a metric's values.
        parts: of a sum of rewards the values of each per image, unweighted.
        scope: see :class:`Validation`.
    """
    values = {"reward": mean(rewards), **{f"{PART}{name}": mean(each) for name, each in (parts or {}).items()}}
    decides, higher, judgements = values["reward"], True, tuple(rewards)
    if judge is not None and isinstance(judged, dict):
        values |= {f"{judge.name}.{name}": value for name, value in judged.items()}
        decides, higher, judgements = judge.deciding(judged), judge.higher_is_better, ()
    elif judge is not None:
        assert not isinstance(judged, dict)
        values[judge.name] = decides = mean(judged)
        judgements = tuple(judged)
    values |= {f"scope.{name}": mean(each) for name, each in (scope or {}).items()}
    return Validation(iteration, values["reward"], decides, higher, values, tuple(rewards), judgements, scope or {})


def mean(values: Sequence[float]) -> float:
    """Of at least one value."""
    return sum(values) / len(values)


def moved(before: Sequence[float], after: Sequence[float]) -> int:
    """-1, 0 or 1: whether the mean fell, stayed or rose by more than :data:`CLEAR` standard errors of the differences.

    The values are paired: same prompts, same noise.
    """
    differences = [b - a for a, b in zip(before, after, strict=True)]
    count = len(differences)
    mean = sum(differences) / count
    if count < 2:
        return (mean > 0) - (mean < 0)
    variance = sum((d - mean) ** 2 for d in differences) / (count - 1)
    error = math.sqrt(variance / count)
    return 0 if abs(mean) <= CLEAR * error or mean == 0 else (1 if mean > 0 else -1)


def hacking(history: Sequence[Validation], judge: str) -> str | None:
    """A warning when the training reward has risen while the held-out judgement has fallen; None when it has not.

    The latest validation is compared with the model as it came, and with the best one so far: both a reward that was
    bad from the start and one that was overdone are noticed.
    """
    if len(history) < 2:
        return None
    now, first = history[-1], history[0]
    best = max(history[:-1], key=lambda item: item.score)
    for since, what in ((first, "the model as it came"), (best, f"iteration {best.iteration}")):
        rewards = moved(since.rewards, now.rewards) if since.rewards else _sign(now.reward - since.reward)
        if since.judgements and now.judgements:
            judged = moved(since.judgements, now.judgements) * (1 if now.higher_is_better else -1)
        else:
            judged = _sign(now.score - since.score)
        if rewards > 0 and judged < 0:
            return (
                f"iteration {now.iteration}: the training reward rose ({since.reward:.4g} to {now.reward:.4g}) while "
                f"the held-out {judge} got worse ({since.judgement:.4g} to {now.judgement:.4g}) since {what}: the "
                f"reward is being exploited. Use the best weights, lower reward_weight or learning_rate, or another "
                f"reward."
            )
    return None


def doubts(history: Sequence[Validation], judge: Judge | None, grid: Path | None) -> list[str]:
    """What the latest validation should make a reader doubt, in words.

    Args:
        history: all validations, the latest last.
        judge: None: an exploited reward is not noticed.
        grid: the file with the latest one's pictures.
    """
    exploited = None if judge is None else hacking(history, judge.name)
    return [warning for warning in (exploited, left_range(history, grid)) if warning is not None]


def last_doubts(history: Sequence[Validation], unjudged: bool) -> list[str]:
    """What a training that has ended should make a reader doubt, in words.

    Args:
        history: all validations.
        unjudged: the reward was validated by itself.
    """
    warnings, best = [], best_of(history)
    if best is not None and best.score <= history[0].score:
        warnings.append(
            f"no weights were judged better than the model as it came ({history[0].judgement:.4g}; best "
            f"{best.judgement:.4g}, iteration {best.iteration}). Do not use them; try another reward, a lower "
            f"learning rate, or fewer iterations."
        )
    if unjudged:
        warnings.append(
            "the training reward was its own judge, so its exploitation could not be noticed. Give a judge."
        )
    return warnings


def _sign(value: float) -> int:
    return (value > 0) - (value < 0)


def best_of(history: Sequence[Validation]) -> Validation | None:
    """The best validation after training began; of equals the first."""
    trained = [item for item in history if item.iteration > 0]
    return max(trained, key=lambda item: item.score) if trained else None


def without_improvement(history: Sequence[Validation]) -> int:
    """How many validations have passed since the best one, the model as it came included."""
    if not history:
        return 0
    scores = [item.score for item in history]
    return len(scores) - 1 - scores.index(max(scores))
