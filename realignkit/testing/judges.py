"""Rewards and metrics held against their contracts: shapes, batches, gradients, sums of parts."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from realignkit import calls
from realignkit.errors import RealignKitError
from realignkit.images import to_tensor
from realignkit.machine import full_precision, networks
from realignkit.named import Named
from realignkit.testing.examples import HOSTILE_PROMPTS, PROMPTS, hostile_images, tiny_images
from realignkit.testing.making import check_pickled, copied
from realignkit.testing.steps import in_words, repeated, seeded, unchanged

if TYPE_CHECKING:
    from torch import Tensor

_STEPS = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
"""Lengths of a step along the gradient, over all pixels together, by which its slope is measured."""
_SLOPE = 0.05
"""Share by which a measured slope may differ from the gradient, in single precision."""


# --- rewards ----------------------------------------------------------------------------------------------------------


def _images() -> Tensor:
    # Off the ends of the range, where rounding and clipping stop a gradient.
    return to_tensor(tiny_images()) * 0.8 + 0.1


def _rewards(reward: Named, images: Tensor, prompts: Sequence[str], gradient: bool = False) -> Tensor:
    rewards: Tensor = seeded(lambda: calls.rewards_of(reward, images, prompts, gradient=gradient))
    return rewards


def _reward_values(reward: Named) -> None:
    images = _images()
    with reward.calling():
        values = reward.plugin(images.clone(), list(PROMPTS))
    _rewards(reward, images, PROMPTS)
    if not values.is_floating_point():
        raise reward.breach(f"rewards are floating point numbers, and these are {values.dtype}")
    if values.device != images.device:
        raise reward.breach(f"images on {images.device} get rewards on {values.device}")
    _ = reward.margin


def _reward_batches(reward: Named) -> None:
    import torch

    images = _images()
    with torch.no_grad(), full_precision():
        if not _draws(reward, images):
            together = _rewards(reward, images, PROMPTS)
            alone = torch.cat([_rewards(reward, images[i : i + 1], [PROMPTS[i]]) for i in range(len(images))])
            backwards = _rewards(reward, images.flip(0), PROMPTS[::-1]).flip(0)
            for other, how in ((alone, "alone"), (backwards, "in another order")):
                if not torch.allclose(together, other, rtol=1e-3, atol=1e-4):
                    raise reward.breach(
                        f"a batch must be its pairs, and {_shown(together)} becomes {_shown(other)} {how}"
                    )
        try:
            none = reward.plugin(images[:0], [])
        except RealignKitError:  # refused in words
            return
    if getattr(none, "shape", None) != (0,):
        raise reward.breach("no images get something else than a tensor of shape (0,)")


def _draws(reward: Named, images: Tensor) -> bool:
    """Whether a reward depends on torch's generator: what it says of a batch then depends on the draws before."""
    import torch

    first = _rewards(reward, images, PROMPTS)
    torch.manual_seed(1)
    return not torch.equal(first, calls.rewards_of(reward, images, PROMPTS))


def _shown(values: Tensor) -> str:
    return "[" + ", ".join(f"{value:.4g}" for value in values.tolist()) + "]"


def _reward_inputs_kept(reward: Named) -> None:
    images = _images()
    before = images.clone()
    prompts = list(PROMPTS)
    # Not a leaf, as pixels that a network has drawn are none: torch does not notice that these are written over.
    seen = (images.requires_grad_() * 1) if getattr(reward.plugin, "differentiable", True) else images
    with reward.calling():
        reward.plugin(seen, prompts)
    if not bool((seen.detach() == before).all()):
        raise reward.breach("it changes the images that it is handed: no operations in place (mul_, clamp_ …)")
    if prompts != list(PROMPTS):
        raise reward.breach("it changes the list of prompts that it is handed")


def _reward_gradient(reward: Named) -> None:
    import torch

    if not getattr(reward.plugin, "differentiable", True):
        return
    with full_precision():
        images = _images().requires_grad_()
        rewards = _rewards(reward, images, PROMPTS, gradient=True)
        rows = [torch.autograd.grad(value, images, retain_graph=True, allow_unused=True)[0] for value in rewards]
        if any(row is None for row in rows):
            raise reward.breach("its gradient does not lead back to its images: compute on the tensor that it gets")
        gradients = torch.stack(rows)
        if not bool(torch.isfinite(gradients).all()):
            raise reward.breach("its gradient is NaN or infinite (square roots and norms have none at 0)")
        diagonal = torch.stack([gradients[i, i] for i in range(len(rows))])
        if (gradients.abs().sum() - diagonal.abs().sum()).item() > 1e-4 * diagonal.abs().sum().item():
            raise reward.breach("an image's reward has a gradient on others of the batch, and a batch is its pairs")
        if not bool(diagonal.any()):
            raise reward.breach("its gradient is 0 for every image: something on the way (rounding, argmax …) has none")
        if not getattr(reward.plugin, "estimated_gradient", False) and not _draws(reward, images.detach()):
            _check_slopes(reward, images.detach(), diagonal)
        _check_weights(reward, rewards)


def _check_slopes(reward: Named, images: Tensor, gradients: Tensor) -> None:
    """Hold gradients against finite differences along them."""
    import torch

    for index in range(len(images)):
        slope = gradients[index].norm().item()
        if slope == 0:
            continue
        way = gradients[index] / slope
        measured, measurable = [], False
        with torch.no_grad():
            for step in _STEPS:
                ends = torch.stack([images[index] + step * way, images[index] - step * way])
                high, low = _rewards(reward, ends, [PROMPTS[index]] * 2).double().tolist()
                measured.append((high - low) / (2 * step))
                measurable = measurable or 2 * step * slope > 1e-4 * max(
                    abs(high), 1e-3
                )  # above the rounding of single precision
        if measurable and min(abs(each - slope) for each in measured) > _SLOPE * slope:
            nearest = min(measured, key=lambda each: abs(each - slope))
            raise reward.breach(
                f"a step along its gradient changes the reward by {nearest:.3g} per unit, and the gradient says "
                f"{slope:.3g}: compute every step with torch, or say estimated_gradient = True where it is meant so"
            )


def _check_weights(reward: Named, rewards: Tensor) -> None:
    """Only pixels learn from a reward."""
    import torch

    torch.autograd.backward(rewards.sum())
    for network in networks((reward.plugin,)):
        name = type(network).__name__
        if any(weight.grad is not None for weight in network.parameters()):
            raise reward.breach(f"the weights of its {name} gather a gradient: freeze them, requires_grad_(False)")
        if network.training:
            raise reward.breach(f"its {name} is in training mode, where dropout draws lots: call eval()")


def _reward_reports(reward: Named) -> None:
    images, prompts = tiny_images(), list(PROMPTS)
    calls.rate(reward, images, prompts)
    calls.rank(reward, images, prompts)
    for method in ("reported", "ranked"):
        if reward.has(method):
            unchanged(reward, functools.partial(getattr(reward.plugin, method), prompts=prompts))


def _reward_hostile(reward: Named) -> None:
    for image in hostile_images():
        call = functools.partial(_rewards, reward, to_tensor([image]), PROMPTS[:1])
        in_words(reward, call, f"an image of {image.width} x {image.height}")
    for prompt in HOSTILE_PROMPTS:
        in_words(reward, functools.partial(_rewards, reward, _images()[:1], [prompt]), f"the prompt '{prompt[:40]}'")


REWARD: Mapping[str, Callable[[Named], object]] = {
    "answers": _reward_values,
    "repeatable": lambda reward: repeated(reward, lambda: _rewards(reward, _images(), PROMPTS).tolist(), "images"),
    "batches": _reward_batches,
    "images kept": _reward_inputs_kept,
    "gradient": _reward_gradient,
    "reported and ranked": _reward_reports,
    "odd images and prompts": _reward_hostile,
    "pickled": check_pickled,
}


# --- metrics ----------------------------------------------------------------------------------------------------------


def _values(metric: Named, *batches: Sequence[int]) -> dict[str, float]:
    """What a fresh copy says that is handed so many batches, each of so many of the pictures, by index."""
    return _computed(metric, _fed(metric, *batches))


def _fed(metric: Named, *batches: Sequence[int]) -> Any:
    fresh, images = copied(metric), tiny_images()
    with metric.calling(), full_precision():
        for batch in batches:
            fresh.update([images[i] for i in batch], [PROMPTS[i] for i in batch])
    return fresh


def _computed(metric: Named, plugin: Any) -> dict[str, float]:
    with metric.calling(), full_precision():
        said = plugin.compute()
    if not isinstance(said, Mapping) or not said:
        raise metric.breach(f"compute() must return numbers by name, not {said!r:.60}")
    for name, value in said.items():
        real = isinstance(value, int | float | np.number) and not isinstance(value, bool)
        if not isinstance(name, str) or not real or not math.isfinite(value):
            raise metric.breach(f"compute() must return finite numbers by name, and '{name}' is {value!r:.60}")
    return dict(said)


def _same(metric: Named, first: Mapping[str, float], second: Mapping[str, float], how: str) -> None:
    close = first.keys() == second.keys() and all(
        math.isclose(first[name], second[name], rel_tol=1e-3, abs_tol=1e-4) for name in first
    )
    if not close:
        raise metric.breach(f"{how}: {dict(first)} against {dict(second)}")


_ALL = tuple(range(len(PROMPTS)))


def _metric_values(metric: Named) -> None:
    _values(metric, _ALL)
    if not isinstance(getattr(metric.plugin, "higher_is_better", True), bool):
        raise metric.breach("higher_is_better must be True or False")


def _metric_batches(metric: Named) -> None:
    whole = _values(metric, _ALL)
    _same(
        metric,
        whole,
        _values(metric, *([i] for i in _ALL)),
        "one picture at a time gives other numbers than all",
    )
    _same(metric, whole, _values(metric, _ALL, ()), "an update without pictures changes the numbers")
    plugin = _fed(metric, _ALL)
    _computed(metric, plugin)
    _same(metric, whole, _computed(metric, plugin), "compute() gives other numbers the second time")


def _metric_merged(metric: Named) -> None:
    first, second = _fed(metric, _ALL[:2]), _fed(metric, _ALL[2:])
    with metric.calling():
        first.merge(second)
    _same(metric, _values(metric, _ALL), _computed(metric, first), "two halves merged give others than the whole")


def _metric_each(metric: Named) -> None:
    if not metric.has("judge_each"):
        return
    images, prompts = tiny_images(), list(PROMPTS)
    with metric.calling(), full_precision():
        records = list(copied(metric).judge_each(images, prompts))
    if len(records) != len(images) or not all(isinstance(record, Mapping) for record in records):
        raise metric.breach(f"judge_each() must return a mapping for each of {len(images)} images")
    for record in records:
        for name, value in record.items():
            fine = isinstance(value, list) if name == "details" else isinstance(value, int | float | np.number)
            if not isinstance(name, str) or not fine:
                raise metric.breach(f"judge_each() must return numbers by name, and '{name}' is {value!r:.60}")
    _json(metric, "judge_each()", [{k: v if k == "details" else float(v) for k, v in each.items()} for each in records])


def _metric_kept(metric: Named) -> None:
    if metric.has("state") != metric.has("restore"):
        raise metric.breach("it has one of state() and restore(state): both are needed to go on after a kill")
    if metric.has("state"):
        with metric.calling():
            state = _fed(metric, _ALL[:3]).state()
            if not isinstance(state, Mapping) or not all(isinstance(v, np.ndarray) for v in state.values()):
                raise metric.breach("state() must return numpy arrays by name")
            back = copied(metric)
            back.restore({name: values.copy() for name, values in state.items()})
            back.update(tiny_images()[3:], list(PROMPTS[3:]))
        _same(metric, _values(metric, _ALL), _computed(metric, back), "restored from its state() it goes on otherwise")


def _metric_says(metric: Named) -> None:
    if metric.has("identity"):
        with metric.calling():
            _json(metric, "identity()", copied(metric).identity())
    if metric.has("can_judge"):
        with metric.calling():
            said = [metric.plugin.can_judge(prompt) for prompt in (*PROMPTS, *HOSTILE_PROMPTS)]
        if not all(isinstance(each, bool) for each in said):
            raise metric.breach("can_judge() must return True or False")


def _json(metric: Named, method: str, values: Any) -> None:
    try:
        json.dumps(values)
    except (TypeError, ValueError) as error:
        raise metric.breach(f"what {method} returns must be JSON: {error}") from error


METRIC: Mapping[str, Callable[[Named], object]] = {
    "answers": _metric_values,
    "repeatable": lambda metric: repeated(metric, lambda: _values(metric, _ALL), "images"),
    "batches": _metric_batches,
    "merged": _metric_merged,
    "images kept": lambda metric: unchanged(metric, lambda images: copied(metric).update(images, list(PROMPTS))),
    "each image": _metric_each,
    "state": _metric_kept,
    "identity": _metric_says,
    "pickled": check_pickled,
}
