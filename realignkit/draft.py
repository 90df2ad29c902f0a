"""One image on its way through figure 2, and the five steps that take batches of them further."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from realignkit import calls, selection
from realignkit.attention import sampler
from realignkit.images import Given, cropped
from realignkit.pipelines import generate as drawing
from realignkit.provenance import versions
from realignkit.realignment import Realignment
from realignkit.types import Answer, Layout, Likelihood, LocalCaption, Tag

if TYPE_CHECKING:
    from PIL.Image import Image

    from realignkit.realigner import Realigner
    from realignkit.steps import Steps

Progress = Callable[[str, int, int], None]
"""``progress(step, done, total)``: ``step`` is one of :data:`STEPS`; counted in denoising steps or images."""

STEPS = ("generate", "select", "tag", "score", "segment", "refine", "verify")
"""What is reported and timed; ``select`` where there are candidates, ``verify`` where ``modulation.verify`` asks."""


@dataclass(eq=False)
class Draft:
    """What is known so far about one image. Each step fills in what it found out.

    Attributes:
        prompt, seed: what was asked for.
        given: the user's coarse image in RGB, with a note for each change that made it so; None: one is drawn.
        start: the seed that the coarse image was drawn from; a chosen candidate has another than ``seed``.
        emptied: whether a plugin's ``before_refine`` took away all that there was to modulate.
        the rest: see :class:`realignkit.realignment.Realignment`.
    """

    prompt: str
    seed: int
    given: Given | None = None
    start: int = field(init=False)
    coarse: Image = field(init=False)
    tags: tuple[Tag, ...] = ()
    answer: Answer = field(init=False)
    layout: Layout = field(default_factory=Layout)
    emptied: bool = False
    refined: Image = field(init=False)
    conditioning: str = ""
    accepted: bool = True
    notes: list[str] = field(default_factory=list)
    timings: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.start = self.seed


def generate(realigner: Realigner, drafts: Sequence[Draft], progress: Progress) -> None:
    """The coarse images: given, drawn, or the best of several that are drawn."""
    size = realigner.image_size
    for draft in drafts:
        if draft.given is not None:
            draft.coarse, changes = cropped(draft.given, size)
            draft.notes += changes
            if realigner.candidates > 1:
                draft.notes.append("no candidates were drawn: the coarse image was given")
    fresh, count = [draft for draft in drafts if draft.given is None], realigner.candidates
    if not fresh:
        return
    prompts = [draft.prompt for draft in fresh]
    seeds = [seed for draft in fresh for seed in selection.candidate_seeds(draft.seed, count)]
    with _timed("generate", fresh):
        images = draw(realigner, [prompt for prompt in prompts for _ in range(count)], seeds, progress)
    if count == 1:
        for draft, image in zip(fresh, images, strict=True):
            draft.coarse = image
        return
    chooser = realigner.parts.needed("reward")
    with _reported("select", fresh, progress), _timed("select", fresh):
        choices = selection.choose(images, prompts, seeds, chooser, realigner.batch_size)
    for draft, choice in zip(fresh, choices, strict=True):
        draft.coarse, draft.start = choice.image, choice.seed
        draft.notes.append(choice.note(chooser.name))


def draw(realigner: Steps, prompts: Sequence[str], seeds: Sequence[int], progress: Progress) -> list[Image]:
    """The coarse stage: an image for each prompt and seed, a batch at a time."""
    images: list[Image] = []
    for start in range(0, len(prompts), realigner.batch_size):
        batch = slice(start, start + realigner.batch_size)
        images += drawing.generate(
            realigner.pipeline(),
            prompts[batch],
            seeds[batch],
            **realigner.sampling.model_dump(),
            progress=as_step("generate", progress),
        )
    return images


def tag(realigner: Realigner, drafts: Sequence[Draft], progress: Progress) -> None:
    """The objects in the coarse images."""
    with _reported("tag", drafts, progress), _timed("tag", drafts):
        tagged = calls.tag_images(realigner.parts.needed("tagger"), [draft.coarse for draft in drafts])
    for draft, tags in zip(drafts, tagged, strict=True):
        draft.tags = tags


def score(realigner: Realigner, drafts: Sequence[Draft], progress: Progress) -> None:
    """Their local captions and likelihoods (eq. 6)."""
    questions, total = [(draft.prompt, draft.tags) for draft in drafts], len(drafts)
    progress("score", 0, total)
    with _timed("score", drafts):
        answers = calls.answers(realigner.parts.chain, questions, lambda done: progress("score", done, total))
    for draft, answer in zip(drafts, answers, strict=True):
        draft.answer = answer
        draft.notes += [f"scorer '{name}' did not answer: {why}" for name, why in answer.failures.items()]
        draft.notes += answer.notes


def segment(realigner: Realigner, drafts: Sequence[Draft], progress: Progress) -> None:
    """Their masks, as plugins' ``before_refine`` leave them."""
    for number, draft in enumerate(drafts):
        progress("segment", number, len(drafts))
        with _timed("segment", [draft]):
            wanted = realigner.wanted(draft.answer.captions)
            layout, missing = calls.segment_image(realigner.parts.needed("segmenter"), draft.coarse, wanted)
        draft.notes += missing
        draft.layout = calls.before_refine(realigner.registry, draft.prompt, layout, draft.coarse.size)
        draft.emptied = _modulates(realigner, layout) and not _modulates(realigner, draft.layout)
    progress("segment", len(drafts), len(drafts))


def refine(realigner: Realigner, drafts: Sequence[Draft], progress: Progress) -> None:
    """The refined images (eqs. 7-10); where there is nothing to modulate, the coarse ones."""
    active = []
    for draft in drafts:
        draft.refined, draft.conditioning = draft.coarse, draft.prompt
        if _modulates(realigner, draft.layout):
            active.append(draft)
        else:
            draft.notes.append(why_unrefined(draft.tags, draft.answer.captions, emptied=draft.emptied))
    if not active:
        return
    with _timed("refine", active):
        result = sampler.refine(
            realigner.pipeline(),
            [draft.prompt for draft in active],
            [draft.layout for draft in active],
            [draft.start for draft in active],
            realigner.modulation,
            **realigner.sampling.model_dump(),
            coarse=[draft.coarse for draft in active],
            progress=as_step("refine", progress),
        )
    for draft, image, text, notes in zip(active, result.images, result.conditioning, result.notes, strict=True):
        draft.refined, draft.conditioning = image, text
        draft.notes += notes
    if realigner.modulation.verify:
        _verify(realigner, active, progress)


def _verify(realigner: Realigner, drafts: Sequence[Draft], progress: Progress) -> None:
    with _reported("verify", drafts, progress), _timed("verify", drafts):
        tags = calls.tag_images(realigner.parts.needed("tagger"), [draft.refined for draft in drafts])
    for draft, seen in zip(drafts, tags, strict=True):
        if missing := lost(draft.answer.captions, seen):
            draft.accepted = False
            draft.notes.append(
                f"the refined image has lost {', '.join(map(repr, missing))}, so the coarse one stands; a lower "
                f"modulation.cross_weight or modulation.strength may keep it, modulation.verify=false takes it as it is"
            )


def finished(realigner: Realigner, draft: Draft) -> Realignment:
    """What came of it, after plugins' ``after_realign`` have seen it."""
    realignment = Realignment(
        prompt=draft.prompt,
        seed=draft.seed,
        coarse=draft.coarse,
        tags=draft.tags,
        captions=draft.answer.captions,
        layout=draft.layout,
        refined=draft.refined,
        conditioning=draft.conditioning,
        plugins={**realigner.names, "scorer": draft.answer.scorer},
        notes=tuple(draft.notes),
        timings=draft.timings,
        settings=realigner.settings_for(None if draft.given is None else draft.given[0]),
        versions=versions(),
        accepted=draft.accepted,
    )
    calls.after_realign(realigner.registry, realignment)
    return realignment


def lost(captions: Sequence[LocalCaption], seen: Sequence[Tag]) -> tuple[str, ...]:
    """The tags of certain captions that are not among those that are seen in the refined image."""
    names = {tag.name for tag in seen}
    certain = [caption.tag for caption in captions if caption.likelihood is Likelihood.CERTAIN]
    return tuple(name for name in certain if name not in names)


def why_unrefined(tags: Sequence[Tag], captions: Sequence[LocalCaption], *, emptied: bool = False) -> str:
    """The note for an image that had nothing to modulate, with what to try; ``emptied``: see :class:`Draft`."""
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


def silent(step: str, done: int, total: int) -> None:
    """A :data:`Progress` that nobody follows."""


def as_step(step: str, progress: Progress) -> Callable[[int, int], None]:
    """``progress`` of one step."""
    return lambda done, total: progress(step, done, total)


def _modulates(realigner: Realigner, layout: Layout) -> bool:
    suppress = realigner.modulation.suppress_unlikely
    return any((segment.caption.score > 0 or suppress) and segment.mask.any() for segment in layout)


@contextmanager
def _timed(step: str, drafts: Sequence[Draft]) -> Iterator[None]:
    start = time.perf_counter()
    yield
    for draft in drafts:  # images of a batch share its time evenly
        draft.timings[step] = (time.perf_counter() - start) / len(drafts)


@contextmanager
def _reported(step: str, drafts: Sequence[Draft], progress: Progress) -> Iterator[None]:
    progress(step, 0, len(drafts))
    yield
    progress(step, len(drafts), len(drafts))
