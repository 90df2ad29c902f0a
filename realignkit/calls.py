"""Every call of a plugin or hook: its result is held against :mod:`realignkit.contracts`.

They get copies of pictures and lists, and of tensors that no gradient leads back to.
"""

from __future__ import annotations

import contextlib
import copy
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from realignkit import layout as layouts
from realignkit.arguments import shown
from realignkit.errors import FOREIGN, ModelError, PluginError, ScorerError, breach, hidden_in, redacted, with_article
from realignkit.images import to_tensor
from realignkit.machine import full_precision, suited_threads
from realignkit.named import Named
from realignkit.realignment import Realignment, copied
from realignkit.registry import Registry
from realignkit.types import Answer, Layout, LocalCaption, Segment, Tag

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from realignkit.types import TrainState

Q = TypeVar("Q")
R = TypeVar("R")


def texts_of(prompts: Named) -> list[str]:
    """The prompts of a set.

    Raises:
        PluginError: the set failed, or one of its prompts is no text.
    """
    with prompts.blame():
        texts = list(prompts.plugin)
    if strangers := [text for text in texts if not isinstance(text, str)]:
        raise prompts.breach(f"{strangers[0]!r} is no text")
    return texts


def tag_images(tagger: Named, images: Sequence[Image]) -> list[tuple[Tag, ...]]:
    """Tag a batch; of tags with the same name in one image the first is kept.

    Raises:
        PluginError: the tagger failed or broke its contract.
    """
    with tagger.calling():
        said = layouts.listed(tagger.whose, tagger.plugin([image.copy() for image in images]), "tags for each image")
        tags = [layouts.listed(tagger.whose, each, "a tuple of tags, for an image") for each in said]
    if len(tags) != len(images):
        raise tagger.breach(f"{len(tags)} answers for {len(images)} images")
    return [layouts.checked_tags(tagger.whose, each) for each in tags]


@dataclass(frozen=True)
class Attempt:
    """One scorer's try: its valid captions with its notes, or None with the reason (a word or two), a message, whether
    it is worth another try later (not ``final``), and what was raised.
    """

    captions: tuple[LocalCaption, ...] | None
    reason: str = ""
    message: str = ""
    final: bool = True
    notes: tuple[str, ...] = ()
    error: BaseException | None = None


def attempt(scorer: Named, prompt: str, tags: Sequence[Tag]) -> Attempt:
    """Ask one scorer, and hold its answer against the contract. Never raises."""
    try:
        with suited_threads(scorer.plugin):
            captions, problem = layouts.checked_answer(scorer.plugin(prompt, tuple(tags)), tags)
        say = getattr(scorer.plugin, "notes", None)
        said = () if problem or say is None else say(prompt, captions)
        notes = (said,) if isinstance(said, str) else tuple(map(str, said))
    except FOREIGN as error:  # a contract of the chain: any failure hands over to the next one
        # Services like to quote the key that they refuse; the message ends up in files that people share.
        message = hidden_in(f"{type(error).__name__}: {error}", scorer.secrets)
        if isinstance(error, ScorerError):
            return Attempt(None, error.reason, message, error.final, error=error)
        return Attempt(None, type(error).__name__, message, final=False, error=error)
    if problem:
        return Attempt(None, "contract", problem)
    return Attempt(captions, notes=tuple(redacted(note, scorer.secrets) for note in notes))


def answer(
    scorers: Sequence[Named],
    prompt: str,
    tags: Sequence[Tag],
    gates: Sequence[contextlib.AbstractContextManager[Any]] = (),
) -> Answer:
    """Ask the scorers in turn until one gives exactly one local caption per tag, in order.

    ``gates``: one per scorer, entered around its call.

    Raises:
        PluginError: all of them failed; the message has every reason.
    """
    if not tags:
        return Answer((), scorers[0].name)  # every scorer's answer to nothing; no LLM need be asked
    failures: dict[str, str] = {}
    for scorer, gate in zip(scorers, gates or [contextlib.nullcontext()] * len(scorers), strict=True):
        with gate:
            tried = attempt(scorer, prompt, tags)
        if tried.captions is not None:
            return Answer(tried.captions, scorer.name, failures, tried.notes)
        failures[scorer.name] = tried.message
    reasons = "; ".join(f"{name}: {reason}" for name, reason in failures.items())
    raise PluginError(f"no scorer answered ({reasons}). Add 'lexical' to the chain: it always answers.")


def answers(
    scorers: Sequence[Named],
    questions: Sequence[tuple[str, Sequence[Tag]]],
    on_done: Callable[[int], None] | None = None,
) -> list[Answer]:
    """:func:`answer` for many (prompt, tags), at once as far as the scorers can take it.

    ``on_done``: called with the number of questions answered so far.

    Raises:
        PluginError: all scorers failed for a question.
    """
    limits = [concurrency(scorer) for scorer in scorers]
    gates = [threading.BoundedSemaphore(limit) for limit in limits]
    return spread(lambda question: answer(scorers, *question, gates), questions, max(limits), on_done)


def concurrency(scorer: Named) -> int:
    """How many calls, each in a thread of its own, a scorer can take at once.

    Raises:
        PluginError: it says something else than a number.
    """
    said = getattr(scorer.plugin, "concurrency", 1)
    try:
        return max(1, int(said))
    except (TypeError, ValueError, OverflowError) as error:
        raise scorer.breach(f"its concurrency is {shown(said)}, no whole number") from error


def spread(
    work: Callable[[Q], R], items: Sequence[Q], workers: int, on_done: Callable[[int], None] | None = None
) -> list[R]:
    """``[work(item) for item in items]`` in up to so many threads; the first exception stops what has not begun."""
    report = on_done or (lambda done: None)
    if min(workers, len(items)) <= 1:
        results = []
        for number, item in enumerate(items, start=1):
            results.append(work(item))
            report(number)
        return results
    with ThreadPoolExecutor(min(workers, len(items)), thread_name_prefix="realignkit") as pool:
        futures = [pool.submit(work, item) for item in items]
        try:
            for number, future in enumerate(as_completed(futures), start=1):
                future.result()
                report(number)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [future.result() for future in futures]


def segment_image(segmenter: Named, image: Image, captions: Sequence[LocalCaption]) -> tuple[Layout, tuple[str, ...]]:
    """Find each caption's mask; a note for each that has none.

    Raises:
        PluginError: the segmenter failed or broke its contract.
    """
    if not captions:
        return Layout(), ()
    with segmenter.calling():
        said = segmenter.plugin(image.copy(), [caption.caption for caption in captions])
        results = layouts.listed(segmenter.whose, said, "(mask, confidence) or None for each phrase")
    if len(results) != len(captions):
        raise segmenter.breach(f"{len(results)} answers for {len(captions)} phrases")
    segments, notes = [], []
    for caption, result in zip(captions, results, strict=True):
        segment = None if result is None else _segment(segmenter, image, caption, result)
        if segment is None:
            notes.append(
                f"no mask for '{caption.caption}', so its attention stays as it is; "
                f"a lower segmenter threshold or another segmenter may find it"
            )
        else:
            segments.append(segment)
    return Layout(tuple(segments)), tuple(notes)


def _segment(segmenter: Named, image: Image, caption: LocalCaption, result: Any) -> Segment | None:
    try:
        mask, confidence = result
        # A copy, because segmenters may use their memory again.
        mask, confidence = np.array(mask), float(confidence)
    except (TypeError, ValueError) as error:
        raise segmenter.breach(f"the answer for '{caption.caption}' is no (mask, confidence)") from error
    if problem := layouts.mask_problem(mask, image.size) or layouts.confidence_problem(confidence):
        raise segmenter.breach(problem)
    return Segment(caption, mask, confidence) if mask.any() else None


# --- rewards and metrics ----------------------------------------------------------------------------------------------


def rewards_of(reward: Named, images: Tensor, prompts: Sequence[str], *, gradient: bool = False) -> Tensor:
    """Rewards, float32 (B,), of images (B, 3, H, W) in [0, 1].

    Args:
        reward: whom to ask.
        images: on any device.
        prompts: one per image.
        gradient: whether the rewards must have one.

    Raises:
        PluginError: the reward failed, or did not give one number per image, or no gradient where one is needed.
        ModelError: a reward is NaN or infinite.
    """
    with reward.calling():
        values = reward.plugin(images if images.requires_grad else images.clone(), list(prompts))
    rewards = _finite(reward, values, prompts)
    if gradient and not rewards.requires_grad:
        raise reward.breach("it says that it is differentiable, but its rewards have no gradient")
    return rewards


def rate(reward: Named, images: Sequence[Image], prompts: Sequence[str], device: Any = "cpu") -> list[float]:
    """The rewards of PIL images as they are reported, without gradient.

    A reward with a method ``reported(images, prompts)`` says itself what that is: eq. 4's greedy caption, say, where
    an estimator is what it trains with.

    Raises:
        PluginError, ModelError: as for :func:`rewards_of`.
    """
    return _judge(reward, images, prompts, device, ("reported",))


def rank(reward: Named, images: Sequence[Image], prompts: Sequence[str]) -> list[float]:
    """Numbers by which to choose among images of the same prompt, higher is better, without gradient.

    A reward with a method ``ranked(images, prompts)`` says itself what they are: a number made of words, say, is the
    same for many images. They need not be comparable between prompts. Without it they are those of :func:`rate`.

    Raises:
        PluginError, ModelError: as for :func:`rewards_of`.
    """
    return _judge(reward, images, prompts, "cpu", ("ranked", "reported"))


def _judge(
    reward: Named, images: Sequence[Image], prompts: Sequence[str], device: Any, methods: Sequence[str]
) -> list[float]:
    import torch

    if not images:
        return []
    method: Any = next((getattr(reward.plugin, each) for each in methods if hasattr(reward.plugin, each)), None)
    with torch.no_grad(), full_precision():
        if method is None:
            return [float(value) for value in rewards_of(reward, to_tensor(images).to(device), prompts)]
        with reward.calling():
            values = method([image.copy() for image in images], list(prompts))
        return [float(value) for value in _finite(reward, values, prompts)]


def _finite(reward: Named, values: Any, prompts: Sequence[str]) -> Tensor:
    """What a reward gave, as float32 (B,)."""
    import torch

    if not isinstance(values, torch.Tensor):
        raise reward.breach(f"it gave {with_article(type(values).__name__)}, not a tensor")
    if values.shape != (len(prompts),):
        raise reward.breach(f"{len(prompts)} images got rewards of shape {tuple(values.shape)}")
    if values.is_complex():
        raise reward.breach("its rewards are complex numbers")
    rewards = values.float()
    if (bad := ~torch.isfinite(rewards)).any():
        raise ModelError(
            f"{reward.whose} computed NaN or infinity for {int(bad.sum())} of {len(prompts)} images, the first for "
            f"'{prompts[int(bad.nonzero()[0])]}'. Run the reward in float32, or take another."
        )
    return rewards


def measure(metric: Named, images: Sequence[Image], prompts: Sequence[str]) -> dict[str, float]:
    """A metric's values over images (RGB), by name; the metric itself stays as it was.

    Raises:
        PluginError: it failed.
    """
    with metric.calling(), full_precision():
        fresh = copy.deepcopy(metric.plugin)
        fresh.update([image.copy() for image in images], list(prompts))
        return {name: float(value) for name, value in fresh.compute().items()}


# --- hooks ------------------------------------------------------------------------------------------------------------


def before_refine(registry: Registry, prompt: str, layout: Layout, size: tuple[int, int]) -> Layout:
    """Pass a layout through every plugin's ``before_refine``, each seeing what the one before returned.

    ``size``: (width, height) of the image.

    Raises:
        PluginError: a plugin failed or returned something else than a layout of the image's size.
    """
    for whose, result in registry.call_each(
        "before_refine",
        lambda: {"prompt": prompt, "layout": layouts.copied_layout(layout)},  # noqa: B023 - of the one before
    ):
        if result is None:
            continue
        if problem := layouts.layout_problem(result, size):
            raise breach(whose, problem)
        layout = layouts.copied_layout(result)
    return layout


def after_realign(registry: Registry, realignment: Realignment) -> None:
    """Show a copy of a finished realignment to every plugin's ``after_realign``.

    Raises:
        PluginError: a plugin failed.
    """
    list(registry.call_each("after_realign", lambda: {"realignment": copied(realignment)}))


def after_train_step(registry: Registry, state: TrainState) -> bool:
    """Show a finished training step to every plugin's ``after_train_step``; whether one of them wants to stop.

    Raises:
        PluginError: a plugin failed, or returned something else than True, False or None.
    """
    results = list(registry.call_each("after_train_step", lambda: {"state": state}))
    for whose, result in results:
        if not isinstance(result, bool | np.bool_ | None):
            raise breach(whose, f"it must return True to end the run, or None, not {shown(result)}")
    return any(result for _, result in results)
