"""One image on its way through figure 2, the five steps that take batches of them further, and the best of several."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from realignkit import calls
from realignkit.attention import sampler
from realignkit.attention.heatmaps import word_positions
from realignkit.heatmap import Heat, HeatMap
from realignkit.images import Given, cropped
from realignkit.named import Named
from realignkit.pipelines.reward_guidance import GuidedSampling
from realignkit.provenance import versions
from realignkit.realigner.drawing import as_step, draw
from realignkit.realigner.guide import guidance_note, note_guidance
from realignkit.realigner.steps import Progress, Steps, lost
from realignkit.realignment import Realignment
from realignkit.types import Answer, Layout, Likelihood, LocalCaption, Tag

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(eq=False)
class Draft:
    """What is known so far about one image. Each step fills in what it found out.

    Attributes:
        prompt, seed: what was asked for.
        given: the user's coarse image in RGB, with a note for each change that made it so; None: one is drawn.
        start: the seed that the coarse image was drawn from; a chosen candidate has another than ``seed``.
        candidates: what was chosen among, an image for each of :func:`candidate_seeds`; empty: there was no choice.
        coarse_maps, refined_maps: word -> where the network attended to it; empty where nothing was drawn.
        emptied: whether a plugin's ``before_refine`` took away all that there was to modulate.
        guidance: what has guided the sampling of its images; empty where nothing has.
        the rest: see :class:`realignkit.realignment.Realignment`.
    """

    prompt: str
    seed: int
    given: Given | None = None
    start: int = field(init=False)
    coarse: Image = field(init=False)
    candidates: Sequence[Image] = ()
    tags: tuple[Tag, ...] = ()
    answer: Answer = field(init=False)
    layout: Layout = field(default_factory=Layout)
    coarse_maps: Mapping[str, Heat] = field(default_factory=dict)
    refined_maps: Mapping[str, Heat] = field(default_factory=dict)
    emptied: bool = False
    guidance: list[GuidedSampling] = field(default_factory=list)
    refined: Image = field(init=False)
    conditioning: str = ""
    accepted: bool = True
    notes: list[str] = field(default_factory=list)
    timings: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.start = self.seed


def check(realigner: Steps, drafts: Sequence[Draft]) -> None:
    """Refuse drafts, all of them before any work, that the steps could not take to their end. Loads the pipeline.

    Raises:
        PromptError, ModelError, PluginError: as for calling a realigner.
    """
    realigner.parts.check_complete()
    realigner.check_reach()
    realigner.check_model()
    realigner.check_guide()
    for draft in drafts:
        realigner.check_prompt(draft.prompt)


def generate(realigner: Steps, drafts: Sequence[Draft], progress: Progress) -> None:
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
    seeds = [seed for draft in fresh for seed in candidate_seeds(draft.seed, count)]
    with _timed("generate", fresh):
        texts = [prompt for prompt in prompts for _ in range(count)]
        drawn = draw(realigner, texts, seeds, progress, realigner.heat_maps)
    images, heat_maps = drawn.images, drawn.heat_maps
    for number, draft in enumerate(fresh):
        note_guidance(draft.guidance, draft.timings, "generate", drawn.guidance[number * count : (number + 1) * count])
    if count == 1:
        for draft, image, maps in zip(fresh, images, heat_maps, strict=True):
            draft.coarse, draft.coarse_maps = image, maps
        return
    chooser = realigner.parts.needed("reward")
    with _reported("select", fresh, progress), _timed("select", fresh):
        choices = best_of_each(images, prompts, seeds, chooser, realigner.batch_size)
    for number, (draft, choice) in enumerate(zip(fresh, choices, strict=True)):
        draft.coarse, draft.start = choice.image, choice.seed
        draft.candidates = images[number * count : (number + 1) * count]
        draft.coarse_maps = heat_maps[number * count + choice.index]
        draft.notes.append(choice.note(chooser.name))


def tag(realigner: Steps, drafts: Sequence[Draft], progress: Progress) -> None:
    """The objects in the coarse images."""
    with _reported("tag", drafts, progress), _timed("tag", drafts):
        tagged = calls.tag_images(realigner.parts.needed("tagger"), [draft.coarse for draft in drafts])
    for draft, tags in zip(drafts, tagged, strict=True):
        draft.tags = tags


def score(realigner: Steps, drafts: Sequence[Draft], progress: Progress) -> None:
    """Their local captions and likelihoods (eq. 6)."""
    questions, total = [(draft.prompt, draft.tags) for draft in drafts], len(drafts)
    progress("score", 0, total)
    with _timed("score", drafts):
        answers = calls.answers(realigner.parts.chain, questions, lambda done: progress("score", done, total))
    for draft, answer in zip(drafts, answers, strict=True):
        draft.answer = answer
        draft.notes += [f"scorer '{name}' did not answer: {why}" for name, why in answer.failures.items()]
        draft.notes += answer.notes


def segment(realigner: Steps, drafts: Sequence[Draft], progress: Progress) -> None:
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


def refine(realigner: Steps, drafts: Sequence[Draft], progress: Progress) -> None:
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
    prompts = [draft.prompt for draft in active]
    with _timed("refine", active), realigner.guided(prompts) as guidance:
        result = sampler.refine(
            realigner.pipeline(),
            prompts,
            [draft.layout for draft in active],
            [draft.start for draft in active],
            realigner.modulation,
            **realigner.sampling.model_dump(),
            coarse=[draft.coarse for draft in active],
            heat_maps=realigner.heat_maps,
            progress=as_step("refine", progress),
        )
    drawn = zip(active, result.images, result.conditioning, result.notes, result.heat_maps, strict=True)
    for draft, image, text, notes, maps in drawn:
        draft.refined, draft.conditioning, draft.refined_maps = image, text, maps
        draft.notes += notes
        note_guidance(draft.guidance, draft.timings, "refine", [guidance])
    if realigner.modulation.verify:
        _verify(realigner, active, progress)


def _verify(realigner: Steps, drafts: Sequence[Draft], progress: Progress) -> None:
    with _reported("verify", drafts, progress), _timed("verify", drafts):
        tags = calls.tag_images(realigner.parts.needed("tagger"), [draft.refined for draft in drafts])
    for draft, seen in zip(drafts, tags, strict=True):
        if missing := lost(draft.answer.captions, seen):
            draft.accepted = False
            draft.notes.append(
                f"the refined image has lost {', '.join(map(repr, missing))}, so the coarse one stands; a lower "
                f"modulation.cross_weight or modulation.strength may keep it, modulation.verify=false takes it as it is"
            )


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


FIGURE_2 = (generate, tag, score, segment, refine)
"""The steps, in their order; each takes a realigner, drafts and a :data:`~realignkit.realigner.steps.Progress`."""


def finished(realigner: Steps, draft: Draft, plugins: Mapping[str, str], settings: Mapping[str, Any]) -> Realignment:
    """What came of it, after plugins' ``after_realign`` have seen it; ``plugins`` and ``settings`` go on record."""
    maps = heat_maps(realigner, draft)  # adds to the notes
    if realigner.parts.guide is not None and draft.guidance:
        draft.notes.append(guidance_note(realigner.parts.guide.name, draft.guidance))
    realignment = Realignment(
        prompt=draft.prompt,
        seed=draft.seed,
        coarse=draft.coarse,
        tags=draft.tags,
        captions=draft.answer.captions,
        layout=draft.layout,
        refined=draft.refined,
        conditioning=draft.conditioning,
        plugins={**plugins, "scorer": draft.answer.scorer},
        heat_maps=maps,
        notes=tuple(draft.notes),
        timings=draft.timings,
        settings=settings,
        versions=versions(),
        accepted=draft.accepted,
    )
    calls.after_realign(realigner.registry, realignment)
    return realignment


def heat_maps(realigner: Steps, draft: Draft) -> tuple[HeatMap, ...]:
    """A finished draft's heat maps, in the words' order, with a note on it for each word that has none."""
    made, known = [], word_positions(realigner.pipeline(), draft.prompt, realigner.heat_maps)
    for word in realigner.heat_maps:
        if word in draft.coarse_maps or word in draft.refined_maps:
            made.append(HeatMap(word, draft.coarse_maps.get(word), draft.refined_maps.get(word)))
        else:
            why = "neither image was drawn here" if word in known else "the prompt does not contain it"
            draft.notes.append(f"there is no heat map of '{word}': {why}")
    return tuple(made)


def _modulates(realigner: Steps, layout: Layout) -> bool:
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


# --- best of several --------------------------------------------------------------------------------------------------


KEPT = " was kept (seed "
"""What stands in the note of a choice, before the seed of the candidate that was kept."""


@dataclass(frozen=True, eq=False)
class Choice:
    """The candidate that was kept for one prompt.

    Attributes:
        image: RGB.
        seed: the one that it was drawn from.
        rewards: of all candidates, in the order of their seeds.
        index: which of them was kept.
    """

    image: Image
    seed: int
    rewards: tuple[float, ...]
    index: int

    def note(self, name: str) -> str:
        """The choice in words."""
        others = ", ".join(f"{value:.3g}" for i, value in enumerate(self.rewards) if i != self.index)
        return (
            f"candidate {self.index + 1} of {len(self.rewards)}{KEPT}{self.seed}): {name} gave it "
            f"{self.rewards[self.index]:.3g}, the others {others}"
        )


def candidate_seeds(seed: int, count: int) -> list[int]:
    """The seeds of ``count`` candidates, in [0, 2**63); the first is ``seed`` itself: one candidate changes nothing.

    The others are far from any seed that a user would count up to, so that neighbours share no candidates.
    """
    digests = [hashlib.blake2b(f"candidate:{seed}:{i}".encode(), digest_size=8).digest() for i in range(1, count)]
    return [seed, *(int.from_bytes(digest, "big") >> 1 for digest in digests)]


def start_of(realignment: Realignment) -> int:
    """The seed that a coarse image was drawn from: the kept candidate's, as :meth:`Choice.note` has said."""
    seeds = candidate_seeds(realignment.seed, int(realignment.settings.get("candidates", 1)))
    kept = [seed for seed in seeds if any(f"{KEPT}{seed}): " in note for note in realignment.notes)]
    return kept[0] if kept else realignment.seed


def best_of_each(
    images: Sequence[Image], prompts: Sequence[str], seeds: Sequence[int], reward: Named, batch_size: int
) -> list[Choice]:
    """For each prompt the best of its candidates; of equals the first.

    Args:
        images: the candidates, all of the first prompt's, then the next one's.
        prompts: one per group of candidates.
        seeds: one per candidate.
        reward: who chooses.
        batch_size: images per call; a reward that says ``compares`` gets all candidates of one prompt instead.

    Raises:
        PluginError: the reward failed or broke its contract.
        ModelError: a reward is NaN or infinite.
    """
    count = len(images) // len(prompts)
    texts = [prompt for prompt in prompts for _ in range(count)]
    rewards: list[float] = []
    # A reward whose numbers depend on what else is there sees one prompt's candidates, all of them, at a time.
    at_once = count if getattr(reward.plugin, "compares", False) else batch_size
    for start in range(0, len(images), at_once):
        part = slice(start, start + at_once)
        rewards += calls.rank(reward, images[part], texts[part])
    chosen = []
    for start in range(0, len(images), count):
        values = tuple(rewards[start : start + count])
        index = values.index(max(values))
        chosen.append(Choice(images[start + index], seeds[start + index], values, index))
    return chosen
