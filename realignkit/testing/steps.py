"""Figure 2's boxes, and what answers questions, held against their contracts: tagger, scorer, segmenter, vqa."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from realignkit import calls, questions
from realignkit.errors import TELL_AUTHOR, PluginError, RealignKitError
from realignkit.layout import Likelihood, LocalCaption, Tag
from realignkit.named import Named
from realignkit.registry import bounded
from realignkit.testing.examples import HOSTILE_PROMPTS, PROMPTS, hostile_images, tiny_images
from realignkit.testing.making import check_pickled

if TYPE_CHECKING:
    from PIL.Image import Image

TAGS = (Tag("book", 0.9), Tag("pen", 0.8), Tag("desk", 0.4))
PHRASES = ("a red book", "a yellow pen", "a blue car")
QUESTIONS = ("is there a book?", "is there a car?", "what colour is the cup?", "is there a cat?")
CHOICES = (("yes", "no"), ("yes", "no"), ("green", "red", "blue"), ("yes", "no"))


def unchanged(plugin: Named, call: Callable[[list[Image]], Any]) -> None:
    """Pictures are for looking at: the call leaves those that it is handed as they are.

    Raises:
        PluginError: it paints on them.
    """
    images = tiny_images()
    before = [image.tobytes() for image in images]
    with plugin.calling():
        call(images)
    if [image.tobytes() for image in images] != before:
        raise plugin.breach("it changes the images that it is handed: work on a copy (image.copy())")


def repeated(plugin: Named, call: Callable[[], Any], what: str) -> None:
    """The same question gets the same answer, whatever was asked in between, with torch's seed the same.

    Raises:
        PluginError: it does not.
    """
    if seeded(call) != seeded(call):
        gets = "get" if what.endswith("s") else "gets"
        raise plugin.breach(f"the same {what} {gets} another answer the second time: draw from torch's generator alone")


def seeded(call: Callable[[], Any]) -> Any:
    """The result of a call with torch's global generator at a fixed seed."""
    import torch

    torch.manual_seed(0)
    return call()


def in_words(plugin: Named, call: Callable[[], Any], of: str) -> None:
    """What the contract allows is answered, or refused with an error of realignkit's, which says what to do.

    Raises:
        PluginError: it fails in another way, or breaks its contract.
    """
    try:
        call()
    except PluginError as error:
        said = str(error).removesuffix(TELL_AUTHOR).rstrip(". ")
        raise PluginError(f"{said} (with {of}).") from error
    except RealignKitError:  # says what to do
        return


# --- taggers ----------------------------------------------------------------------------------------------------------


def _tags(tagger: Named) -> None:
    for each in calls.tag_images(tagger, tiny_images()):
        confidences = [tag.confidence for tag in each]
        if confidences != sorted(confidences, reverse=True):
            raise tagger.breach(f"tags come most confident first, and these are {[tag.name for tag in each]}")


def _tag_batches(tagger: Named) -> None:
    images = tiny_images()
    calls.tag_images(tagger, [])
    together = calls.tag_images(tagger, images)
    alone = [calls.tag_images(tagger, [image])[0] for image in images]
    backwards = calls.tag_images(tagger, images[::-1])[::-1]
    for other, how in ((alone, "in a batch are others than alone"), (backwards, "depend on the order of the batch")):
        if [[tag.name for tag in each] for each in together] != [[tag.name for tag in each] for each in other]:
            raise tagger.breach(f"the tags of an image {how}")


def _tag_hostile(tagger: Named) -> None:
    for image in hostile_images():
        in_words(tagger, functools.partial(calls.tag_images, tagger, [image]), f"an image of {_size(image)}")


def _size(image: Image) -> str:
    return f"{image.width} x {image.height}"


TAGGER: Mapping[str, Callable[[Named], object]] = {
    "answers": _tags,
    "repeatable": lambda tagger: repeated(tagger, lambda: calls.tag_images(tagger, tiny_images()), "images"),
    "batches": _tag_batches,
    "images kept": lambda tagger: unchanged(tagger, tagger.plugin),
    "odd images": _tag_hostile,
    "pickled": check_pickled,
}


# --- scorers ----------------------------------------------------------------------------------------------------------


def _captions(scorer: Named, prompt: str, tags: Sequence[Tag]) -> tuple[LocalCaption, ...]:
    tried = calls.attempt(scorer, prompt, tags)
    if tried.captions is None:
        raise scorer.breach(tried.message) if tried.reason == "contract" else PluginError(
            f"{scorer.whose} did not answer about '{prompt[:40]}': {tried.message}."
        ) from tried.error  # fmt: skip
    return tried.captions


def _tags_kept(scorer: Named) -> None:
    tags = tuple(replace(tag) for tag in TAGS)
    _captions(scorer, PROMPTS[0], tags)
    if tags != TAGS:
        raise scorer.breach("it changes the tags that it is handed: make others (dataclasses.replace)")


def _score_counts(scorer: Named) -> None:
    for tags in (TAGS, TAGS[:1], (), TAGS[::-1], tuple(Tag(f"thing {i}", 0.5) for i in range(40))):
        _captions(scorer, PROMPTS[0], tags)


def _score_hostile(scorer: Named) -> None:
    for prompt in HOSTILE_PROMPTS:
        _captions(scorer, prompt, (*TAGS, Tag('naïve {tag} "%s" \\d+ (', 0.3)))


def _score_threads(scorer: Named) -> None:
    limit = calls.concurrency(scorer)
    asked = [(prompt, TAGS) for prompt in PROMPTS * 3]
    alone = [_captions(scorer, prompt, tags) for prompt, tags in asked]
    if limit > 1:
        together = calls.spread(lambda question: _captions(scorer, *question), asked, min(limit, 8))
        if together != alone:
            raise scorer.breach(
                f"asked from {min(limit, 8)} threads at once, as concurrency allows, it answers otherwise"
            )
    elif alone != (elsewhere := bounded(lambda: [_captions(scorer, *question) for question in asked])):
        raise scorer.breach(f"asked from another thread it answers otherwise: {elsewhere!r:.80}")


def _notes(scorer: Named) -> None:
    captions = _captions(scorer, PROMPTS[0], TAGS)
    if scorer.has("notes"):
        with scorer.blame():
            notes = scorer.plugin.notes(PROMPTS[0], captions)
        if isinstance(notes, str) or not all(isinstance(note, str) for note in notes):
            raise scorer.breach("notes() must return a tuple of sentences")


SCORER: Mapping[str, Callable[[Named], object]] = {
    "answers": _tags_kept,
    "repeatable": lambda scorer: repeated(scorer, lambda: _captions(scorer, PROMPTS[0], TAGS), "question"),
    "many tags and none": _score_counts,
    "odd prompts": _score_hostile,
    "threads": _score_threads,
    "notes": _notes,
    "pickled": check_pickled,
}


# --- segmenters -------------------------------------------------------------------------------------------------------


def _segments(segmenter: Named, image: Image, phrases: Sequence[str]) -> list[tuple[str, bytes, float]]:
    captions = [LocalCaption(phrase, phrase, Likelihood.CERTAIN) for phrase in phrases]
    layout, _ = calls.segment_image(segmenter, image, captions)
    return [(each.caption.caption, each.mask.tobytes(), round(each.confidence, 3)) for each in layout]


def _segment_counts(segmenter: Named) -> None:
    image = tiny_images()[0]
    _segments(segmenter, image, PHRASES[:1])
    with segmenter.calling():
        results = list(segmenter.plugin(image.copy(), []))
    if results:
        raise segmenter.breach(f"{len(results)} answers for 0 phrases")
    if sorted(_segments(segmenter, image, PHRASES)) != sorted(_segments(segmenter, image, (*PHRASES[1:], PHRASES[0]))):
        raise segmenter.breach("the mask of a phrase depends on the order of the phrases, or stands at another's place")


def _segment_hostile(segmenter: Named) -> None:
    for image in hostile_images():
        call = functools.partial(_segments, segmenter, image, PHRASES[:2])
        in_words(segmenter, call, f"an image of {_size(image)}")
    for prompt in HOSTILE_PROMPTS:
        call = functools.partial(_segments, segmenter, tiny_images()[0], [prompt])
        in_words(segmenter, call, f"the phrase '{prompt[:40]}'")


SEGMENTER: Mapping[str, Callable[[Named], object]] = {
    "answers": lambda segmenter: _segments(segmenter, tiny_images()[0], PHRASES),
    "many phrases and none": _segment_counts,
    "repeatable": lambda segmenter: repeated(
        segmenter, lambda: _segments(segmenter, tiny_images()[0], PHRASES), "image"
    ),
    "images kept": lambda segmenter: unchanged(segmenter, lambda images: segmenter.plugin(images[0], list(PHRASES))),
    "odd images and phrases": _segment_hostile,
    "pickled": check_pickled,
}


# --- questions --------------------------------------------------------------------------------------------------------


def _answer_counts(vqa: Named) -> None:
    image, images = tiny_images()[0], tiny_images()
    with vqa.calling():
        if list(vqa.plugin([], [])):
            raise vqa.breach("it has answers to no questions")
    alone = [questions.answers(vqa, [one], [question])[0] for one, question in zip(images, QUESTIONS, strict=True)]
    if questions.answers(vqa, images, QUESTIONS) != alone:
        raise vqa.breach("the answer to a question in a batch is another than alone")
    questions.answers(vqa, [image] * len(QUESTIONS), QUESTIONS)
    questions.answers(vqa, images, QUESTIONS, CHOICES)


def _probabilities(vqa: Named) -> None:
    if questions.has_probabilities(vqa):
        rows = questions.probabilities(vqa, tiny_images(), QUESTIONS, CHOICES)
        if too_much := [row for row in rows if sum(row) > 1.01]:
            raise vqa.breach(f"the probabilities of different answers are {too_much[0]}, more than 1 together")
        questions.probabilities(vqa, [], [], [])


def _answer_hostile(vqa: Named) -> None:
    for image in hostile_images():
        call = functools.partial(questions.answers, vqa, [image], QUESTIONS[:1])
        in_words(vqa, call, f"an image of {_size(image)}")


VQA: Mapping[str, Callable[[Named], object]] = {
    "answers": lambda vqa: questions.answers(vqa, tiny_images(), QUESTIONS),
    "batches": _answer_counts,
    "probabilities": _probabilities,
    "repeatable": lambda vqa: repeated(vqa, lambda: questions.answers(vqa, tiny_images(), QUESTIONS), "question"),
    "images kept": lambda vqa: unchanged(vqa, lambda images: vqa.plugin(images, list(QUESTIONS))),
    "odd images": _answer_hostile,
    "pickled": check_pickled,
}
