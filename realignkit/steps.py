"""The realigner's calls to plugins, each result held against the contract in :mod:`realignkit.contracts`."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from realignkit.assembly import REDACTED, secrets_of
from realignkit.contracts import Scorer, Segmenter, Tagger
from realignkit.errors import PluginError, RealignKitError
from realignkit.registry import Registry
from realignkit.types import Answer, Layout, Likelihood, LocalCaption, Realignment, Segment, Tag

if TYPE_CHECKING:
    from PIL.Image import Image

    from realignkit.refl.state import TrainState


@contextlib.contextmanager
def blame(what: str, name: str) -> Iterator[None]:
    """Turn whatever a plugin raises into a :class:`PluginError` that names it; our own errors pass."""
    try:
        yield
    except RealignKitError:
        raise
    except Exception as error:  # somebody else's code can raise anything
        raise PluginError(
            f"{what} '{name}' failed: {type(error).__name__}: {error}. Choose another one, or tell its author."
        ) from error


def breach(what: str, name: str, problem: str) -> PluginError:
    """The error for a plugin that broke its contract."""
    return PluginError(f"{what} '{name}' broke its contract: {problem}. Choose another one, or tell its author.")


def tag_images(tagger: Tagger, name: str, images: Sequence[Image]) -> list[tuple[Tag, ...]]:
    """Tag a batch; of tags with the same name in one image the first is kept.

    Raises:
        PluginError: the tagger failed or broke its contract.
    """
    with blame("tagger", name):
        found = list(tagger(images))
    if len(found) != len(images):
        raise breach("tagger", name, f"{len(found)} answers for {len(images)} images")
    for tags in found:
        for tag in tags:
            if not isinstance(tag, Tag) or not tag.name.strip():
                raise breach("tagger", name, f"{tag!r} is no tag with a name")
    return [tuple({tag.name: tag for tag in reversed(tuple(tags))}.values())[::-1] for tags in found]


def answer(scorers: Sequence[tuple[str, Scorer]], prompt: str, tags: Sequence[Tag]) -> Answer:
    """Ask the scorers in turn until one gives exactly one local caption per tag, in order.

    Raises:
        PluginError: all of them failed; the message has every reason.
    """
    if not tags:
        return Answer((), scorers[0][0])  # every scorer's answer to nothing; no LLM need be asked
    failures: dict[str, str] = {}
    for name, scorer in scorers:
        try:
            captions = tuple(scorer(prompt, tuple(tags)))
            problem = _answer_problem(captions, tags)
        except Exception as error:  # a contract of the chain: any failure hands over to the next one
            problem = _without_secrets(f"{type(error).__name__}: {error}", scorer)
        if not problem:
            return Answer(captions, name, failures)
        failures[name] = problem
    reasons = "; ".join(f"{name}: {reason}" for name, reason in failures.items())
    raise PluginError(f"no scorer answered ({reasons}). Add 'lexical' to the chain: it always answers.")


def _answer_problem(captions: Sequence[Any], tags: Sequence[Tag]) -> str:
    for caption in captions:
        if not isinstance(caption, LocalCaption) or not isinstance(caption.likelihood, Likelihood):
            return f"{caption!r} is no local caption"
        if not caption.caption.strip():
            return f"the local caption of '{caption.tag}' is empty"
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
    for secret in secrets_of(scorer):
        message = message.replace(secret, REDACTED)
    return message


def segment_image(
    segmenter: Segmenter, name: str, image: Image, captions: Sequence[LocalCaption]
) -> tuple[Layout, tuple[str, ...]]:
    """Find each caption's mask; a note for each that has none.

    Raises:
        PluginError: the segmenter failed or broke its contract.
    """
    if not captions:
        return Layout(), ()
    with blame("segmenter", name):
        found = list(segmenter(image, [caption.caption for caption in captions]))
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
        mask, confidence = np.asarray(mask), float(confidence)
    except (TypeError, ValueError) as error:
        raise breach("segmenter", name, f"the answer for '{caption.caption}' is no (mask, confidence)") from error
    shape = (image.height, image.width)
    if mask.dtype != np.bool_ or mask.shape != shape:
        raise breach("segmenter", name, f"masks must be bool {shape}, got {mask.dtype} {mask.shape}")
    if not (math.isfinite(confidence) and 0 <= confidence <= 1):
        raise breach("segmenter", name, f"confidence must be in [0, 1], got {confidence}")
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
            results = _only(registry, "before_refine", plugin)(prompt=prompt, layout=layout)
        for result in [results] if not isinstance(results, list) else results:
            if result is None:
                continue
            if not isinstance(result, Layout):
                raise breach("hook before_refine of plugin", name, f"a {type(result).__name__} is no Layout")
            if any(segment.mask.shape != size[::-1] or segment.mask.dtype != np.bool_ for segment in result):
                raise breach("hook before_refine of plugin", name, f"masks must be bool {size[::-1]}")
            layout = result
    return layout


def after_realign(registry: Registry, realignment: Realignment) -> None:
    """Show a finished realignment to every plugin's ``after_realign``.

    Raises:
        PluginError: a plugin failed.
    """
    for plugin in [implementation.plugin for implementation in reversed(registry.hook.after_realign.get_hookimpls())]:
        with blame("hook after_realign of plugin", registry.manager.get_name(plugin) or repr(plugin)):
            _only(registry, "after_realign", plugin)(realignment=realignment)


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


def why_unrefined(tags: Sequence[Tag], captions: Sequence[LocalCaption]) -> str:
    """The note for an image that had nothing to modulate, with what to try."""
    if not tags:
        reason = "no object was recognised in it; try another seed, a lower tagger threshold or another tagger"
    elif all(caption.likelihood is Likelihood.UNLIKELY for caption in captions):
        reason = "none of the objects in it belongs to the prompt; try another seed or another scorer"
    else:
        reason = (
            "no mask was found for any object that belongs to the prompt; "
            "try a lower segmenter threshold or another segmenter"
        )
    return f"the coarse image was kept as it is: {reason}"
