"""The realigner's calls to plugins, each result held against the contract in :mod:`realignkit.contracts`."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from realignkit import checks
from realignkit.contracts import PromptSet, Scorer, Segmenter, Tagger
from realignkit.errors import FOREIGN, PluginError, RealignKitError, ScorerError, enough_memory
from realignkit.machine import suited_threads
from realignkit.redaction import redacted
from realignkit.registry import Registry
from realignkit.resolve import secrets_of
from realignkit.types import Answer, Layout, Likelihood, LocalCaption, Realignment, Segment, Tag

if TYPE_CHECKING:
    from PIL.Image import Image

    from realignkit.refl.state import TrainState

Q = TypeVar("Q")
R = TypeVar("R")


@contextlib.contextmanager
def blame(what: str, name: str) -> Iterator[None]:
    """Turn whatever a plugin raises into a :class:`PluginError` that names it; our own errors pass.

    Running out of memory is nobody's fault, and a :class:`ModelError`.
    """
    try:
        with enough_memory(f"{what} '{name}'"):
            yield
    except RealignKitError:
        raise
    except FOREIGN as error:  # somebody else's code can raise anything
        raise PluginError(
            f"{what} '{name}' failed: {type(error).__name__}: {error}. Choose another one, or tell its author."
        ) from error


def breach(what: str, name: str, problem: str) -> PluginError:
    """The error for a plugin that broke its contract."""
    return PluginError(f"{what} '{name}' broke its contract: {problem}. Choose another one, or tell its author.")


def texts_of(prompts: PromptSet, name: str) -> list[str]:
    """The prompts of a set.

    Raises:
        PluginError: the set failed, or one of its prompts is no text.
    """
    with blame("prompt set", name):
        found = list(prompts)
    for text in found:
        if not isinstance(text, str):
            raise breach("prompt set", name, f"{text!r} is no text")
    return found


def tag_images(tagger: Tagger, name: str, images: Sequence[Image]) -> list[tuple[Tag, ...]]:
    """Tag a batch; of tags with the same name in one image the first is kept.

    Raises:
        PluginError: the tagger failed or broke its contract.
    """
    with blame("tagger", name), suited_threads(tagger):
        found = [list(tags) for tags in tagger([image.copy() for image in images])]
    if len(found) != len(images):
        raise breach("tagger", name, f"{len(found)} answers for {len(images)} images")
    for tags in found:
        for tag in tags:
            if problem := checks.tag_problem(tag):
                raise breach("tagger", name, problem)
    return [checks.distinct(tags) for tags in found]


def answer(scorers: Sequence[tuple[str, Scorer]], prompt: str, tags: Sequence[Tag]) -> Answer:
    """Ask the scorers in turn until one gives exactly one local caption per tag, in order.

    Raises:
        PluginError: all of them failed; the message has every reason.
    """
    if not tags:
        return Answer((), scorers[0][0])  # every scorer's answer to nothing; no LLM need be asked
    failures: dict[str, str] = {}
    for name, scorer in scorers:
        found = attempt(scorer, prompt, tags)
        if found.captions is not None:
            return Answer(found.captions, name, failures, found.notes)
        failures[name] = found.message
    reasons = "; ".join(f"{name}: {reason}" for name, reason in failures.items())
    raise PluginError(f"no scorer answered ({reasons}). Add 'lexical' to the chain: it always answers.")


@dataclass(frozen=True)
class Attempt:
    """One scorer's try: its valid captions with its notes, or None with the reason (a word or two), a message, and
    whether it is worth another try later (not ``final``).
    """

    captions: tuple[LocalCaption, ...] | None
    reason: str = ""
    message: str = ""
    final: bool = True
    notes: tuple[str, ...] = ()


def attempt(scorer: Scorer, prompt: str, tags: Sequence[Tag]) -> Attempt:
    """Ask one scorer, and hold its answer against the contract. Never raises."""
    try:
        with suited_threads(scorer):
            captions = tuple(scorer(prompt, tuple(tags)))
        problem = _answer_problem(captions, tags)
        notes = () if problem else notes_of(scorer, prompt, captions)
    except FOREIGN as error:  # a contract of the chain: any failure hands over to the next one
        message = _without_secrets(f"{type(error).__name__}: {error}", scorer)
        if isinstance(error, ScorerError):
            return Attempt(None, error.reason, message, error.final)
        return Attempt(None, type(error).__name__, message, final=False)
    if problem:
        return Attempt(None, "contract", problem)
    return Attempt(captions, notes=tuple(_without_secrets(note, scorer) for note in notes))


def notes_of(scorer: Any, prompt: str, captions: Sequence[LocalCaption]) -> tuple[str, ...]:
    """What a scorer says about its answer; nothing where it is only a function."""
    say = getattr(scorer, "notes", None)
    return () if say is None else tuple(str(note) for note in say(prompt, captions))


def answers(
    scorers: Sequence[tuple[str, Scorer]],
    questions: Sequence[tuple[str, Sequence[Tag]]],
    on_done: Callable[[int], None] | None = None,
) -> list[Answer]:
    """:func:`answer` for many (prompt, tags), at once as far as the scorers can take it.

    ``on_done``: called with the number of questions answered so far.

    Raises:
        PluginError: all scorers failed for a question.
    """
    limits = [max(1, int(getattr(scorer, "concurrency", 1))) for _, scorer in scorers]
    guarded: list[tuple[str, Any]] = [
        (name, _Guarded(scorer, limit)) for (name, scorer), limit in zip(scorers, limits, strict=True)
    ]
    return spread(lambda question: answer(guarded, *question), questions, max(limits), on_done)


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


class _Guarded:
    """A scorer that no more threads enter than it can take."""

    def __init__(self, scorer: Scorer, limit: int) -> None:
        self.scorer, self.options = scorer, getattr(scorer, "options", None)
        self.free = threading.BoundedSemaphore(limit)

    def __call__(self, prompt: str, tags: Sequence[Tag]) -> tuple[LocalCaption, ...]:
        with self.free:
            return self.scorer(prompt, tags)

    def notes(self, prompt: str, captions: Sequence[LocalCaption]) -> tuple[str, ...]:
        return notes_of(self.scorer, prompt, captions)


def _answer_problem(captions: Sequence[Any], tags: Sequence[Tag]) -> str:
    for caption in captions:
        if problem := checks.caption_problem(caption):
            return problem
    asked, got = [tag.name for tag in tags], [caption.tag for caption in captions]
    if got == asked:
        return ""
    problems = {
        "leaves out": [name for name in asked if name not in got],
        "invents": [name for name in got if name not in asked],
        "repeats": sorted({name for name in got if got.count(name) > 1}),
    }
    found = [f"{verb} {', '.join(map(repr, names))}" for verb, names in problems.items() if names]
    return f"the answer {' and '.join(found) if found else 'has another order than the tags'}"


def _without_secrets(message: str, scorer: object) -> str:
    # Services like to quote the key that they refuse; the message ends up in files that people share.
    return redacted(message, secrets_of(scorer))


def segment_image(
    segmenter: Segmenter, name: str, image: Image, captions: Sequence[LocalCaption]
) -> tuple[Layout, tuple[str, ...]]:
    """Find each caption's mask; a note for each that has none.

    Raises:
        PluginError: the segmenter failed or broke its contract.
    """
    if not captions:
        return Layout(), ()
    with blame("segmenter", name), suited_threads(segmenter):
        found = list(segmenter(image.copy(), [caption.caption for caption in captions]))
    if len(found) != len(captions):
        raise breach("segmenter", name, f"{len(found)} answers for {len(captions)} phrases")
    segments, notes = [], []
    for caption, item in zip(captions, found, strict=True):
        segment = None if item is None else _segment(name, image, caption, item)
        if segment is None:
            notes.append(
                f"no mask for '{caption.caption}', so its attention stays as it is; "
                f"a lower segmenter threshold or another segmenter may find it"
            )
        else:
            segments.append(segment)
    return Layout(tuple(segments)), tuple(notes)


def _segment(name: str, image: Image, caption: LocalCaption, item: Any) -> Segment | None:
    try:
        mask, confidence = item
        # A copy, because segmenters may use their memory again.
        mask, confidence = np.array(mask), float(confidence)
    except (TypeError, ValueError) as error:
        raise breach("segmenter", name, f"the answer for '{caption.caption}' is no (mask, confidence)") from error
    if problem := checks.mask_problem(mask, image.size) or checks.confidence_problem(confidence):
        raise breach("segmenter", name, problem)
    return Segment(caption, mask, confidence) if mask.any() else None


def before_refine(registry: Registry, prompt: str, layout: Layout, size: tuple[int, int]) -> Layout:
    """Pass a layout through every plugin's ``before_refine``, each seeing what the one before returned.

    ``size``: (width, height) of the image.

    Raises:
        PluginError: a plugin failed or returned something else than a layout of the image's size.
    """
    hook = registry.hook.before_refine
    for plugin in [implementation.plugin for implementation in reversed(hook.get_hookimpls())]:
        name = registry.manager.get_name(plugin) or repr(plugin)
        with blame("hook before_refine of plugin", name):
            results = _only(registry, "before_refine", plugin)(prompt=prompt, layout=checks.copied_layout(layout))
        for result in [results] if not isinstance(results, list) else results:
            if result is None:
                continue
            if not isinstance(result, Layout):
                raise breach("hook before_refine of plugin", name, f"a {type(result).__name__} is no Layout")
            if problem := next(filter(None, (checks.segment_problem(segment, size) for segment in result)), ""):
                raise breach("hook before_refine of plugin", name, problem)
            layout = checks.copied_layout(result)
    return layout


def after_realign(registry: Registry, realignment: Realignment) -> None:
    """Show a copy of a finished realignment to every plugin's ``after_realign``.

    Raises:
        PluginError: a plugin failed.
    """
    for plugin in [implementation.plugin for implementation in reversed(registry.hook.after_realign.get_hookimpls())]:
        with blame("hook after_realign of plugin", registry.manager.get_name(plugin) or repr(plugin)):
            _only(registry, "after_realign", plugin)(realignment=checks.copied(realignment))


def after_train_step(registry: Registry, state: TrainState) -> bool:
    """Show a finished training step to every plugin's ``after_train_step``; whether one of them wants to stop.

    Raises:
        PluginError: a plugin failed.
    """
    stop = False
    for plugin in [hook.plugin for hook in reversed(registry.hook.after_train_step.get_hookimpls())]:
        with blame("hook after_train_step of plugin", registry.manager.get_name(plugin) or repr(plugin)):
            answers = _only(registry, "after_train_step", plugin)(state=state)
        stop |= any(answers if isinstance(answers, list) else [answers])
    return stop


def _only(registry: Registry, hook: str, plugin: object) -> Any:
    # One plugin at a time, so that an error has a name and results can be chained; wrappers still work.
    others = [other for other in registry.manager.get_plugins() if other is not plugin]
    return registry.manager.subset_hook_caller(hook, remove_plugins=others)


def why_unrefined(tags: Sequence[Tag], captions: Sequence[LocalCaption], *, emptied: bool = False) -> str:
    """The note for an image that had nothing to modulate, with what to try.

    ``emptied``: whether a plugin's ``before_refine`` took away what there was.
    """
    if emptied:
        reason = "a plugin's before_refine has left no mask of an object that belongs to the prompt"
    elif not tags:
        reason = "no object was recognised in it; try another seed, a lower tagger threshold or another tagger"
    elif all(caption.likelihood is Likelihood.UNLIKELY for caption in captions):
        reason = "none of the objects in it belongs to the prompt; try another seed or another scorer"
    else:
        reason = (
            "no mask was found for any object that belongs to the prompt; "
            "try a lower segmenter threshold or another segmenter"
        )
    return f"the coarse image was kept as it is: {reason}"


def why_rejected(lost: Sequence[str]) -> str:
    """The note for a refined image that lost objects of the coarse one."""
    return (
        f"the refined image has lost {', '.join(map(repr, lost))}, so the coarse one stands; "
        f"a lower modulation.cross_weight or modulation.strength may keep it, modulation.verify=false takes it as it is"
    )
